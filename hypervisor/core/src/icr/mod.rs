//! The local APIC's interrupt command register: what a guest asks for.
//!
//! Source: Intel SDM vol. 3, "Issuing Interprocessor Interrupts" (xAPIC) and
//! "ICR Operation in x2APIC Mode"; AMD APM vol. 2 §16.5 and §16.9.

mod resolve;

pub use resolve::{LogicalId, OwnCore, Resolution, resolve, x2apic_icr, xapic_icr};

/// Kind of an interprocessor interrupt (ICR bits 10:8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// The vector, to every destination.
    Fixed,
    /// The vector, to the one destination of lowest priority.
    LowestPriority,
    /// System-management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT. With `deassert` it only synchronises arbitration IDs, which
    /// current processors ignore.
    Init {
        /// Level 0 with trigger mode level.
        deassert: bool,
    },
    /// Start-up; the vector is the page number of the start address.
    StartUp,
    /// A value that means nothing; bits 10:8.
    Reserved(u8),
}

/// Whom an interprocessor interrupt is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The sender (shorthand 1).
    SelfOnly,
    /// Everybody (shorthand 2, or a physical broadcast address).
    All,
    /// Everybody but the sender (shorthand 3).
    AllButSelf,
    /// The core with this APIC ID.
    Physical(u32),
    /// The cores whose logical ID matches this: 8 bits in xAPIC mode, 32 in
    /// x2APIC mode.
    Logical(u32),
}

/// A decoded interrupt command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipi {
    /// What is sent.
    pub mode: DeliveryMode,
    /// Vector; for start-up the page number.
    pub vector: u8,
    /// To whom.
    pub destination: Destination,
}

const LEVEL_ASSERT: u32 = 1 << 14;
const TRIGGER_LEVEL: u32 = 1 << 15;
const LOGICAL: u32 = 1 << 11;
const MODE_NMI: u32 = 4 << 8;

impl Ipi {
    /// Decodes the two words of an xAPIC: offset 0x310 (`high`, destination in
    /// bits 31:24) and 0x300 (`low`).
    #[inline]
    #[must_use]
    pub const fn from_xapic(high: u32, low: u32) -> Self {
        Self::decode(high >> 24, 0xff, low)
    }

    /// Decodes the 64-bit MSR 0x830 of an x2APIC.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are wanted")]
    pub const fn from_x2apic(icr: u64) -> Self {
        Self::decode((icr >> 32) as u32, u32::MAX, icr as u32)
    }

    const fn decode(destination: u32, broadcast: u32, low: u32) -> Self {
        let mode = match (low >> 8) & 7 {
            0 => DeliveryMode::Fixed,
            1 => DeliveryMode::LowestPriority,
            2 => DeliveryMode::Smi,
            4 => DeliveryMode::Nmi,
            5 => DeliveryMode::Init {
                deassert: low & (LEVEL_ASSERT | TRIGGER_LEVEL) == TRIGGER_LEVEL,
            },
            6 => DeliveryMode::StartUp,
            3 => DeliveryMode::Reserved(3),
            _ => DeliveryMode::Reserved(7),
        };
        let destination = match (low >> 18) & 3 {
            1 => Destination::SelfOnly,
            2 => Destination::All,
            3 => Destination::AllButSelf,
            _ if low & LOGICAL != 0 => Destination::Logical(destination),
            _ if destination == broadcast => Destination::All,
            _ => Destination::Physical(destination),
        };
        Self {
            mode,
            vector: low.to_le_bytes()[0],
            destination,
        }
    }

    /// Low ICR word that sends this to one core by physical address. `None`
    /// for what hardware must not be asked for on a guest's behalf: INIT and
    /// start-up are emulated, SMI and reserved modes are dropped.
    ///
    /// Lowest priority becomes fixed, because there is one target. Vectors
    /// below 16 are illegal and sent as they are: the sender's own APIC
    /// records the error, as it would without a hypervisor.
    #[inline]
    #[must_use]
    pub const fn hardware_low(&self) -> Option<u32> {
        match self.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                Some(self.vector as u32 | LEVEL_ASSERT)
            }
            DeliveryMode::Nmi => Some(MODE_NMI | LEVEL_ASSERT),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
