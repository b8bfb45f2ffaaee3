//! The life cycle: finished, failed, stopped, restarted; and the end of the
//! whole run.

use core::fmt::Write as _;
use core::sync::atomic::Ordering;

use cloister_abi::{LinuxState, PartitionState};

use crate::arch::cpu;
use crate::control::statistics::set_text;
use crate::cores::{self, Request};
use crate::exit::Next;
use crate::partition::{Partition, load, operator};
use crate::pci;
use crate::report;
use crate::run::Core;
use crate::system::System;
use crate::virt::Vendor;

/// The program on this core called `finish(code)`. The partition is finished
/// when all of its cores have.
pub(crate) fn finish<V: Vendor>(partition: &Partition<V>, code: u64) -> Next {
    partition.life.note_exit_code(code);
    let finished = partition.life.finished.fetch_add(1, Ordering::AcqRel) + 1;
    if finished as usize >= partition.config.cpus.len() {
        partition
            .life
            .change(PartitionState::Running, PartitionState::Finished);
    }
    Next::Park
}

/// The guest on this core cannot go on: a partition fails, with a record;
/// Linux fails, and leaves the partitions running.
pub(crate) fn fail<V: Vendor>(core: &mut Core<V>, why: core::fmt::Arguments<'_>) -> Next {
    let Some(partition) = core.partition else {
        log::error!("linux failed on core {}: {why}", core.number);
        if let Some(linux) = &core.system.linux {
            linux.set_state(LinuxState::Failed);
            report::linux(linux.state());
            stop_others(core);
        }
        end_if_over(core.system);
        return Next::Park;
    };
    if partition
        .life
        .change(PartitionState::Running, PartitionState::Failed)
    {
        let mut detail = partition.life.detail.lock();
        let _ = write!(detail, "{why}");
        let status = partition.life.status;
        set_text(&status.detail, &status.detail_length, &detail);
        drop(detail);
        log::warn!(
            "partition \"{}\" failed on core {}: {why}",
            partition.name(),
            core.number
        );
        stop_others(core);
    }
    Next::Park
}

/// Stops the other cores of this core's guest, after its state has changed.
pub(crate) fn stop_others<V: Vendor>(core: &Core<V>) {
    for other in core.guest.cpus.iter().filter(|&other| other != core.number) {
        cores::core(other).ask(Request::Stop);
    }
}

/// TSC frequency that is assumed where CPUID does not tell it, Hz: more than
/// any processor has, so that a window is never shorter than it says.
const HIGHEST_TSC_HZ: u64 = 6_000_000_000;

/// TSC frequency, Hz, or one that no processor exceeds.
pub(crate) fn tsc_hz() -> u64 {
    match crate::exit::cpuid::tsc_hz() {
        0 => HIGHEST_TSC_HZ,
        hz => hz,
    }
}

/// Wants the partition started anew once all its cores are parked, unless it
/// has been restarted for this `max` times within `window` seconds (0: ever).
pub(crate) fn restart_within<V: Vendor>(partition: &Partition<V>, max: u32, window: u32) {
    let life = &partition.life;
    let window_cycles = u64::from(window).saturating_mul(tsc_hz());
    if life.may_restart(cpu::tsc(), max, window_cycles) {
        life.restart_due.store(true, Ordering::Release);
        return;
    }
    match window {
        0 => log::warn!(
            "partition \"{}\" was restarted {max} times and is left stopped",
            partition.name()
        ),
        seconds => log::warn!(
            "partition \"{}\" was restarted {max} times within {seconds} s and is left stopped",
            partition.name()
        ),
    }
}

/// A core of `partition` has left its guest; the last one closes the run.
pub(crate) fn core_parked<V: Vendor>(core: &Core<V>, partition: &Partition<V>) {
    let life = &partition.life;
    let parked = life.parked.fetch_add(1, Ordering::AcqRel) + 1;
    if (parked as usize) < partition.config.cpus.len() {
        life.status.inside.fetch_sub(1, Ordering::Release);
        return;
    }
    life.parked.store(0, Ordering::Release);
    pci::release(partition);
    report::drain(partition);
    if life.restart_due.swap(false, Ordering::SeqCst) {
        restart(core, partition);
        return;
    }
    if life.state() == PartitionState::Stopped {
        // The operator waits, and reads the counters in place; a serial line
        // takes long for them.
        report::state(partition);
    } else {
        report::partition(partition);
    }
    log::info!(
        "partition \"{}\" is {}",
        partition.name(),
        life.state().name()
    );
    life.settled.store(true, Ordering::SeqCst);
    life.status.inside.store(0, Ordering::Release);
    // The operator may have wanted a restart just before it settled.
    if life.restart_due.load(Ordering::SeqCst) && operator::claim(partition) {
        restart(core, partition);
        return;
    }
    end_if_over(core.system);
}

/// Starts the partition anew, with this core.
fn restart<V: Vendor>(core: &Core<V>, partition: &Partition<V>) {
    let life = &partition.life;
    if life.state() == PartitionState::Violated {
        life.status.restarts.fetch_add(1, Ordering::Relaxed);
    }
    life.set_state(PartitionState::Running);
    log::info!(
        "partition \"{}\" restarts from its pristine image",
        partition.name()
    );
    renew_and_start(partition, core.number);
    core.shared.ask(Request::Start);
}

/// Brings the partition's memory into its first state, and starts its other
/// cores than `this`, on which it runs. The partition is in state `Running`,
/// or the operator has stopped it meanwhile: then every core finds that out
/// and parks.
pub(crate) fn renew_and_start<V: Vendor>(partition: &Partition<V>, this: usize) {
    let life = &partition.life;
    life.renew();
    load::untouch(partition);
    load::fill(partition);
    life.status.starts.fetch_add(1, Ordering::Release);
    partition.note_start();
    let cores = partition.config.cpus;
    let number = u32::try_from(cores.len()).unwrap_or(0);
    life.status.inside.store(number, Ordering::Release);
    for other in cores.iter().filter(|&other| other != this) {
        cores::core(other).ask(Request::Start);
    }
}

/// Ends the run when nothing runs any more: no Linux, or a failed one, and no
/// partition that is running or waits to be.
fn end_if_over<V: Vendor>(system: &System<V>) {
    let linux_over = system
        .linux
        .as_ref()
        .is_none_or(|linux| linux.state() == LinuxState::Failed);
    if linux_over
        && system.partitions.iter().all(operator::is_settled)
        && report::end(system, "completed", "nothing runs any more")
    {
        crate::boot::power::off(system.firmware);
    }
}
