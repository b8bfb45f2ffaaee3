//! One core and its loop: wait to be started, run the guest, account for each
//! exit, until something parks the core.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use cloister_abi::{CoreCounters, Dataplane, PartitionState, Reason};
use cloister_core::policy::cpuid::CpuidCache;

use crate::arch::percpu::{self, PerCpu};
use crate::arch::{apic, cpu, extended};
use crate::cores::{self, CoreShared, Request};
use crate::exit::{self, Next, Served};
use crate::partition::{Partition, life, load, violation};
use crate::report;
use crate::system::System;
use crate::trace;
use crate::virt::guest::Guest;
use crate::virt::{Exit, Exited, Frequent, GuestKind, Server, Vcpu, VcpuConfig, Vendor, make_vcpu};
use crate::watch::Source;

/// Everything a core has at hand while it serves its guest.
pub(crate) struct Core<V: Vendor> {
    pub(crate) vcpu: V::Vcpu,
    pub(crate) number: usize,
    pub(crate) system: &'static System<V>,
    pub(crate) guest: &'static Guest<V>,
    /// The partition; `None` for Linux.
    pub(crate) partition: Option<&'static Partition<V>>,
    pub(crate) shared: &'static CoreShared,
    pub(crate) counters: &'static CoreCounters,
    pub(crate) cpuid: &'static CpuidCache,
    /// Flags in force.
    pub(crate) dataplane: Dataplane,
    /// Those that the program asked for: the operator may impose DEBUG, on
    /// Linux's cores as well.
    pub(crate) asked: Dataplane,
    /// Its guest has ports that the hypervisor answers: it is Linux, or has PCI
    /// functions.
    pub(crate) answers_ports: bool,
    /// QUIESCE (which STRICT implies) or DEBUG is in force: every entry is then
    /// one with attention, so that other cores' exits do not pay for them.
    pub(crate) watched: bool,
    /// The last interrupt that exited, and who sent it.
    pub(crate) last_source: Source,
    /// Refusals that are yet to be printed (`report::refused`).
    pub(crate) refusals: Cell<u32>,
    /// A start-up IPI came together with the INIT that parks this core.
    pub(crate) start_up_next: bool,
}

/// Where every core goes once the system is built: boot core and others alike.
pub(crate) extern "sysv64" fn enter<V: Vendor>(
    system: &'static System<V>,
    data: &'static PerCpu,
) -> ! {
    let number = data.core() as usize;
    let partition = system.partition_of(number);
    let linux = system
        .linux
        .as_ref()
        .filter(|linux| linux.guest.cpus.contains(number));
    let guest = match (partition, linux) {
        (Some(partition), _) => &partition.guest,
        (None, Some(linux)) => &linux.guest,
        (None, None) => idle(system, number),
    };
    match build(system, number, guest, partition) {
        Ok(mut core) => core.serve(),
        Err(error) => panic!("core {number}: {error}"),
    }
}

/// A core that nobody owns: at most, it is told of devices' faults.
fn idle<V: Vendor>(system: &System<V>, number: usize) -> ! {
    loop {
        cpu::wait_for_nmi();
        percpu::this().take_nmi();
        if let Some(iommu) = &system.iommu
            && iommu.tells(number)
        {
            crate::iommu::report::announced(system);
        }
    }
}

fn build<V: Vendor>(
    system: &'static System<V>,
    number: usize,
    guest: &'static Guest<V>,
    partition: Option<&'static Partition<V>>,
) -> Result<Core<V>, heapless::String<160>> {
    let say = |error: &dyn core::fmt::Display| {
        let mut text = heapless::String::new();
        let _ = core::fmt::write(&mut text, format_args!("{error}"));
        text
    };
    let config: VcpuConfig<'_, V> = VcpuConfig {
        nested_root: guest.nested_root(),
        asid: guest.asid,
        permissions: &guest.permissions,
        kind: guest.kind,
    };
    let vcpu = make_vcpu(&config, system.pool).map_err(|error| say(&error))?;
    if let Some(partition) = partition {
        // Also what the firmware left open for the boot core (LINT0).
        apic::silence(partition.config.apic);
    }
    let shared = cores::core(number);
    let counters = shared.counters().ok_or_else(|| say(&"no counters"))?;
    let cpuid = exit::cpuid::cache(system, guest, partition).map_err(|error| say(&error))?;
    let mut core = Core {
        vcpu,
        number,
        system,
        guest,
        partition,
        shared,
        counters,
        cpuid,
        dataplane: Dataplane::empty(),
        asked: Dataplane::empty(),
        answers_ports: partition.is_none_or(|partition| !partition.devices.is_empty()),
        watched: false,
        last_source: Source::default(),
        refusals: Cell::new(report::REFUSALS),
        start_up_next: false,
    };
    if system
        .manifest
        .linux
        .as_ref()
        .is_some_and(|linux| linux.debug.contains(number))
        && let Some(watch) = shared.watch()
    {
        watch.set_until(u64::MAX);
    }
    core.expose_interrupts(false);
    core.set_flags(Dataplane::empty());
    core.report_control_words();
    Ok(core)
}

/// How a core goes on that is not in its guest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Not before it is asked.
    Wait,
    /// At the guest's entry point.
    Begin,
    /// Where a start-up IPI with this vector says.
    Sipi(u8),
}

impl<V: Vendor> Core<V> {
    /// The core's life.
    fn serve(&mut self) -> ! {
        let starts_now = match self.partition {
            Some(partition) => partition.config.autostart,
            None => self.is_linux_boot_core(),
        };
        let mut start = if starts_now {
            Start::Begin
        } else {
            Start::Wait
        };
        loop {
            if start == Start::Wait {
                start = self.wait_for_start();
                continue;
            }
            if self.begin(start) {
                self.shared.set_running(true);
                self.run();
                self.shared.set_running(false);
                self.leave_dataplane();
            }
            start = self.parked();
        }
    }

    /// Runs the guest until it parks.
    #[inline(never)]
    fn run(&mut self) {
        while self.next_exit() == Next::Resume {}
    }

    /// Enters the guest and serves its next exit: the hot path.
    #[inline(always)]
    fn next_exit(&mut self) -> Next {
        let Exited { code, tsc } = self.vcpu.run();
        match V::Vcpu::serve_frequent(&mut Round { core: self, tsc }, code) {
            Ok(next) => next,
            Err(code) => self.rare_exit(code, tsc),
        }
    }

    /// The same where it is not an everyday exit.
    #[cold]
    #[inline(never)]
    fn rare_exit(&mut self, code: u64, tsc: u64) -> Next {
        let (code, tsc) = if code == V::Vcpu::ATTENTION {
            let Exited { code, tsc } = self.vcpu.run_with_attention();
            (code, tsc)
        } else {
            (code, tsc)
        };
        let Some(exit) = self.vcpu.exit(code) else {
            return Next::Resume;
        };
        if self.watched {
            return self.watched_exit(exit, tsc);
        }
        let rip = self.vcpu.rip();
        let Served { reason, next, .. } = exit::serve(self, exit);
        self.account(reason, rip, cpu::tsc().wrapping_sub(tsc));
        next
    }

    /// Serves an exit of a core that is [`Self::watched`].
    fn watched_exit(&mut self, exit: Exit, tsc: u64) -> Next {
        if violation::check(self, &exit, tsc) == Next::Park {
            return Next::Park;
        }
        let rip = self.vcpu.rip();
        let about = trace::about(self, &exit);
        let Served {
            reason,
            next,
            exempt,
        } = exit::serve(self, exit);
        let cycles = cpu::tsc().wrapping_sub(tsc);
        self.account(reason, rip, cycles);
        if !exempt && self.dataplane.contains(Dataplane::QUIESCE) {
            self.account_quiet(reason);
        }
        trace::record(self, reason, about, rip, tsc, cycles);
        if self.partition.is_none() && !self.debug_imposed() {
            self.set_flags(self.asked);
        }
        next
    }

    /// Counts one exit.
    #[inline(always)]
    pub(crate) fn account(&self, reason: Reason, rip: u64, cycles: u64) {
        let counter = &self.counters.reasons[reason as usize];
        add(&self.counters.total, 1);
        add(&counter.total, 1);
        add(&counter.cycles, cycles);
        if cycles > counter.worst.load(Ordering::Relaxed) {
            counter.worst.store(cycles, Ordering::Relaxed);
        }
        counter.last_rip.store(rip, Ordering::Relaxed);
    }

    /// Counts one exit of a core that was to be quiet.
    pub(crate) fn account_quiet(&self, reason: Reason) {
        add(&self.counters.since_quiesce, 1);
        add(&self.counters.reasons[reason as usize].since_quiesce, 1);
    }

    fn is_linux_boot_core(&self) -> bool {
        self.guest.kind == GuestKind::Linux && self.guest.cpus.first() == Some(self.number)
    }

    /// Puts the vCPU into the state in which its guest begins. Says whether the
    /// guest is still to run: another core may have ended it meanwhile.
    fn begin(&mut self, start: Start) -> bool {
        self.vcpu.flush_nested();
        extended::reset();
        if let Start::Sipi(vector) = start {
            self.vcpu.reset_sipi(vector);
            self.set_flags(Dataplane::empty());
            return true;
        }
        let entry = match self.partition {
            Some(partition) if partition.life.state() == PartitionState::Running => {
                if partition.config.apic {
                    exit::kick::reset_apic::<V>();
                    apic::silence(true);
                }
                let index = partition.config.cpus.index_of(self.number).unwrap_or(0);
                load::entry(partition, index)
            }
            Some(_) => None,
            None => self.system.linux.as_ref().map(|linux| linux.entry),
        };
        if let Some(entry) = &entry {
            self.vcpu.reset_long(entry);
            self.last_source = Source::default();
            self.set_flags(Dataplane::empty());
        }
        entry.is_some()
    }

    /// Waits for a request, and serves it.
    fn wait_for_start(&mut self) -> Start {
        V::wait_for_nmi();
        percpu::this().take_nmi();
        let requests = self.shared.take();
        if !requests.is_empty() {
            self.shared.note_served();
        }
        if requests.has(Request::Hold) {
            cores::stay_held(self.number);
        }
        if requests.has(Request::Renew)
            && let Some(partition) = self.partition
        {
            life::renew_and_start(partition, self.number);
            Start::Begin
        } else if requests.has(Request::Start) {
            Start::Begin
        } else if requests.has(Request::Sipi) && self.guest.kind == GuestKind::Linux {
            Start::Sipi(self.shared.sipi_vector())
        } else {
            Start::Wait
        }
    }

    /// The core has left its guest. Says what comes next.
    fn parked(&mut self) -> Start {
        if let Some(partition) = self.partition {
            life::core_parked(self, partition);
        }
        if core::mem::take(&mut self.start_up_next) {
            return Start::Sipi(self.shared.sipi_vector());
        }
        Start::Wait
    }

    /// Flags off, and what they counted is frozen.
    pub(crate) fn leave_dataplane(&mut self) {
        self.update_interrupts();
        self.set_flags(Dataplane::empty());
    }

    /// Puts `flags` in force, and DEBUG if the operator imposes it.
    pub(crate) fn set_flags(&mut self, flags: Dataplane) {
        self.asked = flags;
        let flags = if self.debug_imposed() {
            flags | Dataplane::DEBUG
        } else {
            flags
        };
        let debug = flags.contains(Dataplane::DEBUG);
        if debug != self.dataplane.contains(Dataplane::DEBUG) {
            self.expose_interrupts(debug);
            if self.shared.is_running() {
                self.report_control_words();
            }
        }
        self.dataplane = flags;
        self.watched = flags.intersects(Dataplane::QUIESCE | Dataplane::DEBUG);
        self.vcpu.set_watched(self.watched);
        self.counters
            .dataplane
            .store(flags.bits(), Ordering::Relaxed);
    }

    /// Whether the operator imposes DEBUG now.
    fn debug_imposed(&self) -> bool {
        match self.partition {
            Some(partition) => partition.debug_imposed(),
            None => {
                let watch = self.shared.watch();
                watch.is_some_and(|watch| watch.is_due(cpu::tsc()))
            }
        }
    }

    /// The operator has changed what is imposed.
    pub(crate) fn impose_flags(&mut self) {
        self.set_flags(self.asked);
        if self
            .partition
            .is_some_and(|partition| !partition.config.apic)
        {
            // What comes is to be seen under DEBUG; otherwise it is not to be
            // taken at all.
            apic::silence(self.dataplane.contains(Dataplane::DEBUG));
        }
    }

    /// Has interrupts exit, so that they are named, or go straight to the
    /// guest.
    fn expose_interrupts(&mut self, on: bool) {
        if let Some(watch) = self.shared.watch() {
            if on && self.partition.is_none() {
                watch.table.clear(cpu::tsc());
            }
            watch.set_on(on);
        }
        self.vcpu.set_interrupt_exiting(on);
    }

    /// For the report: what is off, by the processor's own words.
    fn report_control_words(&self) {
        self.vcpu
            .control_words(&mut |name, value| report::control(self.number, name, value));
    }

    /// Adds the vectors that are pending or in service to the interrupts since
    /// quiet: a partition without a local APIC cannot end them, so what came
    /// is still there.
    pub(crate) fn update_interrupts(&self) {
        if self.dataplane.contains(Dataplane::QUIESCE) {
            let seen = u64::from(apic::interrupts_seen());
            let counter = &self.counters.interrupts_since_quiesce;
            counter.fetch_max(seen, Ordering::Relaxed);
        }
    }
}

/// A round of the hot path: serves the exit that came at `tsc`, and counts it.
struct Round<'a, V: Vendor> {
    core: &'a mut Core<V>,
    tsc: u64,
}

impl<V: Vendor> Server<V::Vcpu> for Round<'_, V> {
    type Output = Next;

    #[inline(always)]
    fn vcpu(&mut self) -> &mut V::Vcpu {
        &mut self.core.vcpu
    }

    #[inline(always)]
    fn serve(&mut self, exit: Frequent) -> Next {
        // Where it left: the handlers move RIP on.
        let rip = self.core.vcpu.rip();
        let Served { reason, next, .. } = exit::serve_frequent(self.core, exit);
        self.core
            .account(reason, rip, cpu::tsc().wrapping_sub(self.tsc));
        next
    }
}

/// Adds to a counter of which this core is the only writer: a plain load and
/// store do.
#[inline(always)]
fn add(counter: &AtomicU64, amount: u64) {
    let value = counter.load(Ordering::Relaxed).wrapping_add(amount);
    counter.store(value, Ordering::Relaxed);
}
