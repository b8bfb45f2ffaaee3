//! Pages of the hypervisor that a guest may read or write at any moment.

use cloister_abi::MAX_PARTITIONS;
use cloister_abi::control::{ControlPage, PartitionStatus, StatisticsHeader};

use crate::arch::memory::{Frame, Zeroable};

// SAFETY: made of atomic integers.
unsafe impl Zeroable for ControlPage {}
// SAFETY: as above.
unsafe impl Zeroable for StatisticsHeader {}
// SAFETY: as above.
unsafe impl Zeroable for [PartitionStatus; MAX_PARTITIONS] {}

/// A run of pages that only volatile accesses touch.
#[derive(Debug)]
pub(crate) struct Window {
    address: u64,
    length: u64,
}

impl Window {
    /// The window over `frame`, for good.
    pub(crate) fn new(frame: &mut Frame) -> Self {
        frame.bytes().fill(0);
        Self {
            address: frame.address(),
            length: frame.len(),
        }
    }

    /// Physical address, for a nested page table.
    pub(crate) const fn address(&self) -> u64 {
        self.address
    }

    /// Copies what is at `offset` now; false, and nothing is copied, past the
    /// end.
    pub(crate) fn read(&self, offset: u64, to: &mut [u8]) -> bool {
        let end = offset.checked_add(to.len() as u64);
        if end.is_none_or(|end| end > self.length) {
            return false;
        }
        let from = (self.address + offset) as *const u8;
        for (index, byte) in to.iter_mut().enumerate() {
            // SAFETY: inside the window, which is the hypervisor's for ever; a
            // guest may write it meanwhile, hence volatile.
            *byte = unsafe { from.add(index).read_volatile() };
        }
        true
    }

    /// Writes `value` at `offset`, a multiple of four; nothing past the end.
    pub(crate) fn write_u32(&self, offset: u64, value: u32) {
        if offset.is_multiple_of(4) && offset < self.length {
            // SAFETY: aligned and inside the window, as above.
            unsafe { ((self.address + offset) as *mut u32).write_volatile(value) };
        }
    }
}
