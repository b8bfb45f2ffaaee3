//! PCI: what configuration space says about a function, and what a guest may
//! write to it.
//!
//! Sources: PCI Local Bus Specification 3.0, chapter 6; PCI Express Base
//! Specification 5.0, chapter 7; PCI-to-PCI Bridge Architecture Specification
//! 1.2, chapter 3.

mod bar;
mod filter;
mod message;
mod own;
mod scan;
mod software;
#[cfg(test)]
mod tests;

use core::fmt;

pub use bar::Bar;
pub use filter::{Claim, Judge, decide as decide_linux};
pub use message::{Message, msi, msix_is_on, msix_message, msix_table_address};
pub use own::{Verdict, decide as decide_own};
pub use scan::{Capabilities, FunctionInfo, Kind, MsixTable, capabilities, scan};
pub use software::{Function, Identity};

/// Number of BARs of a type 0 header.
pub const BARS: usize = 6;

/// Registers of the header, and bits in them.
pub mod register {
    /// Vendor ID, device ID.
    pub const ID: u16 = 0x00;
    /// Command, status.
    pub const COMMAND: u16 = 0x04;
    /// Command: I/O space enable.
    pub const IO_SPACE: u32 = 1 << 0;
    /// Command: memory space enable.
    pub const MEMORY_SPACE: u32 = 1 << 1;
    /// Command: bus master enable.
    pub const BUS_MASTER: u32 = 1 << 2;
    /// Command: INTx disable.
    pub const INTX_DISABLE: u32 = 1 << 10;
    /// Status, as bit of the register: there is a list of capabilities.
    pub const HAS_CAPABILITIES: u32 = 1 << 20;
    /// Revision; class, subclass and programming interface in bits 31:8.
    pub const CLASS: u16 = 0x08;
    /// Cache line size, latency timer, header type, BIST.
    pub const HEADER_TYPE: u16 = 0x0c;
    /// The device has several functions.
    pub const MULTIFUNCTION: u32 = 1 << 23;
    /// First BAR.
    pub const BAR: u16 = 0x10;
    /// Bridge: primary, secondary, subordinate bus.
    pub const BUS_NUMBERS: u16 = 0x18;
    /// Type 0: expansion ROM.
    pub const ROM: u16 = 0x30;
    /// Offset of the first capability.
    pub const CAPABILITIES: u16 = 0x34;
    /// Bridge: expansion ROM.
    pub const BRIDGE_ROM: u16 = 0x38;
    /// Interrupt line and pin; bridge: control in bits 31:16.
    pub const INTERRUPT: u16 = 0x3c;
}

/// Where a function is in its segment: bus, device and function, as in a
/// requester ID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(pub u16);

impl Address {
    /// Device and function are cut to 5 and 3 bits.
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Self {
        Self((bus as u16) << 8 | ((device & 31) as u16) << 3 | (function & 7) as u16)
    }

    /// Bus.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.0.to_le_bytes()[1]
    }

    /// Device, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.0.to_le_bytes()[0] >> 3
    }

    /// Function, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.0.to_le_bytes()[0] & 7
    }

    /// Function 0 of the same device.
    #[must_use]
    pub const fn first(self) -> Self {
        Self(self.0 & !7)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bus, device, function) = (self.bus(), self.device(), self.function());
        write!(f, "{bus:02x}:{device:02x}.{function:x}")
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Configuration space of one segment.
pub trait ConfigSpace {
    /// The aligned 32 bits at `offset` (0 to 0xffc); ones where nothing
    /// answers or that part of the space cannot be reached.
    fn read(&self, at: Address, offset: u16) -> u32;
    /// Writes the aligned 32 bits at `offset`.
    fn write(&mut self, at: Address, offset: u16, value: u32);
}

/// A read of `width` bytes (1, 2 or 4) at `offset` out of its aligned
/// register; ones across a register's end.
#[must_use]
pub fn part(register: u32, offset: u16, width: u8) -> u32 {
    lanes(offset, width).map_or(u32::MAX, |lanes| (register & lanes) >> (offset % 4 * 8))
}

/// The bits of the aligned register that an access touches; `None` across its
/// end, or for a width that does not exist.
#[must_use]
pub fn lanes(offset: u16, width: u8) -> Option<u32> {
    let mask = match width {
        1 => 0xff,
        2 => 0xffff,
        4 => u32::MAX,
        _ => return None,
    };
    let within = offset % 4;
    (within + u16::from(width) <= 4).then(|| mask << (within * 8))
}
