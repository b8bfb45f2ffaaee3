//! IOMMUs: what the firmware tells of them, and the layouts of what they read
//! and write. Neutral between the two kinds: [`Interrupt`], [`Message`],
//! [`Fault`].

pub mod amdvi;
mod dmar;
mod ivrs;
mod scope;
#[cfg(test)]
mod tests;
pub mod vtd;

pub use dmar::{Dmar, Unit, dmar};
pub use ivrs::{Ivhd, Ivrs, ivrs};
pub use scope::{IoApicSource, Reserved};

use core::fmt;

/// Most IOMMUs of one machine.
pub const MAX_UNITS: usize = 16;
/// Most I/O APICs whose requests are told apart.
pub const MAX_IO_APICS: usize = 16;
/// Most ranges of memory that the firmware reserves for devices.
pub const MAX_RESERVED: usize = 32;

/// A PCI function as the IOMMU sees it: bus << 8 | device << 3 | function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requester(pub u16);

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [devfn, bus] = self.0.to_le_bytes();
        write!(f, "0000:{bus:02x}:{:02x}.{}", devfn >> 3, devfn & 7)
    }
}

/// An interrupt as it reaches a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Vector, 16 to 255.
    pub vector: u8,
    /// To the one of several cores that has the lowest priority; else fixed.
    /// Other delivery modes are not remapped.
    pub lowest_priority: bool,
    /// The destination is a logical one.
    pub logical: bool,
    /// APIC ID, or logical destination.
    pub destination: u32,
    /// Level-triggered.
    pub level: bool,
}

/// What a device writes to raise an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Physical address.
    pub address: u64,
    /// Data: 16 bits.
    pub data: u32,
}

/// What a device did that it may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It read memory.
    Read,
    /// It wrote memory.
    Write,
    /// It raised an interrupt.
    Interrupt,
}

impl Access {
    /// Name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Interrupt => "interrupt",
        }
    }
}

/// One report of an IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Who.
    pub requester: Requester,
    /// Where: a device address, in whole pages on VT-d; for an interrupt its
    /// index or address.
    pub address: u64,
    /// What.
    pub access: Access,
    /// Why, by the manual's number: a fault reason (VT-d 4.1 appendix A) or an
    /// event code (AMD 48882, 2.5).
    pub code: u8,
}
