//! Address spaces of devices.

use cloister_core::iommu::{MAX_RESERVED, Reserved};
use cloister_core::memory::Range;
use cloister_core::nested::{Builder, Format, MapError, MemoryType, Rights, Tables};
use heapless::Vec;

use super::registers::write_back;
use crate::arch::memory::FramePool;
use crate::arch::paging::PoolTables;

/// Where the addresses of the devices of one guest lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Domain {
    /// Its number, by which translations are cached.
    pub(super) id: u16,
    /// The table that the hardware starts at.
    pub(super) root: u64,
}

/// Tables that an IOMMU walks.
pub(super) struct IoTables<'a> {
    pub(super) pool: &'a FramePool,
    /// The unit looks into caches.
    pub(super) coherent: bool,
    /// What entries of a new table hold.
    pub(super) absent: u64,
}

impl Tables for IoTables<'_> {
    fn allocate(&mut self) -> Option<u64> {
        let table = PoolTables(self.pool).allocate()?;
        (0..cloister_core::nested::ENTRIES).for_each(|index| self.write(table, index, self.absent));
        Some(table)
    }

    fn read(&self, table: u64, index: usize) -> u64 {
        PoolTables(self.pool).read(table, index)
    }

    fn write(&mut self, table: u64, index: usize, value: u64) {
        PoolTables(self.pool).write(table, index, value);
        if !self.coherent {
            write_back(table + (index & 511) as u64 * 8);
        }
    }
}

/// Tables over `ranges`: device address, host-physical address, bytes. Pages
/// up to those of level `largest`.
pub(super) fn build<F: Format>(
    tables: &mut IoTables<'_>,
    largest: u8,
    ranges: impl Iterator<Item = (u64, Range)>,
) -> Result<Builder<F>, MapError> {
    let mut builder = Builder::<F>::with_pages(tables, largest)?;
    for (address, range) in ranges {
        builder.map(
            tables,
            address,
            range.start,
            range.len(),
            Rights::RW,
            MemoryType::WriteBack,
        )?;
    }
    Ok(builder)
}

/// What of the ranges in `reserved` is not in `memory` yet, each byte once.
pub(super) fn beyond(
    memory: &[Range],
    reserved: &[Reserved],
) -> Option<Vec<Range, { 2 * MAX_RESERVED }>> {
    let mut left = cloister_core::memory::RangeSet::<{ 2 * MAX_RESERVED }>::new();
    for region in reserved {
        left.add(region.range).ok()?;
    }
    for range in memory {
        left.remove(*range).ok()?;
    }
    Some(left.iter().copied().collect())
}
