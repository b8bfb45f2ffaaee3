//! What the operator does to a partition, from a Linux core. Only the
//! partition's own cores are kicked, and nobody waits for them: the status
//! table shows when they have parked.

use core::sync::atomic::Ordering;

use cloister_abi::PartitionState;

use crate::cores::{self, Request};
use crate::partition::{Image, Partition};
use crate::virt::Vendor;

/// Whether no core runs it, and none will by itself.
pub(crate) fn is_settled<V: Vendor>(partition: &Partition<V>) -> bool {
    partition.life.settled.load(Ordering::SeqCst)
}

/// Starts it from its pristine image, on its own cores: the first one prepares
/// the memory.
///
/// # Errors
/// It runs, or its cores have not parked yet; in words.
pub(crate) fn start<V: Vendor>(partition: &Partition<V>) -> Result<(), &'static str> {
    let life = &partition.life;
    if !claim(partition) {
        return Err(match life.state() {
            PartitionState::Running => "runs already",
            _ => "is still stopping; try again",
        });
    }
    life.restart_due.store(false, Ordering::SeqCst);
    life.set_state(PartitionState::Running);
    if let Some(first) = partition.config.cpus.first() {
        cores::core(first).ask(Request::Renew);
    }
    Ok(())
}

/// Stops it: its cores leave their guest as soon as the kick arrives.
///
/// # Errors
/// It does not run; in words.
pub(crate) fn stop<V: Vendor>(partition: &Partition<V>) -> Result<(), &'static str> {
    let life = &partition.life;
    let restart_was_due = life.restart_due.swap(false, Ordering::SeqCst);
    if life.change(PartitionState::Running, PartitionState::Stopped) {
        kick(partition, Request::Stop);
    } else if !restart_was_due {
        return Err("does not run");
    }
    Ok(())
}

/// Stops it if it runs, and starts it from its pristine image.
pub(crate) fn restart<V: Vendor>(partition: &Partition<V>) {
    let life = &partition.life;
    // The last core that parks sees this, whenever it does.
    life.restart_due.store(true, Ordering::SeqCst);
    if life.change(PartitionState::Running, PartitionState::Stopped) {
        kick(partition, Request::Stop);
    } else {
        // Where cores are still parking, this fails and they do it.
        let _ = start(partition);
    }
}

/// Imposes DEBUG on its cores, or no longer.
pub(crate) fn set_debug<V: Vendor>(partition: &Partition<V>, on: bool) {
    let status = partition.life.status;
    status.debug.store(u32::from(on), Ordering::SeqCst);
    kick(partition, Request::Flags);
}

/// Gives it another program; returns the old one's image. It does not run.
pub(crate) fn replace_image<V: Vendor>(partition: &Partition<V>, image: Image) -> Image {
    let old = core::mem::replace(&mut *partition.image.lock(), image);
    partition.life.set_state(PartitionState::Loaded);
    old
}

fn kick<V: Vendor>(partition: &Partition<V>, request: Request) {
    for core in partition.config.cpus.iter() {
        cores::core(core).ask(request);
    }
}

/// Takes the right to start it, which only one can have.
pub(crate) fn claim<V: Vendor>(partition: &Partition<V>) -> bool {
    partition
        .life
        .settled
        .compare_exchange(true, false, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok()
}
