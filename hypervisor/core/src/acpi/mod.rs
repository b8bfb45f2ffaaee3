//! ACPI tables as bytes: what the hypervisor reads of them, and the copies
//! that Linux gets.
//!
//! Source: ACPI Specification 6.5, chapter 5 (tables) and chapter 4 (fixed
//! hardware). The tables are firmware's: nothing in them is trusted.

mod aml;
mod fadt;
mod madt;
mod mcfg;
mod root;

use core::fmt;

pub use aml::{hide_sleep_states, sleep_type, sleep_type_s5};
pub use fadt::{AddressSpace, Fadt, Register, Reset};
pub use madt::{IoApic, MadtCore, MadtCores, filter_madt, madt_cores, madt_io_apics};
pub use mcfg::{Ecam, ecam};
pub use root::{Root, RootTables, build_root};

use crate::bytes;

/// Name of a table.
pub type Signature = [u8; 4];

/// Why a table was not understood or not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiError {
    /// The table says it has `length` bytes, of which only `available` are
    /// there; or it is shorter than its own fixed part.
    Truncated {
        /// Name of the table wanted.
        table: Signature,
        /// Bytes needed.
        length: usize,
        /// Bytes present.
        available: usize,
    },
    /// Another table than expected.
    Signature {
        /// Name wanted.
        expected: Signature,
        /// Name found.
        found: Signature,
    },
    /// The bytes do not add up to 0.
    Checksum {
        /// Name of the table.
        table: Signature,
        /// What they add up to.
        sum: u8,
    },
    /// An entry of the table is shorter than its type demands, or reaches past
    /// the table's end.
    Entry {
        /// Name of the table.
        table: Signature,
        /// Where the entry starts.
        offset: usize,
    },
    /// The destination cannot hold the result.
    DestinationTooSmall {
        /// Bytes needed.
        needed: usize,
        /// Bytes present.
        available: usize,
    },
    /// A machine without XSDT can name only tables below 4 GiB.
    AddressTooHigh {
        /// Name of the table.
        table: Signature,
        /// Its physical address.
        address: u64,
    },
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated {
                table,
                length,
                available,
            } => write!(
                f,
                "ACPI table {} needs {length} bytes, only {available} are there",
                table.escape_ascii()
            ),
            Self::Signature { expected, found } => write!(
                f,
                "ACPI table {} found where {} was expected",
                found.escape_ascii(),
                expected.escape_ascii()
            ),
            Self::Checksum { table, sum } => write!(
                f,
                "ACPI table {} adds up to {sum:#x} instead of 0",
                table.escape_ascii()
            ),
            Self::Entry { table, offset } => write!(
                f,
                "ACPI table {}: entry at offset {offset:#x} has an impossible length",
                table.escape_ascii()
            ),
            Self::DestinationTooSmall { needed, available } => write!(
                f,
                "copies of the ACPI tables need {needed} bytes, {available} were set aside"
            ),
            Self::AddressTooHigh { table, address } => write!(
                f,
                "ACPI table {} is at {address:#x}; a machine without XSDT needs it below 4 GiB",
                table.escape_ascii()
            ),
        }
    }
}

impl core::error::Error for AcpiError {}

/// Whether Linux must not see this table: those that describe an IOMMU, which
/// is the hypervisor's own.
#[must_use]
pub fn hidden_from_linux(signature: &Signature) -> bool {
    matches!(signature, b"DMAR" | b"IVRS" | b"VIOT")
}

/// The sum of all bytes, modulo 256: 0 for a sound table (ACPI 6.5 §5.2.3).
#[must_use]
pub fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Sets the checksum byte, at offset 9, so that all bytes of `table` add up to
/// 0. A slice of fewer than 10 bytes is left alone.
pub fn seal(table: &mut [u8]) {
    seal_at(table, Header::CHECKSUM);
}

fn seal_at(bytes: &mut [u8], offset: usize) {
    let sum = checksum(bytes);
    if let Some(byte) = bytes.get_mut(offset) {
        *byte = byte.wrapping_sub(sum);
    }
}

/// The header that all tables but RSDP and FACS start with (ACPI 6.5 §5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Name of the table.
    pub signature: Signature,
    /// Bytes of the whole table, this header included.
    pub length: u32,
    /// Revision of the table's layout.
    pub revision: u8,
    /// Who made the firmware.
    pub oem_id: [u8; 6],
    /// Who made the firmware, for this table.
    pub oem_table_id: [u8; 8],
}

impl Header {
    /// Bytes of the header.
    pub const LENGTH: usize = 36;
    const CHECKSUM: usize = 9;

    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// [`AcpiError::Truncated`] with fewer than 36 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, AcpiError> {
        let read = || {
            Some(Self {
                signature: bytes::array(bytes, 0)?,
                length: bytes::u32_at(bytes, 4)?,
                revision: bytes::u8_at(bytes, 8)?,
                oem_id: bytes::array(bytes, 10)?,
                oem_table_id: bytes::array(bytes, 16)?,
            })
        };
        match read() {
            Some(header) if bytes.len() >= Self::LENGTH => Ok(header),
            _ => Err(AcpiError::Truncated {
                table: *b"????",
                length: Self::LENGTH,
                available: bytes.len(),
            }),
        }
    }

    /// Whether `bytes` start with a table of this length whose bytes add up
    /// to 0.
    ///
    /// # Errors
    /// [`AcpiError::Truncated`] or [`AcpiError::Checksum`].
    pub fn verify(bytes: &[u8]) -> Result<Self, AcpiError> {
        let header = Self::parse(bytes)?;
        let table = header.trim(bytes)?;
        match checksum(table) {
            0 => Ok(header),
            sum => Err(AcpiError::Checksum {
                table: header.signature,
                sum,
            }),
        }
    }

    /// `bytes` cut to the length that the header tells.
    fn trim<'a>(&self, bytes: &'a [u8]) -> Result<&'a [u8], AcpiError> {
        let length = self.length as usize;
        match bytes.get(..length) {
            Some(table) if length >= Self::LENGTH => Ok(table),
            _ => Err(AcpiError::Truncated {
                table: self.signature,
                length: length.max(Self::LENGTH),
                available: bytes.len().min(length),
            }),
        }
    }
}

/// The table `signature` at the start of `bytes`, cut to its length, which is
/// at least `minimum`.
pub(crate) fn table(
    bytes: &[u8],
    signature: Signature,
    minimum: usize,
) -> Result<&[u8], AcpiError> {
    let header = Header::parse(bytes)?;
    if header.signature != signature {
        return Err(AcpiError::Signature {
            expected: signature,
            found: header.signature,
        });
    }
    let table = header.trim(bytes)?;
    if table.len() < minimum {
        return Err(AcpiError::Truncated {
            table: signature,
            length: minimum,
            available: table.len(),
        });
    }
    Ok(table)
}

#[cfg(test)]
mod tests;
