//! STRICT: any exit but `set_dataplane` and management's own kicks is a
//! violation.

use core::sync::atomic::{AtomicU64, Ordering};

use cloister_abi::record::{Record, Violation};
use cloister_abi::{Dataplane, PartitionState, Reason};
use cloister_manifest::OnViolation;

use crate::arch::console;
use crate::exit::{Next, hypercall};
use crate::partition::{Partition, backtrace, life};
use crate::run::Core;
use crate::trace;
use crate::virt::{Exit, Frequent, Vcpu, Vendor};
use crate::watch;

/// Looks at an exit of a watched core before it is served. [`Next::Park`]: it
/// was a violation that ends the run, and has been counted and recorded.
pub(crate) fn check<V: Vendor>(core: &mut Core<V>, exit: &Exit, entered: u64) -> Next {
    if !core.dataplane.contains(Dataplane::STRICT) {
        return Next::Resume;
    }
    let Some(partition) = core.partition else {
        return Next::Resume;
    };
    let allowed = match exit {
        Exit::Frequent(Frequent::Hypercall) => hypercall::is_set_dataplane(core),
        Exit::Nmi => core.shared.has_requests() || core.shared.owes_kick(),
        _ => false,
    };
    if allowed {
        return Next::Resume;
    }
    let reason = crate::exit::reason(core, exit);
    if reason == Reason::Interrupt {
        core.last_source = watch::waiting(core);
    }
    record(core, partition, exit, reason, entered);
    if partition.config.on_violation == OnViolation::Report {
        return Next::Resume;
    }
    let cycles = crate::arch::cpu::tsc().wrapping_sub(entered);
    let rip = core.vcpu.rip();
    core.account(reason, rip, cycles);
    core.account_quiet(reason);
    let about = trace::about(core, exit);
    trace::record(core, reason, about, rip, entered, cycles);
    if partition
        .life
        .change(PartitionState::Running, PartitionState::Violated)
    {
        if let OnViolation::Restart { max, window } = partition.config.on_violation {
            life::restart_within(partition, max, window);
        }
        life::stop_others(core);
    }
    Next::Park
}

/// Shows the violation in the status table.
fn show<V: Vendor>(partition: &Partition<V>, violation: &Violation<&str>, reason: Reason) {
    let status = partition.life.status;
    let set = |to: &AtomicU64, value: u64| to.store(value, Ordering::Relaxed);
    status
        .violation_core
        .store(violation.core, Ordering::Relaxed);
    status
        .violation_reason
        .store(reason as u32, Ordering::Relaxed);
    set(&status.violation_rip, violation.rip);
    set(&status.violation_cr3, violation.cr3);
    set(&status.violation_tsc, violation.tsc);
    set(&status.frames, u64::from(violation.frames));
    for (to, from) in status.backtrace.iter().zip(violation.backtrace) {
        set(to, from);
    }
    status.violations.fetch_add(1, Ordering::Release);
}

fn record<V: Vendor>(
    core: &mut Core<V>,
    partition: &Partition<V>,
    exit: &Exit,
    reason: Reason,
    entered: u64,
) {
    let frames = backtrace::take::<V>(core.guest, &core.vcpu);
    let detail = trace::describe(core, exit);
    let violation = Violation {
        name: partition.name(),
        core: u32::try_from(core.number).unwrap_or(u32::MAX),
        reason: reason.name(),
        detail: detail.as_str(),
        tsc: entered,
        rip: core.vcpu.rip(),
        cr3: core.vcpu.cr3(),
        rflags: core.vcpu.rflags(),
        registers: core.vcpu.registers().gpr,
        frames: u32::try_from(frames.len()).unwrap_or(0),
        backtrace: backtrace::padded(&frames),
    };
    show(partition, &violation, reason);
    console::lock().record(&Record::Violation(violation));
    log::info!(
        "partition \"{}\" broke STRICT: {} ({detail}) at rip {:#x}",
        partition.name(),
        reason.name(),
        core.vcpu.rip()
    );
}
