//! Does the steps.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use cloister_runtime::abi::hypercall::Error as CallError;
use cloister_runtime::hypercall::{hypercall, null};
use cloister_runtime::{
    Dataplane, Fault, Partition, Reason, cpu, interrupts, paging, println, provoke, set_dataplane,
};
use program_exits::expect::{Expected, Mismatch};
use program_exits::step::{Action, End, Step};

use crate::Name;

/// A number that no hypercall has.
const BAD_CALL: u64 = 0xffff;
/// An MSR that no partition may have: IA32_VMX_BASIC (read-only on Intel, none
/// on AMD).
const DENIED_MSR: u32 = 0x480;
/// The port of POST codes.
const POST_PORT: u16 = 0x80;
const LARGE_PAGE: u64 = 2 << 20;
const HUGE_PAGE: u64 = 1 << 30;
const BREAKPOINT: u8 = 3;
/// #DB.
const DEBUG: u8 = 1;
const DIVIDE_ERROR: u8 = 0;

/// Where the next first touch goes, on whichever core; 0 before the first.
static UNTOUCHED: AtomicU64 = AtomicU64::new(0);
/// 1 once all memory is mapped, by whichever core.
static POPULATED: AtomicU64 = AtomicU64::new(0);

/// The state between two steps.
pub(crate) struct Run<'a> {
    partition: &'a Partition,
    name: Name,
    expected: Expected,
    /// What went wrong other than a counter.
    failures: u64,
    msr: u32,
    port: u16,
}

/// How one action went: its exit, and the exception it raised.
struct Outcome {
    reason: Option<Reason>,
    fault: Option<Fault>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(partition: &'a Partition, name: Name) -> Self {
        Self {
            partition,
            name,
            expected: Expected::new(partition.own_counters()),
            failures: 0,
            msr: DENIED_MSR,
            port: POST_PORT,
        }
    }

    /// Does `step` and prints it; `false` when it cannot be done here.
    pub(crate) fn step(&mut self, step: Step<'_>) -> bool {
        let name = self.name;
        match step {
            Step::Repeat(action, count) => return self.repeat(action, count),
            Step::Msr(index) => self.msr = index,
            Step::Port(port) => self.port = port,
            Step::Wait(cycles) => {
                cpu::wait(cycles);
                println!("{name}: wait {cycles}");
            }
            Step::Sti(on) => {
                if on {
                    interrupts::enable();
                } else {
                    interrupts::disable();
                }
                println!(
                    "{name}: sti {} interrupts {}",
                    u8::from(on),
                    interrupts::total()
                );
            }
            Step::Print(text) => println!("{name}: {text}"),
            Step::Counters => self.print_counters(),
            Step::Enter(flags) => self.enter(flags),
            Step::Refuse(flags) => self.refuse(flags),
            Step::Foreign(address) => self.foreign(address),
            Step::End(end) => self.end(end),
            Step::Finish(_) => {}
        }
        true
    }

    fn repeat(&mut self, action: Action, count: u64) -> bool {
        let name = self.name;
        let mut faults = 0u64;
        let mut last = None;
        for _ in 0..count {
            let Some(outcome) = self.act(action) else {
                return false;
            };
            if let Some(reason) = outcome.reason {
                self.expected.exits(reason, 1);
            }
            if let Some(fault) = outcome.fault {
                faults += 1;
                last = Some(fault);
            }
        }
        match last {
            Some(fault) => println!("{name}: {} {count} faults {faults} {fault}", action.name()),
            None => println!("{name}: {} {count}", action.name()),
        }
        true
    }

    /// One time; `None` when it cannot be done here, which is printed. A frame
    /// of its own in the backtrace of what is done right here.
    #[inline(never)]
    fn act(&mut self, action: Action) -> Option<Outcome> {
        let (reason, result) = match action {
            Action::Cpuid => {
                core::hint::black_box(cpu::cpuid(0, 0));
                (Some(Reason::Cpuid), Ok(()))
            }
            Action::Rdmsr => (Some(Reason::Rdmsr), provoke::read_msr(self.msr).map(|_| ())),
            Action::Wrmsr => (Some(Reason::Wrmsr), self.write_msr()?),
            Action::In => (
                Some(Reason::PortIn),
                provoke::read_port(self.port).map(|_| ()),
            ),
            Action::Out => (Some(Reason::PortOut), provoke::write_port(self.port)),
            Action::Hypercall => {
                self.returned("hypercall", null(), 0);
                (Some(Reason::Hypercall), Ok(()))
            }
            Action::Badcall => {
                let got = hypercall(BAD_CALL, 0, 0, 0);
                self.returned("badcall", got, CallError::UnknownCall as i64);
                (Some(Reason::Hypercall), Ok(()))
            }
            Action::Touch => (self.touch()?, Ok(())),
            Action::Xsetbv => (Some(Reason::Xsetbv), provoke::xsetbv()),
            Action::Virt => (Some(Reason::Virtualization), provoke::virtualization()),
            Action::Wbinvd => (Some(Reason::CacheControl), provoke::wbinvd()),
            Action::Invd => (Some(Reason::CacheControl), provoke::invd()),
            Action::Dr => (Some(Reason::ControlRegister), provoke::read_dr7()),
            Action::Monitor => (Some(Reason::Halt), provoke::monitor()),
            Action::Apic => (Some(Reason::ApicWrite), self.write_apic()?),
            Action::Tlb => {
                cpu::flush_tlb();
                (None, Ok(()))
            }
            Action::Int3 => {
                let result = provoke::breakpoint();
                self.raised("int3", result, BREAKPOINT);
                (None, result)
            }
            Action::Step => {
                let result = provoke::single_step();
                self.raised("step", result, DEBUG);
                (Some(Reason::Exception), result)
            }
            Action::Div0 => {
                let result = provoke::divide_by_zero();
                self.raised("div0", result, DIVIDE_ERROR);
                (None, result)
            }
        };
        Some(Outcome {
            reason,
            fault: result.err(),
        })
    }

    fn write_msr(&self) -> Option<Result<(), Fault>> {
        match provoke::write_msr(self.msr) {
            Ok(()) => Some(Ok(())),
            Err(provoke::WriteError::Fault(fault)) => Some(Err(fault)),
            Err(provoke::WriteError::Refused) => {
                println!(
                    "{}: args: msr: {:#x} might hold what this program stands on: wrmsr takes those of provoke::may_write_msr",
                    self.name, self.msr
                );
                None
            }
        }
    }

    fn write_apic(&self) -> Option<Result<(), Fault>> {
        match paging::map_device_page(provoke::APIC_BASE) {
            Ok(()) => Some(provoke::write_apic_eoi()),
            Err(error) => {
                println!("{}: apic: {error}", self.name);
                None
            }
        }
    }

    fn touch(&self) -> Option<Option<Reason>> {
        let memory = self.partition.memory();
        let stride = if memory >= HUGE_PAGE {
            HUGE_PAGE
        } else {
            LARGE_PAGE
        };
        let first = provoke::image_end().next_multiple_of(stride);
        let next = |last: u64| Some(last.max(first) + stride);
        let address = UNTOUCHED
            .fetch_update(Relaxed, Relaxed, next)
            .unwrap_or_default()
            .max(first);
        if address >= memory {
            println!(
                "{}: args: touch: {memory:#x} bytes of memory have only {} places {stride:#x} apart behind the program",
                self.name,
                memory.saturating_sub(first).div_ceil(stride)
            );
            return None;
        }
        if let Err(error) = provoke::read_physical(address) {
            println!("{}: touch {address:#x}: {error}", self.name);
            return None;
        }
        Some((POPULATED.load(Relaxed) == 0).then_some(Reason::NestedPageFault))
    }

    fn enter(&mut self, flags: Dataplane) {
        match set_dataplane(flags) {
            Ok(previous) => {
                self.expected.mode(flags);
                if flags.contains(Dataplane::POPULATE) {
                    POPULATED.store(1, Relaxed);
                }
                println!(
                    "{}: set_dataplane {:#x} was {:#x}",
                    self.name,
                    flags.bits(),
                    previous.bits()
                );
            }
            Err(error) => {
                self.expected.refused();
                self.fail(format_args!("set_dataplane {:#x}: {error}", flags.bits()));
            }
        }
    }

    fn refuse(&mut self, flags: Dataplane) {
        match set_dataplane(flags) {
            Ok(_) => {
                self.expected.mode(flags);
                self.fail(format_args!(
                    "set_dataplane {:#x} expected an error got none",
                    flags.bits()
                ));
            }
            Err(error) => {
                self.expected.refused();
                println!("{}: refused {:#x}: {error}", self.name, flags.bits());
            }
        }
    }

    fn foreign(&mut self, address: u64) {
        println!("{}: foreign {address:#x}", self.name);
        self.expected.exits(Reason::NestedPageFault, 1);
        match provoke::read_physical(address) {
            Ok(value) => self.fail(format_args!("foreign {address:#x} read {value:#x}")),
            Err(error) => self.fail(format_args!("foreign {address:#x}: {error}")),
        }
    }

    fn end(&self, end: End) -> ! {
        println!("{}: {}", self.name, end.name());
        match end {
            End::Triple => provoke::triple_fault(),
            End::Crash => provoke::crash(),
            End::Panic => panic!("as the arguments say"),
            End::Hlt => provoke::halt(),
            End::Loop => loop {
                cpu::pause();
            },
        }
    }

    fn returned(&mut self, what: &str, got: i64, expected: i64) {
        if got != expected {
            self.fail(format_args!("{what} returned {got} expected {expected}"));
        }
    }

    fn raised(&mut self, what: &str, result: Result<(), Fault>, expected: u8) {
        if !result.is_err_and(|fault| fault.vector == expected) {
            self.fail(format_args!(
                "{what} expected vector {expected} got {result:?}"
            ));
        }
    }

    fn fail(&mut self, what: core::fmt::Arguments<'_>) {
        self.failures += 1;
        println!("{}: MISMATCH {what}", self.name);
    }

    /// Compares the counters with what was provoked; prints and returns
    /// whether all is as it should be.
    pub(crate) fn check(&self) -> bool {
        let name = self.name;
        let counters = self.partition.own_counters();
        let equal = self.expected.check(counters, |mismatch| {
            let Mismatch {
                what,
                expected,
                got,
            } = mismatch;
            println!("{name}: MISMATCH {what} expected {expected} got {got}");
        });
        let ok = equal && self.failures == 0;
        if ok {
            println!("{name}: ok");
        }
        ok
    }

    /// Leaves a dataplane mode that the arguments left on.
    pub(crate) fn leave(&self) {
        if self.partition.own_counters().dataplane.load(Relaxed) != 0 {
            // `finish` follows in any case, and the report shows it if not.
            let _ = set_dataplane(Dataplane::empty());
        }
    }

    fn print_counters(&self) {
        let name = self.name;
        let counters = self.partition.own_counters();
        println!(
            "{name}: counters total={} since_quiesce={} interrupts={} dataplane={:#x} quiesce_count={}",
            counters.total.load(Relaxed),
            counters.since_quiesce.load(Relaxed),
            counters.interrupts_since_quiesce.load(Relaxed),
            counters.dataplane.load(Relaxed),
            counters.quiesce_count.load(Relaxed),
        );
        for (reason, counter) in Reason::ALL.iter().zip(&counters.reasons) {
            let total = counter.total.load(Relaxed);
            if total != 0 {
                println!(
                    "{name}: counters {}={total} since_quiesce={} cycles={} worst={}",
                    reason.name(),
                    counter.since_quiesce.load(Relaxed),
                    counter.cycles.load(Relaxed),
                    counter.worst.load(Relaxed),
                );
            }
        }
    }
}
