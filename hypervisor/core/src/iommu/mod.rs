//! IOMMUs: what the firmware tells of them, and the layouts of what they read
//! and write. Neutral between the two kinds: [`Interrupt`], [`Message`],
//! [`Fault`].

pub mod amdvi;
mod dmar;
mod ivrs;
mod places;
mod scope;
#[cfg(test)]
mod tests;
pub mod vtd;

pub use dmar::{Dmar, Unit, dmar};
pub use ivrs::{Ivhd, Ivrs, ivrs};
pub use places::{Blocks, PINS, PinTable, Source};
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

/// Message address and data, and redirection entries: bits that both have
/// (Intel SDM vol. 3, "Message Signalled Interrupts"; 82093AA datasheet,
/// 3.2.4).
const LOWEST_PRIORITY: u32 = 1;
const LEVEL: u32 = 1 << 15;

impl Interrupt {
    /// What a message in the usual format asks for. `None`: no interrupt that
    /// goes by its vector.
    #[must_use]
    pub const fn from_message(address: u64, data: u32) -> Option<Self> {
        const PAGE: u64 = 0xfee;
        const LOGICAL: u64 = 1 << 2;
        if address >> 20 != PAGE {
            return None;
        }
        let destination = (address >> 12 & 0xff) as u32;
        Self::new(data, address & LOGICAL != 0, destination)
    }

    /// What the halves of a redirection entry ask for. `None`: it is masked, or
    /// as above.
    #[must_use]
    pub const fn from_redirection(low: u32, high: u32) -> Option<Self> {
        const LOGICAL: u32 = 1 << 11;
        const MASKED: u32 = 1 << 16;
        if low & MASKED != 0 {
            return None;
        }
        Self::new(low, low & LOGICAL != 0, high >> 24)
    }

    const fn new(word: u32, logical: bool, destination: u32) -> Option<Self> {
        let mode = word >> 8 & 7;
        if mode > LOWEST_PRIORITY {
            return None;
        }
        Some(Self {
            vector: word.to_le_bytes()[0],
            lowest_priority: mode == LOWEST_PRIORITY,
            logical,
            destination,
            level: word & LEVEL != 0,
        })
    }
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
