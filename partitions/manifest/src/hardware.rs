//! What a partition can be given of the machine: ports and PCI functions; and
//! the serial port that the hypervisor keeps.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// The serial port that the hypervisor writes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Console {
    /// Ports 0x3f8 to 0x3ff; Linux calls it ttyS0.
    Com1,
    /// Ports 0x2f8 to 0x2ff; Linux calls it ttyS1.
    #[default]
    Com2,
    /// Ports 0x3e8 to 0x3ef; Linux calls it ttyS2.
    Com3,
    /// Ports 0x2e8 to 0x2ef; Linux calls it ttyS3.
    Com4,
    /// The hypervisor prints nothing.
    None,
}

impl Console {
    /// The values with their names in system files.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("com1", Self::Com1),
        ("com2", Self::Com2),
        ("com3", Self::Com3),
        ("com4", Self::Com4),
        ("none", Self::None),
    ];

    /// The first of its eight ports.
    #[must_use]
    pub const fn port(self) -> Option<u16> {
        match self {
            Self::Com1 => Some(0x3f8),
            Self::Com2 => Some(0x2f8),
            Self::Com3 => Some(0x3e8),
            Self::Com4 => Some(0x2e8),
            Self::None => None,
        }
    }

    /// Its eight ports.
    #[must_use]
    pub const fn ports(self) -> Option<PortRange> {
        match self.port() {
            Some(base) => Some(PortRange { base, count: 8 }),
            None => None,
        }
    }

    /// Number of the port in Linux's `ttySn`.
    #[must_use]
    pub const fn tty(self) -> Option<u8> {
        match self {
            Self::Com1 => Some(0),
            Self::Com2 => Some(1),
            Self::Com3 => Some(2),
            Self::Com4 => Some(3),
            Self::None => None,
        }
    }

    /// Its name in system files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Com1 => "com1",
            Self::Com2 => "com2",
            Self::Com3 => "com3",
            Self::Com4 => "com4",
            Self::None => "none",
        }
    }
}

/// Consecutive I/O ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRange {
    /// The first port.
    pub base: u16,
    /// How many, at least 1; `base + count` is at most 0x1_0000.
    pub count: u16,
}

impl PortRange {
    /// The first number after the range, at most 0x1_fffe.
    #[must_use]
    pub fn end(self) -> u32 {
        u32::from(self.base) + u32::from(self.count)
    }

    /// The last port. For an empty or impossible range: the nearest that
    /// exists.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.base.saturating_add(self.count.saturating_sub(1))
    }

    /// Whether `port` is in the range.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        port >= self.base && u32::from(port) < self.end()
    }

    /// Whether a port is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        u32::from(self.base) < other.end() && u32::from(other.base) < self.end()
    }

    /// All its ports.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        (self.base..=self.last()).filter(move |_| self.count > 0)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 1 {
            write!(f, "{:#x}", self.base)
        } else {
            write!(f, "{:#x} to {:#x}", self.base, self.last())
        }
    }
}

/// A PCI function, `segment:bus:device.function` in hexadecimal, as `lspci -D`
/// prints it: `0000:00:03.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PciAddress {
    /// PCI segment group (ACPI `_SEG`); 0 on most machines.
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Device, below 32.
    pub device: u8,
    /// Function, below 8.
    pub function: u8,
}

impl PciAddress {
    /// Whether device and function are in range.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.device < 32 && self.function < 8
    }

    /// Requester ID: bus, device and function as in DMA remapping tables.
    /// Bits of an invalid address are cut off.
    #[must_use]
    pub fn requester_id(self) -> u16 {
        (u16::from(self.bus) << 8)
            | (u16::from(self.device & 0x1f) << 3)
            | u16::from(self.function & 7)
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{:x}",
            self.segment, self.bus, self.device, self.function
        )
    }
}

/// A string is no PCI address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotPciAddress;

impl FromStr for PciAddress {
    type Err = NotPciAddress;

    fn from_str(text: &str) -> Result<Self, NotPciAddress> {
        let field = |text: &str, digits: usize| {
            let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if text.len() != digits || !hexadecimal {
                return Err(NotPciAddress);
            }
            u16::from_str_radix(text, 16).map_err(|_| NotPciAddress)
        };
        let byte = |text, digits| {
            field(text, digits).and_then(|value| u8::try_from(value).map_err(|_| NotPciAddress))
        };
        let (rest, function) = text.split_once('.').ok_or(NotPciAddress)?;
        let (segment, rest) = rest.split_once(':').ok_or(NotPciAddress)?;
        let (bus, device) = rest.split_once(':').ok_or(NotPciAddress)?;
        let address = Self {
            segment: field(segment, 4)?,
            bus: byte(bus, 2)?,
            device: byte(device, 2)?,
            function: byte(function, 1)?,
        };
        address.is_valid().then_some(address).ok_or(NotPciAddress)
    }
}

/// How a system file names a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceName {
    /// By where it is.
    Address(PciAddress),
    /// By what it is: `1af4:1000#1`.
    Id {
        /// Vendor ID.
        vendor: u16,
        /// Device ID.
        device: u16,
        /// Which of those with these IDs, counted from 0 by bus, device and
        /// function.
        index: u8,
    },
}

impl DeviceName {
    /// The key under which a table `{ … }` has it.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Address(_) => "address",
            Self::Id { .. } => "device",
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Id {
                vendor,
                device,
                index,
            } => write!(f, "{vendor:04x}:{device:04x}#{index}"),
        }
    }
}

/// A string names no PCI function by its IDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotPciId;

impl FromStr for DeviceName {
    type Err = NotPciId;

    /// `vendor:device#index`; `#0` may be left out.
    fn from_str(text: &str) -> Result<Self, NotPciId> {
        let id = |text: &str| {
            let hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
            match hexadecimal && text.len() == 4 {
                true => u16::from_str_radix(text, 16).map_err(|_| NotPciId),
                false => Err(NotPciId),
            }
        };
        let (ids, index) = text.split_once('#').unwrap_or((text, "0"));
        let (vendor, device) = ids.split_once(':').ok_or(NotPciId)?;
        if !index.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NotPciId);
        }
        Ok(Self::Id {
            vendor: id(vendor)?,
            device: id(device)?,
            index: index.parse().map_err(|_| NotPciId)?,
        })
    }
}

/// What keeps a device's DMA inside its partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dma {
    /// The IOMMU. Without one the manifest is refused.
    #[default]
    Protected,
    /// Nothing: the operator trusts the partition with all memory.
    Unprotected,
}

/// A PCI function that belongs to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Which one.
    pub name: DeviceName,
    /// What keeps its DMA in bounds.
    pub dma: Dma,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_read_as_lspci_prints_them() {
        let address: PciAddress = "0001:0a:1f.7".parse().unwrap();
        assert_eq!(address.to_string(), "0001:0a:1f.7");
        assert_eq!(address.requester_id(), 0x0aff);
        for wrong in [
            "",
            "00:03.0",
            "0000:00:20.0",
            "0000:00:03.8",
            "0000:00:03",
            "0000:00:03.0 ",
            "000:00:03.0",
            "0000:+1:03.0",
            "0000:00:03.00",
            "0000:0g:03.0",
        ] {
            assert_eq!(wrong.parse::<PciAddress>(), Err(NotPciAddress), "{wrong}");
        }
    }

    #[test]
    fn functions_are_named_by_their_ids() {
        let id = |index| DeviceName::Id {
            vendor: 0x1af4,
            device: 0x1000,
            index,
        };
        assert_eq!("1af4:1000#1".parse(), Ok(id(1)));
        assert_eq!("1AF4:1000".parse(), Ok(id(0)));
        assert_eq!(id(12).to_string(), "1af4:1000#12");
        for wrong in [
            "",
            "1af4",
            "1af4:100",
            "1af4:1000#",
            "1af4:1000#-1",
            "1af4:1000#256",
            "+af4:1000",
        ] {
            assert_eq!(wrong.parse::<DeviceName>(), Err(NotPciId), "{wrong}");
        }
    }

    #[test]
    fn port_ranges_overlap_by_their_ports() {
        let range = |base, count| PortRange { base, count };
        assert!(range(0x2f8, 8).overlaps(range(0x2ff, 1)));
        assert!(!range(0x2f8, 8).overlaps(range(0x300, 1)));
        assert!(!range(0x2f8, 0).contains(0x2f8));
        assert!(range(0xffff, 1).contains(0xffff));
        assert_eq!(range(0xfffe, 2).iter().count(), 2);
        assert_eq!(range(0xfffe, 0).iter().count(), 0);
    }
}
