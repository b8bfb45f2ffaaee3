//! Where devices' interrupts go: redirection entries of I/O APICs and
//! message-signalled interrupts.
//!
//! Source: Intel 82093AA datasheet, 3.2.4 "I/O Redirection Table Registers";
//! Intel SDM vol. 3, "Message Signalled Interrupts".

use crate::icr::{DeliveryMode, Destination, Ipi, OwnCore, resolve};

/// An interrupt that is set up and not masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its vector. Of an NMI or an interrupt of the legacy controller it says
    /// nothing.
    pub vector: u8,
    /// Whether it is delivered by its vector (fixed, lowest priority).
    pub by_vector: bool,
    logical: bool,
    destination: u32,
}

/// Redirection entry: masked.
const MASKED: u32 = 1 << 16;
/// Redirection entry: the destination is a logical one.
const LOGICAL: u32 = 1 << 11;
/// The page of message addresses.
const MESSAGE_PAGE: u64 = 0xfee;
/// Message address: the destination is a logical one.
const MESSAGE_LOGICAL: u64 = 1 << 2;

/// Delivery mode, bits 10:8 of a redirection entry and of message data:
/// whether it goes by vector; `None` for modes that interrupt nobody (SMI
/// aside, which no software sees).
const fn by_vector(word: u32) -> Option<bool> {
    match word >> 8 & 7 {
        0 | 1 => Some(true),
        // NMI, INIT, ExtINT.
        4 | 5 | 7 => Some(false),
        _ => None,
    }
}

impl Route {
    /// From the halves of a redirection entry. `None`: it is masked.
    #[must_use]
    pub const fn from_redirection(low: u32, high: u32) -> Option<Self> {
        if low & MASKED != 0 {
            return None;
        }
        let Some(by_vector) = by_vector(low) else {
            return None;
        };
        Some(Self {
            vector: low.to_le_bytes()[0],
            by_vector,
            logical: low & LOGICAL != 0,
            destination: high >> 24,
        })
    }

    /// From the address and the data of a message. `None`: it is no
    /// interrupt.
    #[must_use]
    pub const fn from_message(address: u64, data: u32) -> Option<Self> {
        if address >> 20 != MESSAGE_PAGE {
            return None;
        }
        let Some(by_vector) = by_vector(data) else {
            return None;
        };
        let [_, low, high, ..] = address.to_le_bytes();
        Some(Self {
            vector: data.to_le_bytes()[0],
            by_vector,
            logical: address & MESSAGE_LOGICAL != 0,
            destination: (low >> 4 | high << 4) as u32,
        })
    }

    /// Whether it can reach `core`. One of several destinations is enough.
    #[must_use]
    pub fn reaches(&self, core: OwnCore) -> bool {
        const BROADCAST: u32 = 0xff;
        const NOBODY: u32 = u32::MAX;
        let destination = match (self.logical, self.destination) {
            (false, BROADCAST) => Destination::All,
            (false, id) => Destination::Physical(id),
            (true, id) => Destination::Logical(id),
        };
        let ipi = Ipi {
            mode: DeliveryMode::Fixed,
            vector: self.vector,
            destination,
        };
        let cores = core::iter::once(core);
        resolve(&ipi, NOBODY, cores).indices().next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::icr::LogicalId;

    fn flat(apic_id: u32, id: u8) -> OwnCore {
        OwnCore {
            apic_id,
            logical: LogicalId::Flat(id),
        }
    }

    #[test]
    fn redirection_entries() {
        assert_eq!(Route::from_redirection(0x1_0030, 0), None);
        let route = Route::from_redirection(0x30, 2 << 24).unwrap();
        assert_eq!(route.vector, 0x30);
        assert!(route.by_vector);
        assert!(route.reaches(flat(2, 0)));
        assert!(!route.reaches(flat(1, 2)));
        let route = Route::from_redirection(0x831, 6 << 24).unwrap();
        assert!(route.reaches(flat(9, 4)));
        assert!(!route.reaches(flat(6, 1)));
        assert!(!route.reaches(flat(6, 0)));
        let everybody = Route::from_redirection(0x30, 0xff << 24).unwrap();
        assert!(everybody.reaches(flat(7, 0)));
        let external = Route::from_redirection(0x700, 0).unwrap();
        assert!(!external.by_vector);
        assert_eq!(Route::from_redirection(0x200, 0), None);
    }

    #[test]
    fn messages() {
        let route = Route::from_message(0xfee0_3000, 0x4041).unwrap();
        assert_eq!(route.vector, 0x41);
        assert!(route.reaches(flat(3, 0)));
        assert!(!route.reaches(flat(0x30, 0)));
        let route = Route::from_message(0xfeea_b00c, 0x41).unwrap();
        assert!(route.reaches(flat(0, 0x20)));
        assert_eq!(Route::from_message(0, 0x41), None);
        assert_eq!(Route::from_message(0x1_fee0_0000, 0x41), None);
    }

    #[test]
    fn x2apic_cores_are_reached_by_their_logical_ids() {
        let core = OwnCore {
            apic_id: 3,
            logical: LogicalId::from_x2apic_id(3),
        };
        let route = Route::from_redirection(0x830, 8 << 24).unwrap();
        assert!(route.reaches(core));
        let route = Route::from_redirection(0x830, 4 << 24).unwrap();
        assert!(!route.reaches(core));
    }
}
