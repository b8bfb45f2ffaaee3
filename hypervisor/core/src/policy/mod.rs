//! What a guest gets when it asks: vendor-neutral decisions about CPUID, MSRs
//! and ports. Nothing here touches hardware.

pub mod cpuid;
pub mod dataplane;
pub mod io;
pub mod msr;

/// Maker of the processor: decides which MSRs exist and what CPUID returns for
/// leaves that do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel and what follows it.
    Intel,
    /// AMD and Hygon.
    Amd,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// The housekeeping guest.
    Linux,
    /// A dataplane partition.
    Partition {
        /// Its manifest gives it the local APIC.
        apic: bool,
    },
}
