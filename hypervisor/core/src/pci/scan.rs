//! Finding the functions of a segment, as the firmware has set them up.

use super::bar::Bar;
use super::{Address, BARS, ConfigSpace, register};

/// Capability IDs (PCI Code and ID Assignment Specification).
mod id {
    pub(super) const POWER: u8 = 0x01;
    pub(super) const MSI: u8 = 0x05;
    pub(super) const EXPRESS: u8 = 0x10;
    pub(super) const MSI_X: u8 = 0x11;
    pub(super) const ADVANCED: u8 = 0x13;
    /// Extended: access control services, single-root I/O virtualisation,
    /// resizable BARs.
    pub(super) const ACS: u32 = 0x0d;
    pub(super) const SR_IOV: u32 = 0x10;
    pub(super) const RESIZABLE: u32 = 0x15;
}

/// Class code of host bridges, without the programming interface.
const HOST_BRIDGE: u32 = 0x0600;
/// More capabilities do not fit.
const MOST_CAPABILITIES: usize = 48;
/// Where capabilities begin, and extended ones.
const FIRST_CAPABILITY: u8 = 0x40;
const FIRST_EXTENDED: u16 = 0x100;

/// Offsets of the capabilities that matter; 0: it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Power management.
    pub power: u8,
    /// Message-signalled interrupts.
    pub msi: u8,
    /// MSI-X.
    pub msix: u8,
    /// PCI Express.
    pub express: u8,
    /// Conventional PCI advanced features.
    pub advanced: u8,
    /// Extended: resizable BARs.
    pub resizable: u16,
    /// Extended: single-root I/O virtualisation.
    pub virtual_functions: u16,
    /// Extended: access control services.
    pub access_control: u16,
}

/// Where the table of MSI-X messages is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixTable {
    /// Index of the BAR, 0 to 5.
    pub bar: u8,
    /// From the start of the BAR; a multiple of 8.
    pub offset: u32,
    /// Number of messages, 1 to 2048.
    pub entries: u16,
}

impl MsixTable {
    /// Bytes of a message.
    pub const ENTRY: u64 = 16;

    /// Bytes of the table.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.entries as u64 * Self::ENTRY
    }
}

/// What kind of function it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A type 0 header.
    Endpoint,
    /// A host bridge: its BARs and registers are the machine's.
    HostBridge,
    /// A bridge to buses `secondary` to `subordinate`.
    Bridge {
        /// The bus behind it.
        secondary: u8,
        /// The last bus behind it.
        subordinate: u8,
        /// It keeps requests of those behind it apart: a PCI Express port with
        /// access control services that can redirect every request upstream.
        isolates: bool,
    },
    /// A header of another type.
    Other,
}

/// A function that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Where.
    pub address: Address,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Class, subclass, programming interface in bits 23:0.
    pub class: u32,
    /// What it is.
    pub kind: Kind,
    /// Its BARs; a bridge has two.
    pub bars: [Bar; BARS],
    /// Bytes of its expansion ROM: a power of two; 0: it has none.
    pub rom_size: u32,
    /// Its capabilities.
    pub capabilities: Capabilities,
    /// Its MSI-X table, if it has one.
    pub msix_table: Option<MsixTable>,
}

/// Gives every function that answers to `sink`, by bus, device and function:
/// buses behind bridges as the firmware has numbered them. Decoding of each
/// function is off for the moment in which its BARs are sized; nobody may use
/// it meanwhile.
pub fn scan(config: &mut impl ConfigSpace, mut sink: impl FnMut(FunctionInfo)) {
    let mut buses = [false; 256];
    buses[0] = true;
    for bus in 0..=255_u8 {
        if !buses.get(usize::from(bus)).copied().unwrap_or(false) {
            continue;
        }
        for device in 0..32 {
            let mut functions = 1;
            let mut function = 0;
            while function < functions {
                let at = Address::new(bus, device, function);
                function += 1;
                if config.read(at, register::ID) & 0xffff == 0xffff {
                    continue;
                }
                if config.read(at, register::HEADER_TYPE) & register::MULTIFUNCTION != 0 {
                    functions = 8;
                }
                let info = look(config, at);
                if let Kind::Bridge { secondary, .. } = info.kind
                    && let Some(seen) = buses.get_mut(usize::from(secondary))
                    && secondary > bus
                {
                    *seen = true;
                }
                sink(info);
            }
        }
    }
}

fn look(config: &mut impl ConfigSpace, at: Address) -> FunctionInfo {
    let ids = config.read(at, register::ID).to_le_bytes();
    let class = config.read(at, register::CLASS) >> 8;
    let capabilities = capabilities(config, at);
    let header = config.read(at, register::HEADER_TYPE) >> 16 & 0x7f;
    let kind = match header {
        0 if class >> 8 == HOST_BRIDGE => Kind::HostBridge,
        0 => Kind::Endpoint,
        1 => {
            let [_, secondary, subordinate, _] =
                config.read(at, register::BUS_NUMBERS).to_le_bytes();
            Kind::Bridge {
                secondary,
                subordinate,
                isolates: redirects(config, at, capabilities.access_control),
            }
        }
        _ => Kind::Other,
    };
    let count = match kind {
        Kind::Endpoint => BARS,
        Kind::Bridge { .. } => 2,
        Kind::HostBridge | Kind::Other => 0,
    };
    FunctionInfo {
        address: at,
        vendor: u16::from_le_bytes([ids[0], ids[1]]),
        device: u16::from_le_bytes([ids[2], ids[3]]),
        class,
        kind,
        bars: bars(config, at, count),
        rom_size: match kind {
            Kind::Endpoint => rom_size(config, at, register::ROM),
            Kind::Bridge { .. } => rom_size(config, at, register::BRIDGE_ROM),
            _ => 0,
        },
        msix_table: msix_table(config, at, capabilities.msix),
        capabilities,
    }
}

/// Finds out what the first `count` BARs decode.
fn bars(config: &mut impl ConfigSpace, at: Address, count: usize) -> [Bar; BARS] {
    let mut bars = [Bar::None; BARS];
    if count == 0 {
        return bars;
    }
    const DECODE: u32 = register::IO_SPACE | register::MEMORY_SPACE;
    // The upper half is status: ones there would clear bits.
    let command = config.read(at, register::COMMAND) & 0xffff;
    if command & DECODE != 0 {
        config.write(at, register::COMMAND, command & !DECODE);
    }
    let mut registers = [(0, 0); BARS];
    for (offset, slot) in (register::BAR..).step_by(4).zip(&mut registers).take(count) {
        let value = config.read(at, offset);
        config.write(at, offset, u32::MAX);
        *slot = (value, config.read(at, offset));
        config.write(at, offset, value);
    }
    if command & DECODE != 0 {
        config.write(at, register::COMMAND, command);
    }
    let mut after_wide = false;
    for (index, bar) in bars.iter_mut().enumerate().take(count) {
        if core::mem::take(&mut after_wide) {
            continue;
        }
        let (value, ones) = registers.get(index).copied().unwrap_or_default();
        let next = registers.get(index + 1).filter(|_| index + 1 < count);
        *bar = Bar::decode(value, ones, next.copied());
        after_wide = bar.is_wide();
    }
    bars
}

/// Finds the capabilities of the function at `at`.
pub fn capabilities(config: &impl ConfigSpace, at: Address) -> Capabilities {
    let mut found = Capabilities::default();
    if config.read(at, register::COMMAND) & register::HAS_CAPABILITIES == 0 {
        return found;
    }
    let mut next = config.read(at, register::CAPABILITIES).to_le_bytes()[0] & !3;
    for _ in 0..MOST_CAPABILITIES {
        if next < FIRST_CAPABILITY {
            break;
        }
        let [id, after, ..] = config.read(at, u16::from(next)).to_le_bytes();
        let slot = match id {
            id::POWER => Some(&mut found.power),
            id::MSI => Some(&mut found.msi),
            id::MSI_X => Some(&mut found.msix),
            id::EXPRESS => Some(&mut found.express),
            id::ADVANCED => Some(&mut found.advanced),
            _ => None,
        };
        if let Some(slot) = slot.filter(|slot| **slot == 0) {
            *slot = next;
        }
        next = after & !3;
    }
    if found.express != 0 {
        extended(config, at, &mut found);
    }
    found
}

/// Extended capabilities (PCI Express Base Specification 5.0 §7.6).
fn extended(config: &impl ConfigSpace, at: Address, found: &mut Capabilities) {
    let mut next = FIRST_EXTENDED;
    for _ in 0..MOST_CAPABILITIES {
        let header = config.read(at, next);
        if header == 0 || header == u32::MAX {
            return;
        }
        match header & 0xffff {
            id::ACS => found.access_control = next,
            id::SR_IOV => found.virtual_functions = next,
            id::RESIZABLE => found.resizable = next,
            _ => {}
        }
        next = u16::try_from(header >> 20 & 0xffc).unwrap_or(0);
        if next < FIRST_EXTENDED {
            return;
        }
    }
}

/// Bytes of the expansion ROM whose register is at `offset`, which is off for
/// the moment.
fn rom_size(config: &mut impl ConfigSpace, at: Address, offset: u16) -> u32 {
    const ADDRESS: u32 = 0xffff_f800;
    let value = config.read(at, offset);
    config.write(at, offset, ADDRESS);
    let mask = config.read(at, offset) & ADDRESS;
    config.write(at, offset, value);
    mask & mask.wrapping_neg()
}

fn msix_table(config: &impl ConfigSpace, at: Address, capability: u8) -> Option<MsixTable> {
    if capability == 0 {
        return None;
    }
    let control = config.read(at, u16::from(capability)) >> 16;
    let place = config.read(at, u16::from(capability) + 4);
    Some(MsixTable {
        bar: place.to_le_bytes()[0] & 7,
        offset: place & !7,
        entries: u16::try_from((control & 0x7ff) + 1).unwrap_or(1),
    })
}

/// Whether a port can send every request of those behind it upstream: source
/// validation, request and completion redirect, upstream forwarding (PCI
/// Express Base Specification 5.0 §7.7.8.2).
fn redirects(config: &impl ConfigSpace, at: Address, capability: u16) -> bool {
    const WANTED: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4;
    capability != 0 && config.read(at, capability + 4) & WANTED == WANTED
}
