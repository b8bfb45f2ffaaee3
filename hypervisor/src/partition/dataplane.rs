//! `set_dataplane`: the contract of `cloister_abi::Dataplane`, enforced.

use core::sync::atomic::Ordering;

use cloister_abi::hypercall::{BusySource, Error};
use cloister_abi::{Dataplane, Reason};
use cloister_core::nested::{MemoryType, Rights};
use cloister_core::policy::dataplane::accept;

use crate::arch::{apic, cpu};
use crate::exit::{Next, kick};
use crate::partition::Partition;
use crate::routes;
use crate::run::Core;
use crate::trace;
use crate::virt::{Vcpu, Vendor, reg};

/// How long a core is given to become quiet: rounds, each with a pause. A
/// bound in work, not in time, so that it holds on any machine.
const ROUNDS: u32 = 20_000;

/// How often the routes of devices are looked at before one that goes to this
/// core counts as there to stay.
const ROUTE_LOOKS: u32 = 3;

/// How many requests of management are served while a core waits to be quiet.
/// With more, the operator is at work on it.
const REQUESTS: u32 = 3;

/// Serves the call. The value for RAX: previous flags or error.
pub(crate) fn set<V: Vendor>(
    core: &mut Core<V>,
    partition: &'static Partition<V>,
    bits: u64,
) -> (i64, Next) {
    let flags = match accept(bits, partition.config.dataplane) {
        Ok(flags) => flags,
        Err(error) => return (error as i64, Next::Resume),
    };
    if flags.contains(Dataplane::POPULATE) && !populate(core, partition) {
        return (Error::NotAllowed as i64, Next::Resume);
    }
    let previous = core.asked;
    let traced_anyway = core.watched;
    if flags.contains(Dataplane::QUIESCE) {
        match quiesce(core, partition, flags) {
            Ok(Next::Resume) => {}
            Ok(Next::Park) => return (0, Next::Park),
            Err(source) => return (source.to_return(), Next::Resume),
        }
        core.update_interrupts();
        core.set_flags(flags);
        zero(core);
    } else {
        core.update_interrupts();
        core.set_flags(flags);
    }
    if !flags.is_empty() {
        core.counters
            .last_dataplane
            .store(flags.bits(), Ordering::Relaxed);
    }
    if !traced_anyway {
        // The call that enters the mode ends in it.
        let rip = core.vcpu.rip();
        let about = core.vcpu.register(reg::RAX);
        trace::record(core, Reason::Hypercall, about, rip, cpu::tsc(), 0);
    }
    (previous.bits().cast_signed(), Next::Resume)
}

/// The counters that start anew when a core has become quiet.
fn zero<V: Vendor>(core: &Core<V>) {
    let counters = core.counters;
    counters.since_quiesce.store(0, Ordering::Relaxed);
    counters
        .interrupts_since_quiesce
        .store(0, Ordering::Relaxed);
    for reason in &counters.reasons {
        reason.since_quiesce.store(0, Ordering::Relaxed);
    }
    counters.quiesce_count.fetch_add(1, Ordering::Relaxed);
    counters.quiesce_tsc.store(cpu::tsc(), Ordering::Relaxed);
}

/// Maps all of the partition's RAM. Once is enough: nothing is ever unmapped.
///
/// A GiB of which something was touched before, page by page, is mapped anew if
/// one page fits. Another core of the partition that finds a hole there
/// meanwhile exits, waits for the lock, and finds it mapped.
fn populate<V: Vendor>(core: &mut Core<V>, partition: &Partition<V>) -> bool {
    if partition.life.populated.load(Ordering::Acquire) {
        return true;
    }
    let (base, length) = (partition.block.range().start, partition.block.len());
    let mapped = partition.guest.with_nested(|nested, tables| {
        let all = nested.complete(tables, 0, base, length, Rights::RWX, MemoryType::WriteBack);
        all.is_ok()
    });
    core.vcpu.flush_nested();
    if mapped {
        partition.life.populated.store(true, Ordering::Release);
    }
    mapped
}

/// Waits until nothing can reach the core any more.
///
/// A partition without a local APIC has everything silenced for it; one with
/// an APIC has to do it itself, and is told what is still live.
fn quiesce<V: Vendor>(
    core: &mut Core<V>,
    partition: &'static Partition<V>,
    flags: Dataplane,
) -> Result<Next, BusySource> {
    let own_apic = partition.config.apic;
    let mut source = BusySource::Management;
    let mut looks = ROUTE_LOOKS;
    let mut requests = REQUESTS;
    for _ in 0..ROUNDS {
        if !own_apic {
            apic::silence(true);
        }
        if core.shared.has_requests() {
            core.shared.owe_kick();
            if kick::serve(core) == Next::Park {
                return Ok(Next::Park);
            }
            source = BusySource::Management;
            let Some(left) = requests.checked_sub(1) else {
                return Err(source);
            };
            requests = left;
        } else if let Some(live) = live_source() {
            source = live;
            if !own_apic {
                apic::hold_exception_vectors(V::drain_interrupt);
            }
        } else if let Some(live) = routed(core) {
            // Whoever has set a route up has to take it away himself.
            source = live;
            looks -= 1;
            if looks == 0 {
                return Err(source);
            }
        } else {
            if !own_apic {
                // Under DEBUG what comes is to be seen; otherwise it is not to
                // be taken at all.
                apic::silence(flags.contains(Dataplane::DEBUG));
            }
            return Ok(Next::Resume);
        }
        cpu::pause();
    }
    Err(source)
}

/// Whether a device's interrupt goes to this core, or that cannot be told
/// because another core does not stand still.
fn routed<V: Vendor>(core: &Core<V>) -> Option<BusySource> {
    match routes::any(core.system, core.number) {
        Some(false) => None,
        Some(true) => Some(BusySource::Route),
        None => Some(BusySource::Management),
    }
}

/// What could still interrupt this core.
fn live_source() -> Option<BusySource> {
    if apic::timer_armed() {
        Some(BusySource::Timer)
    } else if apic::live_lvt().is_some() {
        Some(BusySource::Lvt)
    } else if apic::in_service().is_some() {
        Some(BusySource::InService)
    } else if apic::pending().is_some() {
        Some(BusySource::Pending)
    } else {
        None
    }
}
