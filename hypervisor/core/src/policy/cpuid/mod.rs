//! CPUID as a guest sees it.
//!
//! The work is split by time: [`CpuidCache::fill`] runs once per core at boot,
//! executes CPUID and applies [`filter`]; [`CpuidCache::lookup`] runs at each
//! exit and only indexes a table. The few values that depend on the guest's
//! control registers are put in by [`CpuidCache::lookup`] from [`Dynamic`].
//!
//! Sources: Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E.

mod cache;
mod filter;
mod leaves;

pub use cache::{CpuidCache, Dynamic, FillError};
pub use filter::{CpuidConfig, filter};

use super::{Guest, Vendor};

/// What CPUID returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Regs {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

impl Regs {
    /// All zeros: what leaves return that do not exist.
    pub const ZERO: Self = Self {
        eax: 0,
        ebx: 0,
        ecx: 0,
        edx: 0,
    };
}

#[cfg(test)]
mod tests;
