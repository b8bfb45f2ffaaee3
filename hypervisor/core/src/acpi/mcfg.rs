//! MCFG: where PCI Express configuration space lies in memory (PCI Firmware
//! Specification 3.3 §4.1.2).

use super::{AcpiError, table};
use crate::bytes;

/// Header and the eight reserved bytes after it.
const FIXED: usize = 44;
/// Bytes of one allocation.
const ENTRY: usize = 16;

/// Configuration space of buses from 0 on in segment 0: 4 KiB a function, 8
/// functions a device, 32 devices a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ecam {
    /// Physical address, where bus 0 is.
    pub base: u64,
    /// The last bus that is there.
    pub last_bus: u8,
}

impl Ecam {
    /// Bytes of one function.
    pub const FUNCTION: u64 = 4096;

    /// Address of the function with requester ID `id`.
    #[must_use]
    pub const fn function(self, id: u16) -> Option<u64> {
        let [_, bus] = id.to_le_bytes();
        if bus > self.last_bus {
            return None;
        }
        self.base.checked_add(id as u64 * Self::FUNCTION)
    }

    /// Bytes of all.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        (self.last_bus as u64 + 1) << 20
    }

    /// Requester ID and offset of what lies at `address`.
    #[must_use]
    pub fn place(self, address: u64) -> Option<(u16, u16)> {
        let within = address.checked_sub(self.base)?;
        if within >= self.bytes() {
            return None;
        }
        let id = u16::try_from(within / Self::FUNCTION).ok()?;
        let offset = u16::try_from(within % Self::FUNCTION).ok()?;
        Some((id, offset))
    }
}

/// Configuration space of segment 0, if the MCFG at the start of `bytes`
/// tells where it begins with bus 0, at a multiple of 1 MiB.
///
/// # Errors
/// When it is another table, or damaged.
pub fn ecam(bytes: &[u8]) -> Result<Option<Ecam>, AcpiError> {
    let mcfg = table(bytes, *b"MCFG", FIXED)?;
    let entries = mcfg.get(FIXED..).unwrap_or(&[]).chunks_exact(ENTRY);
    Ok(entries
        .filter(|entry| bytes::u16_at(entry, 8) == Some(0) && bytes::u8_at(entry, 10) == Some(0))
        .find_map(|entry| {
            let base = bytes::u64_at(entry, 0).filter(|base| base.is_multiple_of(1 << 20))?;
            let last_bus = bytes::u8_at(entry, 11)?;
            base.checked_add(256 << 20)?;
            Some(Ecam { base, last_bus })
        }))
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
        bytes[55] = 127;
        let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        bytes[9] = 0_u8.wrapping_sub(sum);
        bytes
    }

    #[test]
    fn finds_bus_0_of_segment_0_only() {
        let found = ecam(&mcfg(0, 0)).unwrap().unwrap();
        assert_eq!((found.base, found.last_bus), (0xb000_0000, 127));
        assert_eq!(ecam(&mcfg(1, 0)), Ok(None));
        assert_eq!(ecam(&mcfg(0, 1)), Ok(None));
        assert!(ecam(b"MCFG").is_err());
    }

    #[test]
    fn functions_have_a_page_each() {
        let ecam = Ecam {
            base: 0xb000_0000,
            last_bus: 1,
        };
        assert_eq!(ecam.bytes(), 2 << 20);
        assert_eq!(ecam.function(0x18), Some(0xb001_8000));
        assert_eq!(ecam.function(0x200), None);
        assert_eq!(ecam.place(0xb001_8004), Some((0x18, 4)));
        assert_eq!(ecam.place(0xb020_0000), None);
        assert_eq!(ecam.place(0xafff_ffff), None);
    }
}
