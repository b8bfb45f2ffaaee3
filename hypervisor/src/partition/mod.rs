//! Partitions: what they are made of, their life cycle, what ends them. And
//! Linux, as far as it is loaded and ended in the same way.

pub(crate) mod backtrace;
pub(crate) mod channels;
pub(crate) mod dataplane;
pub(crate) mod life;
pub(crate) mod linux;
pub(crate) mod load;
pub(crate) mod operator;
pub(crate) mod violation;

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use cloister_abi::PartitionState;
use cloister_abi::control::PartitionStatus;
use cloister_abi::shared::{ConsoleRing, PartitionInfo};
use spin::Mutex;

use crate::arch::memory::{Block, Frame};
use crate::partition::channels::Channels;
use crate::pci::{Assigned, Selected};
use crate::virt::Vendor;
use crate::virt::guest::Guest;

/// One partition.
pub(crate) struct Partition<V: Vendor> {
    pub(crate) config: &'static cloister_manifest::Partition,
    pub(crate) guest: Guest<V>,
    /// Its RAM: guest-physical 0 is its start.
    pub(crate) block: Block,
    /// Guest-physical address of the shared pages.
    pub(crate) shared: u64,
    /// All channels, some of which are its own.
    pub(crate) channels: &'static Channels,
    /// How many large pages of its own tables map them.
    pub(crate) channel_pages: u64,
    /// What its program is told.
    pub(crate) info: &'static PartitionInfo,
    /// What its program prints. Nothing in it is trusted.
    pub(crate) console: &'static ConsoleRing,
    /// Its pristine image. Changed only while it does not run.
    pub(crate) image: Mutex<Image>,
    /// Its PCI functions.
    pub(crate) devices: &'static [Assigned],
    /// What it has written to the configuration address port.
    pub(crate) selected: Selected,
    pub(crate) life: Life,
}

/// A program's ELF file.
pub(crate) enum Image {
    /// The module that GRUB loaded.
    Module(&'static [u8]),
    /// What the operator put in its place, in so many bytes of the frame.
    Replaced { frame: Frame, length: usize },
}

impl Image {
    /// The file.
    pub(crate) fn bytes(&mut self) -> &[u8] {
        match self {
            Self::Module(bytes) => bytes,
            Self::Replaced { frame, length } => frame.bytes().get(..*length).unwrap_or(&[]),
        }
    }
}

/// What changes while a partition lives.
pub(crate) struct Life {
    /// State, exit code, counts of starts and violations: where Linux reads
    /// them.
    pub(crate) status: &'static PartitionStatus,
    /// Cores that have called `finish` since the last start.
    pub(crate) finished: AtomicU32,
    /// Cores that are not in the guest.
    pub(crate) parked: AtomicU32,
    /// Restarts after violations within the window, and TSC of its begin.
    window_restarts: AtomicU32,
    window_began: AtomicU64,
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
    pub(crate) const fn new(status: &'static PartitionStatus) -> Self {
        Self {
            status,
            finished: AtomicU32::new(0),
            parked: AtomicU32::new(0),
            window_restarts: AtomicU32::new(0),
            window_began: AtomicU64::new(0),
            restart_due: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            populated: AtomicBool::new(false),
            printed: Mutex::new(0),
            detail: Mutex::new(heapless::String::new()),
        }
    }

    /// Running from the start, or not before it is told.
    pub(crate) fn boot(&self, autostart: bool, cores: u32) {
        self.settled.store(!autostart, Ordering::SeqCst);
        if autostart {
            self.status.starts.store(1, Ordering::Relaxed);
            self.status.inside.store(cores, Ordering::Relaxed);
            self.set_state(PartitionState::Running);
        }
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> PartitionState {
        u8::try_from(self.status.state.load(Ordering::Acquire))
            .ok()
            .and_then(PartitionState::from_code)
            .unwrap_or(PartitionState::Failed)
    }

    /// Moves on.
    pub(crate) fn set_state(&self, state: PartitionState) {
        self.status.state.store(state as u32, Ordering::Release);
    }

    /// Moves from `from` to `to`; says whether it was there. Of two cores that
    /// end a partition at the same time, the first decides how.
    pub(crate) fn change(&self, from: PartitionState, to: PartitionState) -> bool {
        let state = &self.status.state;
        state
            .compare_exchange(from as u32, to as u32, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Highest exit code that its cores gave.
    pub(crate) fn exit_code(&self) -> Option<u64> {
        let stored = self.status.exit_code.load(Ordering::Relaxed);
        stored.checked_sub(1)
    }

    /// A core gave `code`.
    pub(crate) fn note_exit_code(&self, code: u64) {
        self.status
            .exit_code
            .fetch_max(code.saturating_add(1), Ordering::Relaxed);
    }

    /// Counts a restart after a violation at TSC `now`, if there have been
    /// fewer than `max` of them in the last `window` cycles (0: ever). Says
    /// whether. Only the core that has ended the run calls this.
    pub(crate) fn may_restart(&self, now: u64, max: u32, window: u64) -> bool {
        let began = self.window_began.load(Ordering::Relaxed);
        let before = self.window_restarts.load(Ordering::Relaxed);
        let over = window != 0 && now.wrapping_sub(began) > window;
        let before = if before == 0 || over {
            self.window_began.store(now, Ordering::Relaxed);
            0
        } else {
            before
        };
        if before >= max {
            return false;
        }
        self.window_restarts.store(before + 1, Ordering::Relaxed);
        true
    }

    /// Forgets the last run.
    pub(crate) fn renew(&self) {
        self.finished.store(0, Ordering::Relaxed);
        self.status.exit_code.store(0, Ordering::Relaxed);
        self.restart_due.store(false, Ordering::Relaxed);
        self.settled.store(false, Ordering::SeqCst);
        self.detail.lock().clear();
        self.status.detail_length.store(0, Ordering::Relaxed);
    }
}

impl<V: Vendor> Partition<V> {
    /// Its name.
    pub(crate) fn name(&self) -> &'static str {
        &self.config.name
    }

    /// Tells the other ends of its channels that it is started.
    pub(crate) fn note_start(&self) {
        let starts = self.life.status.starts.load(Ordering::Relaxed);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it still changes each time"
        )]
        self.channels.note_start(self.name(), starts as u32);
    }

    /// Whether the operator imposes DEBUG.
    pub(crate) fn debug_imposed(&self) -> bool {
        self.life.status.debug.load(Ordering::Relaxed) != 0
    }
}
