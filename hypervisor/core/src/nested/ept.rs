//! EPT entries (Intel SDM vol. 3, "EPT Translation Mechanism", the tables of
//! EPT paging-structure entry formats).

use super::{ADDRESS, Format, MemoryType, Rights, page_size};

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const EXECUTE: u64 = 1 << 2;
const MEMORY_TYPE_SHIFT: u32 = 3;
const LARGE: u64 = 1 << 7;

/// Intel's extended page tables.
#[derive(Clone, Copy, Debug)]
pub struct Ept;

impl Format for Ept {
    const LEVELS: u8 = 4;
    const IGNORED: u64 = 1 << 11;

    fn table(pa: u64, _: u8) -> u64 {
        (pa & ADDRESS) | READ | WRITE | EXECUTE
    }

    fn leaf(pa: u64, level: u8, rights: Rights, memory_type: MemoryType) -> u64 {
        // "EPT Misconfigurations": write without read must not be written.
        // Execute without read is optional (IA32_VMX_EPT_VPID_CAP bit 0), so
        // it is not used either.
        if !rights.read {
            return 0;
        }
        let kind: u64 = match memory_type {
            MemoryType::Uncacheable => 0,
            MemoryType::WriteCombining => 1,
            MemoryType::WriteThrough => 4,
            MemoryType::WriteProtected => 5,
            MemoryType::WriteBack => 6,
        };
        (pa & ADDRESS & !(page_size(level) - 1))
            | READ
            | if rights.write { WRITE } else { 0 }
            | if rights.execute { EXECUTE } else { 0 }
            | (kind << MEMORY_TYPE_SHIFT)
            | if level > 1 { LARGE } else { 0 }
    }

    fn present(entry: u64) -> bool {
        entry & (READ | WRITE | EXECUTE) != 0
    }

    fn is_leaf(entry: u64, level: u8) -> bool {
        level == 1 || (level < 4 && entry & LARGE != 0)
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
            execute: entry & EXECUTE != 0,
        }
    }

    fn memory_type(entry: u64, _level: u8) -> MemoryType {
        match (entry >> MEMORY_TYPE_SHIFT) & 7 {
            6 => MemoryType::WriteBack,
            1 => MemoryType::WriteCombining,
            4 => MemoryType::WriteThrough,
            5 => MemoryType::WriteProtected,
            _ => MemoryType::Uncacheable,
        }
    }
}
