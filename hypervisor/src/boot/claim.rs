//! The memory plan put into force: each range becomes a thing of its owner,
//! once.

use core::sync::atomic::{AtomicBool, Ordering};

use cloister_abi::MAX_PARTITIONS;
use cloister_core::memory::{E820_ENTRIES, E820Entry, Plan, Range};
use heapless::Vec;
use spin::Once;

use crate::arch::memory::{Block, FramePool};

/// What the plan gave away.
pub(crate) struct Claimed {
    /// The hypervisor's memory.
    pub(crate) pool: &'static FramePool,
    pub(crate) pool_range: Range,
    /// One page below 640 KiB for the code that starts other cores.
    pub(crate) trampoline: Block,
    /// One block per partition, in the manifest's order. Taken one by one.
    pub(crate) partitions: Vec<Block, MAX_PARTITIONS>,
    /// Where Linux's kernel goes.
    pub(crate) kernel: Option<Block>,
    /// Where Linux's boot data goes.
    pub(crate) boot_data: Option<Block>,
    /// Linux's memory map.
    pub(crate) e820: Vec<E820Entry, E820_ENTRIES>,
}

/// Hands the plan's ranges out; `None` the second time.
pub(crate) fn claim(plan: Plan) -> Option<Claimed> {
    static DONE: AtomicBool = AtomicBool::new(false);
    static POOL: Once<FramePool> = Once::new();
    if DONE.swap(true, Ordering::SeqCst) {
        return None;
    }
    // SAFETY: the plan's ranges are usable RAM, disjoint from each other, from
    // the image and from GRUB's modules, and this is the only time that they
    // are handed out. The boot tables map the low 4 GiB, where pool,
    // trampoline, kernel and boot data are (`setup::own_tables` refuses
    // another pool); partitions' blocks are touched after the real tables are
    // in force, which map all RAM.
    let block = |range| unsafe { Block::new(range) };
    // SAFETY: as above.
    let pool = POOL.call_once(|| unsafe { FramePool::new(plan.pool) });
    Some(Claimed {
        pool,
        pool_range: plan.pool,
        trampoline: block(plan.trampoline),
        partitions: plan.partitions.iter().copied().map(block).collect(),
        kernel: plan.kernel.map(block),
        boot_data: plan.boot_data.map(block),
        e820: plan.e820,
    })
}
