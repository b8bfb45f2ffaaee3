//! Tries what test cases need of the local APIC, restarts and several cores.
//! Words of the argument string, done in order by each core:
//!
//! | word | what it does |
//! |---|---|
//! | `core=N`, `core=all` | only core N does what follows; all do |
//! | `meet` | waits until all cores have come to as many of these |
//! | `enter=A+B`, `leave` | set_dataplane, which must succeed |
//! | `busy=SOURCE` | set_dataplane(QUIESCE), which must fail with this source and change nothing |
//! | `until-busy=SOURCE` | set_dataplane(QUIESCE) until it fails with this source |
//! | `timer=COUNT` | arms the APIC timer, vector 0x40, one shot |
//! | `lvt` | unmasks the LVT entry of APIC errors (xAPIC only) |
//! | `quiet` | stops the timer and masks both |
//! | `send=VECTOR` | an interrupt to this core: one apic-write exit |
//! | `ipi=ID:VECTOR` | an interrupt to the core with APIC ID ID |
//! | `nmi=ID` | an NMI to the core with APIC ID ID |
//! | `msi=ID:VECTOR`, `msi-off` | aims the MSI of its device `edu` at the core with APIC ID ID; turns it off |
//! | `raise` | has that device raise its interrupt |
//! | `inside=VECTOR` | the same as `send`, with a handler that does `busy=in-service-vector` |
//! | `sti`, `cli` | interrupts on, off |
//! | `caught=N` | with interrupts off: waits until N were caught since quiesce, by DEBUG |
//! | `taken=N` | waits until the partition took N interrupts in all |
//! | `exits=N`, `interrupts=N` | compares this core's counters since quiesce |
//! | `dirty` | checks that memory is as after a start, then makes it otherwise |
//! | `cpuid` | one exit |
//! | `wait=CYCLES`, `loop` | by TSC; for ever |
//! | `until=N` | the end, with code 0, once the partition was restarted N times |
//! | `finish=CODE` | the end; without it 0, or 1 if something was not as it must be |
//!
//! At the end a line `probe: ok`, or a line `probe: MISMATCH …` for each
//! difference.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

mod edu;

use core::fmt;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use cloister_runtime::apic::{self, LVT_MASKED, Register};
use cloister_runtime::{
    Apic, BusySource, Dataplane, DataplaneError, Partition, args, cpu, entry, finish, interrupts,
    println, set_dataplane,
};

entry!(main);

const TIMER_VECTOR: u32 = 0x40;
const ERROR_VECTOR: u32 = 0x41;
/// Divide configuration: by 128 (Intel SDM vol. 3, "Divide Configuration
/// Register").
const DIVIDE_BY_128: u32 = 0b1010;
/// How long `taken` and `meet` wait, TSC cycles.
const PATIENCE: u64 = 100_000_000_000;

/// What [`PRISTINE`] holds in the image.
const MARK: u64 = 0x0123_4567_89ab_cdef;
static PRISTINE: AtomicU64 = AtomicU64::new(MARK);
static ZERO: AtomicU64 = AtomicU64::new(0);
/// How often cores have come to `meet`.
static ARRIVED: AtomicU64 = AtomicU64::new(0);
/// What `set_dataplane` in a handler returned, negated and shifted by one.
static INSIDE: AtomicU64 = AtomicU64::new(0);

fn main(partition: &Partition) -> u64 {
    let mut probe = Probe {
        partition,
        failures: 0,
        meetings: 0,
    };
    let mut mine = true;
    for (key, value) in args::pairs(partition.args()) {
        match key {
            "core" => mine = value == "all" || args::number(value) == Ok(partition.core().into()),
            "finish" if mine => {
                println!("probe: finish {value}");
                leave();
                finish(args::number(value).unwrap_or(1));
            }
            "until" if mine => {
                let wanted = args::number(value).unwrap_or(u64::MAX);
                if u64::from(partition.restarts()) >= wanted {
                    finish(0);
                }
            }
            _ if mine && !probe.step(key, value) => {
                println!("probe: cannot do {key}={value}");
                return 2;
            }
            _ => {}
        }
    }
    if probe.failures > 0 {
        return 1;
    }
    println!("probe: ok");
    0
}

fn leave() {
    // Leaving cannot fail.
    let _ = set_dataplane(Dataplane::empty());
}

struct Probe<'a> {
    partition: &'a Partition,
    failures: u64,
    meetings: u64,
}

impl Probe<'_> {
    /// `false` for a word that does not exist or is impossible here.
    fn step(&mut self, key: &str, value: &str) -> bool {
        let number = args::number(value).ok();
        match (key, number) {
            ("enter", _) => args::flags(value).is_some_and(|flags| self.enter(flags)),
            ("leave", _) => self.enter(Dataplane::empty()),
            ("busy", _) => self.busy(value),
            ("until-busy", _) => self.until_busy(value),
            ("sti", _) => {
                interrupts::enable();
                true
            }
            ("cli", _) => {
                interrupts::disable();
                true
            }
            ("caught", Some(count)) => self.caught(count),
            ("taken", Some(count)) => self.taken(count),
            ("exits", Some(count)) => {
                let got = self.partition.own_counters().since_quiesce.load(Relaxed);
                self.compare("exits since quiesce", got, count)
            }
            ("interrupts", Some(count)) => {
                let counters = self.partition.own_counters();
                let got = counters.interrupts_since_quiesce.load(Relaxed);
                self.compare("interrupts since quiesce", got, count)
            }
            ("msi", _) => {
                pair(value).is_some_and(|message| edu::aim(self.partition, Some(message)))
            }
            ("msi-off", _) => edu::aim(self.partition, None),
            ("raise", _) => edu::raise(self.partition),
            ("meet", _) => self.meet(),
            ("dirty", _) => self.dirty(),
            ("cpuid", _) => {
                core::hint::black_box(cpu::cpuid(0, 0));
                true
            }
            ("wait", Some(cycles)) => {
                cpu::wait(cycles);
                true
            }
            ("loop", _) => loop {
                cpu::pause();
            },
            _ => self
                .partition
                .apic()
                .is_some_and(|apic| self.apic_step(apic, key, value)),
        }
    }

    fn apic_step(&mut self, apic: Apic, key: &str, value: &str) -> bool {
        let vector = args::number(value).ok().and_then(|v| u8::try_from(v).ok());
        match (key, vector) {
            ("timer", _) => {
                let count = args::number(value).ok().and_then(|v| u32::try_from(v).ok());
                count.is_some_and(|count| {
                    write(apic, Register::TimerDivide, DIVIDE_BY_128)
                        && write(apic, Register::LvtTimer, TIMER_VECTOR)
                        && write(apic, Register::TimerInitialCount, count)
                })
            }
            ("lvt", _) => write(apic, Register::LvtError, ERROR_VECTOR),
            ("quiet", _) => {
                write(apic, Register::TimerInitialCount, 0)
                    && write(apic, Register::LvtTimer, LVT_MASKED)
                    && (apic == Apic::X2apic || write(apic, Register::LvtError, LVT_MASKED))
            }
            ("send", Some(vector)) => apic::send_self(apic, vector).is_ok(),
            ("inside", Some(vector)) => self.inside(apic, vector),
            ("ipi", _) => ipi(apic, value),
            ("nmi", Some(id)) => apic::send_nmi(apic, id.into()).is_ok(),
            _ => false,
        }
    }

    fn enter(&mut self, flags: Dataplane) -> bool {
        match set_dataplane(flags) {
            Ok(previous) => println!(
                "probe: set_dataplane {:#x} was {:#x}",
                flags.bits(),
                previous.bits()
            ),
            Err(error) => self.fail(format_args!("set_dataplane {:#x}: {error}", flags.bits())),
        }
        true
    }

    fn busy(&mut self, source: &str) -> bool {
        let before = self.partition.own_counters().dataplane.load(Relaxed);
        match set_dataplane(Dataplane::QUIESCE) {
            Err(DataplaneError::Busy(got)) if got.name() == source => {
                println!("probe: busy {source}");
            }
            other => self.fail(format_args!("expected busy {source} got {other:?}")),
        }
        let after = self.partition.own_counters().dataplane.load(Relaxed);
        self.compare("flags after an error", after, before)
    }

    fn until_busy(&mut self, source: &str) -> bool {
        let met = wait_until(|| {
            let result = set_dataplane(Dataplane::QUIESCE);
            matches!(result, Err(DataplaneError::Busy(got)) if got.name() == source)
        });
        println!("probe: until busy {source}");
        self.compare("busy at last", u64::from(met), 1)
    }

    /// Takes the interrupt, and asks for QUIESCE in its handler.
    fn inside(&mut self, apic: Apic, vector: u8) -> bool {
        if interrupts::set_handler(vector, ask_inside).is_err()
            || apic::send_self(apic, vector).is_err()
        {
            return false;
        }
        let before = interrupts::count(vector);
        interrupts::enable();
        let taken = wait_until(|| interrupts::count(vector) > before && INSIDE.load(Relaxed) != 0);
        interrupts::disable();
        let expected = BusySource::InService.to_return().unsigned_abs();
        self.compare("interrupts taken", u64::from(taken), 1);
        self.compare("error in a handler", INSIDE.load(Relaxed) >> 1, expected)
    }

    fn caught(&mut self, count: u64) -> bool {
        let caught = &self.partition.own_counters().interrupts_since_quiesce;
        wait_until(|| {
            // Bochs lets interrupts exit with RFLAGS.IF = 0 only once the guest
            // has executed CLI; a processor always does (Intel SDM vol. 3,
            // "External-interrupt exiting").
            interrupts::disable();
            caught.load(Relaxed) >= count
        });
        self.compare("interrupts caught", caught.load(Relaxed), count)
    }

    fn taken(&mut self, count: u64) -> bool {
        wait_until(|| interrupts::total() >= count);
        self.compare("interrupts taken", interrupts::total(), count)
    }

    fn meet(&mut self) -> bool {
        self.meetings += 1;
        let all = self.meetings * u64::from(self.partition.cores());
        ARRIVED.fetch_add(1, Relaxed);
        let met = wait_until(|| ARRIVED.load(Relaxed) >= all);
        self.compare("all cores met", u64::from(met), 1)
    }

    /// Data, zeroed data and memory behind the image are as after a start.
    fn dirty(&mut self) -> bool {
        self.compare("restarted data", PRISTINE.swap(!MARK, Relaxed), MARK);
        self.compare("restarted zeroed data", ZERO.swap(1, Relaxed), 0);
        let restarts = self.partition.restarts();
        println!("probe: clean at restart {restarts}");
        true
    }

    fn compare(&mut self, what: &str, got: u64, expected: u64) -> bool {
        if got != expected {
            self.fail(format_args!("{what} expected {expected} got {got}"));
        }
        true
    }

    fn fail(&mut self, what: fmt::Arguments<'_>) {
        self.failures += 1;
        println!("probe: MISMATCH {what}");
    }
}

fn ask_inside(_vector: u8) {
    let error = match set_dataplane(Dataplane::QUIESCE) {
        Err(DataplaneError::Busy(source)) => source.to_return().unsigned_abs(),
        _ => 0,
    };
    INSIDE.store(error << 1 | 1, Relaxed);
}

fn write(apic: Apic, register: Register, value: u32) -> bool {
    apic::write(apic, register, value).is_ok()
}

fn ipi(apic: Apic, value: &str) -> bool {
    pair(value).is_some_and(|(id, vector)| apic::send(apic, id, vector).is_ok())
}

/// `ID:VECTOR`.
fn pair(value: &str) -> Option<(u32, u8)> {
    let (id, vector) = value.split_once(':')?;
    let number = |text| args::number(text).ok();
    let id = u32::try_from(number(id)?).ok()?;
    Some((id, u8::try_from(number(vector)?).ok()?))
}

/// Whether `done` came true in bounded time.
fn wait_until(done: impl Fn() -> bool) -> bool {
    let start = cpu::rdtsc();
    while !done() {
        if cpu::rdtsc().wrapping_sub(start) > PATIENCE {
            return false;
        }
        cpu::pause();
    }
    true
}
