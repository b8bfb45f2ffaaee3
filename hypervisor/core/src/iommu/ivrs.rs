//! IVRS: the table of AMD-Vi (AMD I/O Virtualization Technology specification
//! 48882, chapter 5).

use heapless::Vec;

use super::{IoApicSource, MAX_IO_APICS, MAX_RESERVED, MAX_UNITS, Requester, Reserved};
use crate::acpi::{AcpiError, table};
use crate::bytes;
use crate::memory::Range;

const SIGNATURE: [u8; 4] = *b"IVRS";
/// Header, virtualization information, reserved; the blocks follow (5.2.1).
const FIXED: usize = 48;

/// One IOMMU (5.2.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ivhd {
    /// Physical address of its registers.
    pub registers: u64,
    /// Its own PCI function.
    pub function: Requester,
    /// Offset of its capability in that function's configuration space.
    pub capability: u16,
    /// PCI segment.
    pub segment: u16,
    /// Bits 0 to 3 are the control register's HtTunEn, PassPW, ResPassPW and
    /// Isoc; bit 5 Coherent.
    pub flags: u8,
}

/// What the table tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ivrs {
    /// The IOMMUs, each once.
    pub units: Vec<Ivhd, MAX_UNITS>,
    /// Who the I/O APICs are.
    pub io_apics: Vec<IoApicSource, MAX_IO_APICS>,
    /// Memory definition blocks (5.2.2.8) that are not for all devices are
    /// told with their function; ranges of functions as for all.
    pub reserved: Vec<Reserved, MAX_RESERVED>,
    /// Which requester a device's requests come from, if not its own (5.2.2.5):
    /// device, alias. Ranges are told by their first device.
    pub aliases: Vec<(Requester, Requester), 16>,
}

/// Reads the IVRS at the start of `bytes`. An IOMMU that several blocks tell of
/// (types 10h, 11h, 40h) is taken once.
///
/// # Errors
/// When it is another table, damaged, or tells more than there is room for.
pub fn ivrs(bytes: &[u8]) -> Result<Ivrs, AcpiError> {
    let ivrs = table(bytes, SIGNATURE, FIXED)?;
    let mut found = Ivrs::default();
    let mut offset = FIXED;
    while offset < ivrs.len() {
        let damaged = AcpiError::Entry {
            table: SIGNATURE,
            offset,
        };
        let block = block(ivrs, offset).ok_or(damaged)?;
        let read = match bytes::u8_at(block, 0) {
            Some(kind @ (0x10 | 0x11 | 0x40)) => ivhd(kind, block, &mut found),
            Some(kind @ 0x20..=0x22) => ivmd(kind, block, &mut found),
            _ => Some(()),
        };
        read.ok_or(damaged)?;
        offset += block.len();
    }
    Ok(found)
}

/// The block at `offset`: type, flags, length of 16 bits.
fn block(ivrs: &[u8], offset: usize) -> Option<&[u8]> {
    let length = usize::from(bytes::u16_at(ivrs, offset.checked_add(2)?)?);
    ivrs.get(offset..offset.checked_add(length)?)
        .filter(|_| length >= 4)
}

fn ivhd(kind: u8, block: &[u8], found: &mut Ivrs) -> Option<()> {
    let unit = Ivhd {
        registers: bytes::u64_at(block, 8)?,
        function: Requester(bytes::u16_at(block, 4)?),
        capability: bytes::u16_at(block, 6)?,
        segment: bytes::u16_at(block, 16)?,
        flags: bytes::u8_at(block, 1)?,
    };
    if found
        .units
        .iter()
        .all(|known| known.registers != unit.registers)
    {
        found.units.push(unit).ok()?;
    }
    let entries = if kind == 0x10 { 24 } else { 40 };
    devices(block.get(entries..)?, found)
}

/// The device entries of a block (5.2.2.2 and following).
fn devices(mut rest: &[u8], found: &mut Ivrs) -> Option<()> {
    const ALIAS: u8 = 0x42;
    const ALIAS_RANGE: u8 = 0x43;
    const SPECIAL: u8 = 0x48;
    const ACPI_DEVICE: u8 = 0xf0;
    const IO_APIC: u8 = 1;
    while let Some(kind) = bytes::u8_at(rest, 0) {
        // The two upper bits tell the length: 4, 8, 16, 32 bytes (5.2.2.2).
        let length = match kind {
            ACPI_DEVICE => 22 + usize::from(bytes::u8_at(rest, 21)?),
            _ => 4 << (kind >> 6),
        };
        let entry = rest.get(..length)?;
        match kind {
            ALIAS | ALIAS_RANGE => {
                let device = Requester(bytes::u16_at(entry, 1)?);
                let alias = Requester(bytes::u16_at(entry, 5)?);
                if !found.aliases.contains(&(device, alias)) {
                    found.aliases.push((device, alias)).ok()?;
                }
            }
            SPECIAL if bytes::u8_at(entry, 7)? == IO_APIC => {
                let source = IoApicSource {
                    id: bytes::u8_at(entry, 4)?,
                    requester: Requester(bytes::u16_at(entry, 5)?),
                };
                if !found.io_apics.contains(&source) {
                    found.io_apics.push(source).ok()?;
                }
            }
            _ => {}
        }
        rest = rest.get(length..)?;
    }
    Some(())
}

fn ivmd(kind: u8, block: &[u8], found: &mut Ivrs) -> Option<()> {
    const ONE: u8 = 0x21;
    let start = bytes::u64_at(block, 16)?;
    let length = bytes::u64_at(block, 24)?;
    let range = Range::at(start, length)?.align_outward(0x1000);
    let function = Requester(bytes::u16_at(block, 4)?);
    let reserved = Reserved {
        range,
        requester: (kind == ONE).then_some(function),
    };
    found.reserved.push(reserved).ok()
}
