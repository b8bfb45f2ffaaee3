//! VT-d second-stage entries (Intel VT-d specification 4.1, 9.8): like EPT's,
//! without execution and memory type.

use super::{ADDRESS, Format, MemoryType, Rights, page_size};

const READ: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;

/// VT-d's second-stage tables. Four levels; a unit that walks three starts at
/// [`super::Builder::table_of_zero`].
#[derive(Clone, Copy, Debug)]
pub struct VtdTable;

impl Format for VtdTable {
    const LEVELS: u8 = 4;
    const IGNORED: u64 = 1 << 52;

    fn table(pa: u64, _: u8) -> u64 {
        (pa & ADDRESS) | READ | WRITE
    }

    fn leaf(pa: u64, level: u8, rights: Rights, _: MemoryType) -> u64 {
        if !rights.read {
            return 0;
        }
        (pa & ADDRESS & !(page_size(level) - 1))
            | READ
            | if rights.write { WRITE } else { 0 }
            | if level > 1 { LARGE } else { 0 }
    }

    fn present(entry: u64) -> bool {
        entry & (READ | WRITE) != 0
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
            execute: false,
        }
    }

    fn memory_type(_: u64, _: u8) -> MemoryType {
        MemoryType::WriteBack
    }
}
