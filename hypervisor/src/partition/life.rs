//! The life cycle: finished, failed, stopped, restarted; and the end of the
//! whole run.

use core::fmt::Write as _;
use core::sync::atomic::Ordering;

use cloister_abi::{LinuxState, PartitionState};

use crate::cores::{self, Request};
use crate::exit::Next;
use crate::partition::{Partition, load};
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
        let _ = write!(partition.life.detail.lock(), "{why}");
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

/// Wants the partition started anew once all its cores are parked, unless it
/// has been restarted `max` times.
pub(crate) fn restart_within<V: Vendor>(partition: &Partition<V>, max: u32) {
    if partition.life.restarts.load(Ordering::Relaxed) < max {
        partition.life.restart_due.store(true, Ordering::Release);
    } else {
        log::warn!(
            "partition \"{}\" was restarted {max} times and is left stopped",
            partition.name()
        );
    }
}

/// A core of `partition` has left its guest; the last one closes the run.
pub(crate) fn core_parked<V: Vendor>(core: &Core<V>, partition: &Partition<V>) {
    let life = &partition.life;
    let cores = partition.config.cpus;
    let parked = life.parked.fetch_add(1, Ordering::AcqRel) + 1;
    if (parked as usize) < cores.len() {
        return;
    }
    life.parked.store(0, Ordering::Release);
    report::drain(partition);
    if life.restart_due.load(Ordering::Acquire) {
        life.restarts.fetch_add(1, Ordering::Relaxed);
        life.renew();
        load::fill(partition);
        life.set_state(PartitionState::Running);
        log::info!(
            "partition \"{}\" restarts from its pristine image",
            partition.name()
        );
        for other in cores.iter() {
            cores::core(other).ask(Request::Start);
        }
        return;
    }
    report::partition(partition);
    log::info!(
        "partition \"{}\" is {}",
        partition.name(),
        life.state().name()
    );
    life.settled.store(true, Ordering::SeqCst);
    end_if_over(core.system);
}

/// Ends the run when nothing runs any more: no Linux, or a failed one, and no
/// partition that is running or waits to be.
fn end_if_over<V: Vendor>(system: &System<V>) {
    let linux_over = system
        .linux
        .as_ref()
        .is_none_or(|linux| linux.state() == LinuxState::Failed);
    let over = |partition: &Partition<V>| match partition.life.state() {
        PartitionState::Loaded => !partition.config.autostart,
        _ => partition.life.settled.load(Ordering::SeqCst),
    };
    if linux_over
        && system.partitions.iter().all(over)
        && report::end(system, "completed", "nothing runs any more")
    {
        crate::boot::power::off(system.firmware);
    }
}
