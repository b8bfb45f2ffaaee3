//! Exit counters: one page-aligned block per core, written in place by that
//! core alone and read by anyone it is mapped for, without stopping anything.
//!
//! Every field is a 64-bit atomic with a single writer. A reader sees each
//! value whole, but two values may be from different moments.

use core::sync::atomic::AtomicU64;

use crate::reason;

/// What is counted for one [`crate::Reason`].
#[derive(Debug, Default)]
#[repr(C)]
pub struct ReasonCounter {
    /// Exits since the core entered its guest for the first time.
    pub total: AtomicU64,
    /// Exits since the core last became quiet (see
    /// [`CoreCounters::since_quiesce`]).
    pub since_quiesce: AtomicU64,
    /// TSC cycles spent in the hypervisor for this reason.
    pub cycles: AtomicU64,
    /// The longest of them, TSC cycles.
    pub worst: AtomicU64,
    /// Guest RIP at the last of them.
    pub last_rip: AtomicU64,
}

/// All counters of one core.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct CoreCounters {
    /// Physical core number, in MADT order.
    pub core: AtomicU64,
    /// All exits.
    pub total: AtomicU64,
    /// Exits since the program last entered a quiesced dataplane mode. Calls
    /// of `set_dataplane` and management kicks do not count. Freezes when the
    /// program leaves the mode.
    pub since_quiesce: AtomicU64,
    /// Interrupts that reached this core since then: vectors found pending or
    /// in service in its local APIC, NMIs, and interrupts that exited. Brought
    /// up to date when the core exits.
    pub interrupts_since_quiesce: AtomicU64,
    /// Flags in force now ([`crate::Dataplane`] bits).
    pub dataplane: AtomicU64,
    /// Flags of the last successful `set_dataplane` that was not 0.
    pub last_dataplane: AtomicU64,
    /// TSC at the last return from `set_dataplane` with QUIESCE.
    pub quiesce_tsc: AtomicU64,
    /// How often this core became quiet.
    pub quiesce_count: AtomicU64,
    /// Hypercalls from user mode, each of which was refused with #UD.
    pub user_hypercalls: AtomicU64,
    /// By reason; indexed by `Reason as usize`.
    pub reasons: [ReasonCounter; reason::COUNT],
}

const _: () = assert!(size_of::<CoreCounters>() == 4096);
const _: () = assert!(size_of::<ReasonCounter>() == 40);

impl CoreCounters {
    /// Counters at zero for physical core `core`.
    #[must_use]
    pub fn new(core: u64) -> Self {
        Self {
            core: AtomicU64::new(core),
            total: AtomicU64::new(0),
            since_quiesce: AtomicU64::new(0),
            interrupts_since_quiesce: AtomicU64::new(0),
            dataplane: AtomicU64::new(0),
            last_dataplane: AtomicU64::new(0),
            quiesce_tsc: AtomicU64::new(0),
            quiesce_count: AtomicU64::new(0),
            user_hypercalls: AtomicU64::new(0),
            reasons: core::array::from_fn(|_| ReasonCounter::default()),
        }
    }
}
