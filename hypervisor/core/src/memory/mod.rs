//! Who owns which physical memory.

mod e820;
mod plan;
mod range;
mod set;
#[cfg(test)]
mod tests;

pub use e820::{E820_ENTRIES, E820Entry, kind};
pub use plan::{
    BOOT_DATA, FirmwareRange, LinuxNeed, Module, Owner, PartitionNeed, Plan, PlanError, PlanInput,
    plan,
};
pub use range::{Range, align_down, align_up};
pub use set::{Full, RangeSet};

/// 4 KiB.
pub const PAGE: u64 = 1 << 12;
/// 1 MiB.
pub const MIB: u64 = 1 << 20;
/// 2 MiB.
pub const LARGE_PAGE: u64 = 1 << 21;
/// 1 GiB.
pub const GIB: u64 = 1 << 30;
