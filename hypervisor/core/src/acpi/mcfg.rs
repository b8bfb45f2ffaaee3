//! MCFG: where PCI Express configuration space lies in memory (PCI Firmware
//! Specification 3.3 §4.1.2).

use super::{AcpiError, table};
use crate::bytes;

/// Header and the eight reserved bytes after it.
const FIXED: usize = 44;
/// Bytes of one allocation.
const ENTRY: usize = 16;

/// Physical address of the configuration space of bus 0 in segment 0, if the
/// MCFG at the start of `bytes` tells one: 4 KiB a function, 8 functions a
/// device.
///
/// # Errors
/// When it is another table, or damaged.
pub fn ecam_of_bus_0(bytes: &[u8]) -> Result<Option<u64>, AcpiError> {
    let mcfg = table(bytes, *b"MCFG", FIXED)?;
    let entries = mcfg.get(FIXED..).unwrap_or(&[]).chunks_exact(ENTRY);
    Ok(entries
        .filter(|entry| bytes::u16_at(entry, 8) == Some(0) && bytes::u8_at(entry, 10) == Some(0))
        .find_map(|entry| bytes::u64_at(entry, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mcfg(segment: u8, first_bus: u8) -> [u8; 60] {
        let mut bytes = [0; 60];
        bytes[..4].copy_from_slice(b"MCFG");
        bytes[4] = 60;
        bytes[44..52].copy_from_slice(&0xb000_0000_u64.to_le_bytes());
        bytes[52] = segment;
        bytes[54] = first_bus;
        bytes[55] = 255;
        let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        bytes[9] = 0_u8.wrapping_sub(sum);
        bytes
    }

    #[test]
    fn finds_bus_0_of_segment_0_only() {
        assert_eq!(ecam_of_bus_0(&mcfg(0, 0)), Ok(Some(0xb000_0000)));
        assert_eq!(ecam_of_bus_0(&mcfg(1, 0)), Ok(None));
        assert_eq!(ecam_of_bus_0(&mcfg(0, 1)), Ok(None));
        assert!(ecam_of_bus_0(b"MCFG").is_err());
    }
}
