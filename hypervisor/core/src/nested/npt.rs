//! NPT entries: ordinary long-mode entries (AMD APM vol. 2, "Nested Paging"
//! and "Long-Mode Page Translation"). Nested accesses count as user accesses,
//! so every entry has US = 1.

use super::{ADDRESS, Format, MemoryType, Rights, page_size};

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const PWT: u64 = 1 << 3;
const PCD: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;

/// AMD's nested page tables.
///
/// The memory type of an entry is an index into the *host's* PAT MSR, which
/// must hold [`Npt::HOST_PAT`] for [`MemoryType::WriteCombining`] and
/// [`MemoryType::WriteProtected`]; the other types mean the same with the PAT's
/// reset value. Non-executable pages need EFER.NXE in the host's EFER.
#[derive(Clone, Copy, Debug)]
pub struct Npt;

impl Npt {
    /// The host PAT that the entries are written for: WB, WT, UC-, UC as at
    /// reset, then WC, WP, UC-, UC (AMD APM vol. 2, "Page-Attribute Table").
    pub const HOST_PAT: u64 = 0x0007_0501_0007_0406;

    const fn pat(level: u8) -> u64 {
        if level > 1 { 1 << 12 } else { 1 << 7 }
    }
}

impl Format for Npt {
    const LEVELS: u8 = 4;
    const IGNORED: u64 = 1 << 11;

    fn table(pa: u64, _: u8) -> u64 {
        (pa & ADDRESS) | PRESENT | WRITE | USER | ACCESSED
    }

    fn leaf(pa: u64, level: u8, rights: Rights, memory_type: MemoryType) -> u64 {
        if !rights.read {
            return 0;
        }
        let kind = match memory_type {
            MemoryType::WriteBack => 0,
            MemoryType::WriteThrough => PWT,
            MemoryType::Uncacheable => PCD | PWT,
            MemoryType::WriteCombining => Self::pat(level),
            MemoryType::WriteProtected => Self::pat(level) | PWT,
        };
        (pa & ADDRESS & !(page_size(level) - 1))
            | PRESENT
            | USER
            | ACCESSED
            | DIRTY
            | if rights.write { WRITE } else { 0 }
            | if rights.execute { 0 } else { NO_EXECUTE }
            | kind
            | if level > 1 { LARGE } else { 0 }
    }

    fn present(entry: u64) -> bool {
        entry & PRESENT != 0
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
            read: entry & PRESENT != 0,
            write: entry & WRITE != 0,
            execute: entry & NO_EXECUTE == 0,
        }
    }

    fn memory_type(entry: u64, level: u8) -> MemoryType {
        let high = entry & Self::pat(level) != 0;
        match (high, entry & PCD != 0, entry & PWT != 0) {
            (false, false, false) => MemoryType::WriteBack,
            (false, false, true) => MemoryType::WriteThrough,
            (true, false, false) => MemoryType::WriteCombining,
            (true, false, true) => MemoryType::WriteProtected,
            (_, true, _) => MemoryType::Uncacheable,
        }
    }
}
