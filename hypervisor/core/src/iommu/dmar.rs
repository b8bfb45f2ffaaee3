//! DMAR: the table of VT-d (Intel VT-d specification 4.1, chapter 8).

use heapless::Vec;

use super::{IoApicSource, MAX_IO_APICS, MAX_RESERVED, MAX_UNITS, Requester, Reserved};
use crate::acpi::{AcpiError, table};
use crate::bytes;
use crate::memory::Range;

const SIGNATURE: [u8; 4] = *b"DMAR";
/// Header, address width, flags, reserved; the structures follow (8.1).
const FIXED: usize = 48;

/// One remapping unit (8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Physical address of its registers.
    pub registers: u64,
    /// PCI segment.
    pub segment: u16,
}

/// What the table tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dmar {
    /// The platform remaps interrupts (8.1, INTR_REMAP).
    pub interrupt_remapping: bool,
    /// The firmware asks not to use x2APIC mode (8.1, X2APIC_OPT_OUT).
    pub x2apic_opt_out: bool,
    /// The units.
    pub units: Vec<Unit, MAX_UNITS>,
    /// Who the I/O APICs are.
    pub io_apics: Vec<IoApicSource, MAX_IO_APICS>,
    /// Reserved memory regions (8.4).
    pub reserved: Vec<Reserved, MAX_RESERVED>,
}

/// Reads the DMAR at the start of `bytes`. More units, I/O APICs or regions
/// than there is room for are an error: nothing is left out in silence.
/// Device scopes below bridges are told by the bridge's own function.
///
/// # Errors
/// When it is another table or damaged.
pub fn dmar(bytes: &[u8]) -> Result<Dmar, AcpiError> {
    const DRHD: u16 = 0;
    const RMRR: u16 = 1;
    let dmar = table(bytes, SIGNATURE, FIXED)?;
    let flags = bytes::u8_at(dmar, 37).unwrap_or(0);
    let mut found = Dmar {
        interrupt_remapping: flags & 1 != 0,
        x2apic_opt_out: flags & 2 != 0,
        ..Dmar::default()
    };
    let mut offset = FIXED;
    while offset < dmar.len() {
        let damaged = AcpiError::Entry {
            table: SIGNATURE,
            offset,
        };
        let structure = structure(dmar, offset).ok_or(damaged)?;
        let read = match bytes::u16_at(structure, 0) {
            Some(DRHD) => drhd(structure, &mut found),
            Some(RMRR) => rmrr(structure, &mut found),
            _ => Some(()),
        };
        read.ok_or(damaged)?;
        offset += structure.len();
    }
    Ok(found)
}

/// The structure at `offset`: type and length, 16 bits each.
fn structure(dmar: &[u8], offset: usize) -> Option<&[u8]> {
    let length = usize::from(bytes::u16_at(dmar, offset.checked_add(2)?)?);
    dmar.get(offset..offset.checked_add(length)?)
        .filter(|_| length >= 4)
}

fn drhd(structure: &[u8], found: &mut Dmar) -> Option<()> {
    const IO_APIC: u8 = 3;
    let unit = Unit {
        registers: bytes::u64_at(structure, 8)?,
        segment: bytes::u16_at(structure, 6)?,
    };
    found.units.push(unit).ok()?;
    scopes(structure.get(16..)?, |kind, id, requester| {
        if kind == IO_APIC {
            let source = IoApicSource { id, requester };
            found.io_apics.push(source).ok()?;
        }
        Some(())
    })
}

fn rmrr(structure: &[u8], found: &mut Dmar) -> Option<()> {
    let start = bytes::u64_at(structure, 8)?;
    // The limit is the last byte.
    let end = bytes::u64_at(structure, 16)?.checked_add(1)?;
    let range = Range::new(start, end)?.align_outward(0x1000);
    let mut count = 0_u32;
    scopes(structure.get(24..)?, |_, _, requester| {
        count += 1;
        found
            .reserved
            .push(Reserved {
                range,
                requester: Some(requester),
            })
            .ok()
    })?;
    if count == 0 {
        let everybody = Reserved {
            range,
            requester: None,
        };
        found.reserved.push(everybody).ok()?;
    }
    Some(())
}

/// Gives each device scope (8.3.1) to `sink`: type, enumeration ID, requester.
/// A path of more than one hop is told by its first: the bus numbers behind a
/// bridge are in its configuration space, not here.
fn scopes(mut rest: &[u8], mut sink: impl FnMut(u8, u8, Requester) -> Option<()>) -> Option<()> {
    const FIXED: usize = 6;
    while !rest.is_empty() {
        let length = usize::from(bytes::u8_at(rest, 1)?);
        let scope = rest.get(..length).filter(|_| length >= FIXED + 2)?;
        let bus = u16::from(bytes::u8_at(scope, 5)?);
        let device = u16::from(bytes::u8_at(scope, 6)? & 31);
        let function = u16::from(bytes::u8_at(scope, 7)? & 7);
        let requester = Requester(bus << 8 | device << 3 | function);
        sink(bytes::u8_at(scope, 0)?, bytes::u8_at(scope, 4)?, requester)?;
        rest = rest.get(length..)?;
    }
    Some(())
}
