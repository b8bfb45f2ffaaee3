//! AMD-Vi I/O page table entries (AMD I/O Virtualization Technology
//! specification 48882, 2.2.3).

use super::{ADDRESS, Format, MemoryType, Rights, page_size};

const PRESENT: u64 = 1 << 0;
const NEXT_LEVEL: u32 = 9;
const NEXT_LEVEL_MASK: u64 = 7 << NEXT_LEVEL;
const FORCE_COHERENT: u64 = 1 << 60;
const READ: u64 = 1 << 61;
const WRITE: u64 = 1 << 62;

/// AMD-Vi's I/O page tables, four levels.
#[derive(Clone, Copy, Debug)]
pub struct AmdViTable;

impl AmdViTable {
    /// What an entry that maps nothing holds: not present, so that hardware
    /// ignores the rest, which is not 0 because QEMU's model reports no fault
    /// for an entry of 0 (hw/i386/amd_iommu.c, amdvi_page_walk).
    pub const ABSENT: u64 = 1 << NEXT_LEVEL;
}

impl Format for AmdViTable {
    const LEVELS: u8 = 4;
    const IGNORED: u64 = 1 << 63;

    fn table(pa: u64, level: u8) -> u64 {
        let next = u64::from(level.saturating_sub(1));
        (pa & ADDRESS) | PRESENT | READ | WRITE | next << NEXT_LEVEL
    }

    fn leaf(pa: u64, level: u8, rights: Rights, _: MemoryType) -> u64 {
        if !rights.read {
            return 0;
        }
        // Next Level 0: a page of the level's own size.
        (pa & ADDRESS & !(page_size(level) - 1))
            | PRESENT
            | FORCE_COHERENT
            | READ
            | if rights.write { WRITE } else { 0 }
    }

    fn present(entry: u64) -> bool {
        entry & PRESENT != 0
    }

    fn is_leaf(entry: u64, _: u8) -> bool {
        entry & NEXT_LEVEL_MASK == 0
    }

    fn address(entry: u64, level: u8) -> u64 {
        if Self::is_leaf(entry, level) {
            entry & ADDRESS & !(page_size(level) - 1)
        } else {
            entry & ADDRESS
        }
    }

    fn rights(entry: u64) -> Rights {
        Rights {
            read: entry & READ != 0,
            write: entry & WRITE != 0,
            execute: false,
        }
    }

    fn memory_type(_: u64, _: u8) -> MemoryType {
        MemoryType::WriteBack
    }
}
