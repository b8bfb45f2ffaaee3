//! Nested page tables: entry formats and the builder.
//!
//! Guest-physical address to host-physical address, four levels, for EPT, NPT
//! and the tables of IOMMUs alike. A level is counted from the leaf: 1 = 4 KiB pages (page table),
//! 2 = 2 MiB (page directory), 3 = 1 GiB (page-directory pointers), 4 = root.

mod amdvi;
mod builder;
mod ept;
mod npt;
mod same;
#[cfg(test)]
mod tests;
mod vtd;

pub use amdvi::AmdViTable;
pub use builder::{Builder, MapError, Translation};
pub use ept::Ept;
pub use npt::Npt;
pub use vtd::VtdTable;

/// Size of the smallest page and of a table, in bytes.
pub const PAGE: u64 = 4096;
/// Entries in one table.
pub const ENTRIES: usize = 512;
/// One past the highest guest-physical address: four levels translate 48 bits.
pub const GPA_END: u64 = 1 << 48;
/// One past the highest host-physical address an entry can hold (52 bits).
pub const HPA_END: u64 = 1 << 52;
/// Bits 51:12 of an entry: where both formats keep the address.
pub(crate) const ADDRESS: u64 = HPA_END - PAGE;

/// Size in bytes of what one entry at `level` (1 to 4) maps.
#[must_use]
pub const fn page_size(level: u8) -> u64 {
    match level {
        1 => PAGE,
        2 => 1 << 21,
        3 => 1 << 30,
        _ => 1 << 39,
    }
}

/// What a guest may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Data reads. A page without it cannot be written either.
    pub read: bool,
    /// Data writes.
    pub write: bool,
    /// Instruction fetches.
    pub execute: bool,
}

impl Rights {
    /// Everything.
    pub const RWX: Self = Self {
        read: true,
        write: true,
        execute: true,
    };
    /// Read and execute.
    pub const RX: Self = Self {
        read: true,
        write: false,
        execute: true,
    };
    /// Read and write.
    pub const RW: Self = Self {
        read: true,
        write: true,
        execute: false,
    };
    /// Read only.
    pub const READ: Self = Self {
        read: true,
        write: false,
        execute: false,
    };
}

/// Memory type of a page (Intel SDM vol. 3, "Memory Cache Control"; AMD APM
/// vol. 2, "Memory System", memory types).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryType {
    /// WB: ordinary memory.
    WriteBack,
    /// UC: device registers.
    Uncacheable,
    /// WC: frame buffers.
    WriteCombining,
    /// WT.
    WriteThrough,
    /// WP.
    WriteProtected,
}

/// Entry format of a nested page table.
pub trait Format: Copy + core::fmt::Debug + 'static {
    /// Levels of tables.
    const LEVELS: u8;
    /// A bit of a table-pointing entry that hardware ignores.
    const IGNORED: u64;

    /// Entry at `level` (2 to 4) that points to the table at `pa`, with every
    /// right: the leaf decides.
    fn table(pa: u64, level: u8) -> u64;
    /// Entry at `level` (1 to 3) that maps the page at `pa`. An entry without
    /// [`Rights::read`] that the format cannot express is not present.
    fn leaf(pa: u64, level: u8, rights: Rights, memory_type: MemoryType) -> u64;
    /// Whether the entry maps or points to anything.
    fn present(entry: u64) -> bool;
    /// Whether a present entry at `level` maps a page.
    fn is_leaf(entry: u64, level: u8) -> bool;
    /// Address of the page or the table that a present entry at `level` names.
    fn address(entry: u64, level: u8) -> u64;
    /// Rights of a leaf.
    fn rights(entry: u64) -> Rights;
    /// Memory type of a leaf at `level`. A type that [`Format::leaf`] never
    /// writes reads as [`MemoryType::Uncacheable`].
    fn memory_type(entry: u64, level: u8) -> MemoryType;
}

/// The memory that tables live in.
pub trait Tables {
    /// A zeroed 4 KiB table: its host-physical address, 4 KiB-aligned, or
    /// `None` when there is no memory left.
    fn allocate(&mut self) -> Option<u64>;
    /// Takes back a table that nothing points to any more. It may still be in
    /// a core's paging-structure cache: it must not be handed out again before
    /// every core that uses this nested page table has flushed it. The default
    /// never hands it out again.
    fn release(&mut self, table: u64) {
        let _ = table;
    }
    /// Entry `index` (0 to 511) of the table at `table`.
    fn read(&self, table: u64, index: usize) -> u64;
    /// Writes entry `index` (0 to 511), as one 64-bit store.
    fn write(&mut self, table: u64, index: usize, value: u64);
}
