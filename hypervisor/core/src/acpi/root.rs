//! The way in for Linux: RSDP, RSDT and XSDT over the tables it may see
//! (ACPI 6.5 §5.2.5, §5.2.7, §5.2.8).

use super::{AcpiError, Header, Signature, seal, seal_at};
use crate::bytes;

/// Offsets into what [`build_root`] writes: RSDP at 0, then RSDT, then XSDT.
const RSDT_OFFSET: usize = 64;
const TABLE_ALIGN: usize = 16;
/// Bytes of an RSDP of revision 2, and of the part that revision 0 has.
const RSDP_LENGTH: usize = 36;
const RSDP_V1_LENGTH: usize = 20;
const RSDP_EXTENDED_CHECKSUM: usize = 32;
const RSDP_V1_CHECKSUM: usize = 8;

/// What the root tables say.
#[derive(Clone, Copy, Debug)]
pub struct RootTables<'a> {
    /// OEM ID of the machine's own RSDP.
    pub oem_id: [u8; 6],
    /// OEM table ID of the machine's own RSDT or XSDT.
    pub oem_table_id: [u8; 8],
    /// Write an RSDP of revision 2 and an XSDT beside the RSDT, because the
    /// machine has one. Otherwise revision 0 (ACPI 1.0), RSDT only.
    pub xsdt: bool,
    /// Name and physical address of each table that Linux keeps, in order.
    pub tables: &'a [(Signature, u64)],
}

/// Where [`build_root`] put things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// Physical address of the RSDP, for `boot_params.acpi_rsdp_addr`.
    pub rsdp: u64,
    /// Bytes used of the destination.
    pub length: usize,
}

/// Writes RSDP, RSDT and, if asked for, XSDT to `dst`, which Linux finds at
/// physical `address` (16-byte aligned, as the RSDP must be).
///
/// With an XSDT, tables above 4 GiB are named by it alone, and the RSDT is left
/// out of the RSDP when it is itself above 4 GiB.
///
/// # Errors
/// [`AcpiError::DestinationTooSmall`], and [`AcpiError::AddressTooHigh`] for
/// anything above 4 GiB on a machine without XSDT.
pub fn build_root(root: &RootTables<'_>, address: u64, dst: &mut [u8]) -> Result<Root, AcpiError> {
    let count = root.tables.len();
    let rsdt_end = RSDT_OFFSET + Header::LENGTH + 4 * count;
    let xsdt_offset = rsdt_end.next_multiple_of(TABLE_ALIGN);
    let length = if root.xsdt {
        xsdt_offset + Header::LENGTH + 8 * count
    } else {
        rsdt_end
    };
    let too_small = AcpiError::DestinationTooSmall {
        needed: length,
        available: dst.len(),
    };
    let dst = dst.get_mut(..length).ok_or(too_small)?;
    dst.fill(0);

    let rsdt_address = address.wrapping_add(RSDT_OFFSET as u64);
    let rsdt_address = match u32::try_from(rsdt_address) {
        Ok(low) => low,
        Err(_) if root.xsdt => 0,
        Err(_) => {
            return Err(AcpiError::AddressTooHigh {
                table: *b"RSDT",
                address: rsdt_address,
            });
        }
    };
    let rsdt = dst.get_mut(RSDT_OFFSET..rsdt_end).ok_or(too_small)?;
    write_rsdt(root, rsdt)?;
    let mut xsdt_address = 0;
    if root.xsdt {
        xsdt_address = address.wrapping_add(xsdt_offset as u64);
        let xsdt = dst.get_mut(xsdt_offset..).ok_or(too_small)?;
        write_xsdt(root, xsdt).ok_or(too_small)?;
    }
    let rsdp = dst.get_mut(..RSDP_LENGTH).ok_or(too_small)?;
    write_rsdp(root, rsdt_address, xsdt_address, rsdp).ok_or(too_small)?;
    Ok(Root {
        rsdp: address,
        length,
    })
}

fn write_rsdp(root: &RootTables<'_>, rsdt: u32, xsdt: u64, rsdp: &mut [u8]) -> Option<()> {
    bytes::put(rsdp, 0, b"RSD PTR ")?;
    bytes::put(rsdp, 9, &root.oem_id)?;
    bytes::put(rsdp, 16, &rsdt.to_le_bytes())?;
    if root.xsdt {
        bytes::put(rsdp, 15, &[2])?;
        bytes::put(rsdp, 20, &36u32.to_le_bytes())?;
        bytes::put(rsdp, 24, &xsdt.to_le_bytes())?;
    }
    seal_at(rsdp.get_mut(..RSDP_V1_LENGTH)?, RSDP_V1_CHECKSUM);
    if root.xsdt {
        seal_at(rsdp, RSDP_EXTENDED_CHECKSUM);
    }
    Some(())
}

/// Fills `table` with a header; its length field becomes `used`.
fn write_header(
    root: &RootTables<'_>,
    signature: Signature,
    used: usize,
    table: &mut [u8],
) -> Option<()> {
    bytes::put(table, 0, &signature)?;
    bytes::put(table, 4, &u32::try_from(used).ok()?.to_le_bytes())?;
    bytes::put(table, 8, &[1])?;
    bytes::put(table, 10, &root.oem_id)?;
    bytes::put(table, 16, &root.oem_table_id)?;
    bytes::put(table, 24, &1u32.to_le_bytes())?;
    bytes::put(table, 28, b"CLST")?;
    bytes::put(table, 32, &1u32.to_le_bytes())
}

fn write_rsdt(root: &RootTables<'_>, rsdt: &mut [u8]) -> Result<(), AcpiError> {
    let too_small = AcpiError::DestinationTooSmall {
        needed: Header::LENGTH + 4 * root.tables.len(),
        available: rsdt.len(),
    };
    let mut used = Header::LENGTH;
    for &(table, address) in root.tables {
        match u32::try_from(address) {
            Ok(low) => {
                bytes::put(rsdt, used, &low.to_le_bytes()).ok_or(too_small)?;
                used += 4;
            }
            Err(_) if root.xsdt => {}
            Err(_) => return Err(AcpiError::AddressTooHigh { table, address }),
        }
    }
    write_header(root, *b"RSDT", used, rsdt).ok_or(too_small)?;
    seal(rsdt.get_mut(..used).ok_or(too_small)?);
    Ok(())
}

fn write_xsdt(root: &RootTables<'_>, xsdt: &mut [u8]) -> Option<()> {
    write_header(root, *b"XSDT", xsdt.len(), xsdt)?;
    for (index, (_, address)) in root.tables.iter().enumerate() {
        bytes::put(xsdt, Header::LENGTH + 8 * index, &address.to_le_bytes())?;
    }
    seal(xsdt);
    Some(())
}

#[cfg(test)]
#[path = "root_tests.rs"]
mod tests;
