//! Partitions: what they are made of, their life cycle, what ends them. And
//! Linux, as far as it is loaded and ended in the same way.

pub(crate) mod backtrace;
pub(crate) mod dataplane;
pub(crate) mod life;
pub(crate) mod linux;
pub(crate) mod load;
pub(crate) mod violation;

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use cloister_abi::PartitionState;
use cloister_abi::shared::{ConsoleRing, PartitionInfo};
use spin::Mutex;

use crate::arch::memory::Block;
use crate::virt::guest::Guest;
use crate::virt::Vendor;

/// One partition.
pub(crate) struct Partition<V: Vendor> {
    pub(crate) config: &'static cloister_manifest::Partition,
    pub(crate) guest: Guest<V>,
    /// Its RAM: guest-physical 0 is its start.
    pub(crate) block: Block,
    /// Guest-physical address of the shared pages.
    pub(crate) shared: u64,
    /// What its program is told.
    pub(crate) info: &'static PartitionInfo,
    /// What its program prints. Nothing in it is trusted.
    pub(crate) console: &'static ConsoleRing,
    /// Its pristine image.
    pub(crate) image: &'static [u8],
    pub(crate) life: Life,
}

/// What changes while a partition lives.
pub(crate) struct Life {
    state: AtomicU8,
    /// Highest exit code so far, plus one; 0 before the first.
    exit_code: AtomicU64,
    /// Cores that have called `finish` since the last start.
    pub(crate) finished: AtomicU32,
    /// Cores that are not in the guest.
    pub(crate) parked: AtomicU32,
    pub(crate) restarts: AtomicU32,
    /// A restart is due as soon as all cores are parked.
    pub(crate) restart_due: AtomicBool,
    /// All cores are parked, and it is not started again by itself.
    pub(crate) settled: AtomicBool,
    /// All memory is mapped.
    pub(crate) populated: AtomicBool,
    /// Console bytes already printed. Held while printing.
    pub(crate) printed: Mutex<u64>,
    /// Why it failed.
    pub(crate) detail: Mutex<heapless::String<160>>,
}

impl Life {
    /// A partition that is loaded.
    pub(crate) const fn new() -> Self {
        Self {
            state: AtomicU8::new(PartitionState::Loaded as u8),
            exit_code: AtomicU64::new(0),
            finished: AtomicU32::new(0),
            parked: AtomicU32::new(0),
            restarts: AtomicU32::new(0),
            restart_due: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            populated: AtomicBool::new(false),
            printed: Mutex::new(0),
            detail: Mutex::new(heapless::String::new()),
        }
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> PartitionState {
        PartitionState::from_code(self.state.load(Ordering::Acquire))
            .unwrap_or(PartitionState::Failed)
    }

    /// Moves on.
    pub(crate) fn set_state(&self, state: PartitionState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Moves from `from` to `to`; says whether it was there. Of two cores that
    /// end a partition at the same time, the first decides how.
    pub(crate) fn change(&self, from: PartitionState, to: PartitionState) -> bool {
        self.state
            .compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Highest exit code that its cores gave.
    pub(crate) fn exit_code(&self) -> Option<u64> {
        self.exit_code.load(Ordering::Relaxed).checked_sub(1)
    }

    /// A core gave `code`.
    pub(crate) fn note_exit_code(&self, code: u64) {
        self.exit_code
            .fetch_max(code.saturating_add(1), Ordering::Relaxed);
    }

    /// Forgets the last run.
    pub(crate) fn renew(&self) {
        self.finished.store(0, Ordering::Relaxed);
        self.exit_code.store(0, Ordering::Relaxed);
        self.restart_due.store(false, Ordering::Relaxed);
        self.settled.store(false, Ordering::SeqCst);
        self.detail.lock().clear();
    }
}

impl<V: Vendor> Partition<V> {
    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        &self.config.name
    }
}
