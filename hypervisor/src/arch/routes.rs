//! Reading where devices' interrupts go: I/O APICs, and MSI and MSI-X
//! capabilities in PCI configuration space.
//!
//! An I/O APIC and configuration space by ports are reached through an index
//! register that Linux uses as well. The functions here put the index back as
//! they found it, so that whoever stands still meanwhile does not notice; the
//! caller sees to it that everybody else does ([`crate::cores::hold`]).

use cloister_core::acpi::IoApic;
use cloister_core::route::Route;

use crate::arch::{cpu, paging};

/// Reads a 32-bit register of a device, if there is a device at `address`.
fn device_read(address: u64) -> Option<u32> {
    let usable = address.is_multiple_of(4) && paging::is_device(address);
    // SAFETY: mapped at its own address, uncached: no memory.
    usable.then(|| unsafe { (address as *const u32).read_volatile() })
}

/// Writes one.
fn device_write(address: u64, value: u32) {
    if address.is_multiple_of(4) && paging::is_device(address) {
        // SAFETY: as above; callers name registers of I/O APICs only, which
        // touch no memory.
        unsafe { (address as *mut u32).write_volatile(value) };
    }
}

/// Offset of the index register (82093AA datasheet, 3.1).
const SELECT: u64 = 0x00;
/// Offset of the data register.
const WINDOW: u64 = 0x10;
const VERSION: u32 = 1;
const TABLE: u32 = 0x10;
/// Redirection entry: masked.
const MASKED: u32 = 1 << 16;

/// Gives each pin's global system interrupt and the halves of its entry to
/// `sink`. Returning `true` it has the pin masked.
pub(crate) fn pins(io_apic: &IoApic, mut sink: impl FnMut(u32, u32, u32) -> bool) {
    let base = u64::from(io_apic.address);
    let register = |index: u32| {
        device_write(base + SELECT, index);
        device_read(base + WINDOW).unwrap_or(u32::MAX)
    };
    let Some(selected) = device_read(base + SELECT) else {
        return;
    };
    let highest = register(VERSION) >> 16 & 0xff;
    for pin in 0..=highest {
        let index = TABLE + 2 * pin;
        let low = register(index);
        let high = register(index + 1);
        if sink(io_apic.gsi_base.wrapping_add(pin), low, high) {
            device_write(base + SELECT, index);
            device_write(base + WINDOW, low | MASKED);
        }
    }
    device_write(base + SELECT, selected);
}

/// CONFIG_ADDRESS and CONFIG_DATA (PCI Local Bus Specification 3.0, 3.2.2.3.2).
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
const CONFIG_ENABLE: u32 = 1 << 31;

/// Configuration space, while the index register is ours.
pub(crate) struct ConfigSpace {
    selected: u32,
}

impl ConfigSpace {
    /// Takes the index register.
    pub(crate) fn open() -> Self {
        Self {
            // SAFETY: reading the index changes nothing.
            selected: unsafe { cpu::port_in(CONFIG_ADDRESS, 4) },
        }
    }

    /// The aligned 32 bits at `offset` of the function `address` (bus << 8 |
    /// device << 3 | function).
    pub(crate) fn read(&self, address: u16, offset: u8) -> u32 {
        let index = CONFIG_ENABLE | u32::from(address) << 8 | u32::from(offset & !3);
        // SAFETY: configuration registers are read without a side effect, and
        // the index is put back.
        unsafe {
            cpu::port_out(CONFIG_ADDRESS, 4, index);
            cpu::port_in(CONFIG_DATA, 4)
        }
    }
}

impl ConfigSpace {
    /// Writes the aligned 32 bits at `offset` of the function `address`.
    ///
    /// # Safety
    /// What it makes the function do is what the machine's owner wants.
    pub(crate) unsafe fn write(&self, address: u16, offset: u8, value: u32) {
        let index = CONFIG_ENABLE | u32::from(address) << 8 | u32::from(offset & !3);
        // SAFETY: the index is put back; the caller vouches for the effect.
        unsafe {
            cpu::port_out(CONFIG_ADDRESS, 4, index);
            cpu::port_out(CONFIG_DATA, 4, value);
        }
    }
}

impl Drop for ConfigSpace {
    fn drop(&mut self) {
        // SAFETY: as it was found.
        unsafe { cpu::port_out(CONFIG_ADDRESS, 4, self.selected) };
    }
}

const HEADER_TYPE: u8 = 0x0c;
const MULTIFUNCTION: u32 = 1 << 23;
const STATUS: u8 = 0x04;
const HAS_CAPABILITIES: u32 = 1 << 20;
const BUS_NUMBERS: u8 = 0x18;
const CAPABILITIES: u8 = 0x34;
const BARS: u8 = 0x10;
const MSI: u8 = 0x05;
const MSI_X: u8 = 0x11;

/// Gives every function that can send messages, and where its capability is,
/// to `sink`.
pub(crate) fn message_functions(config: &ConfigSpace, mut sink: impl FnMut(u16, u8)) {
    functions(config, |address, _| {
        for capability in capabilities(config, address) {
            sink(address, capability);
        }
    });
}

/// Gives every function to `sink`, and for a bridge the bus behind it. Buses
/// behind bridges as the firmware has numbered them.
pub(crate) fn functions(config: &ConfigSpace, mut sink: impl FnMut(u16, Option<u8>)) {
    const BRIDGE: u32 = 1;
    let mut buses = [false; 256];
    buses[0] = true;
    for bus in 0..=255_u8 {
        if !buses.get(usize::from(bus)).copied().unwrap_or(false) {
            continue;
        }
        for device in 0..32_u16 {
            let first = u16::from(bus) << 8 | device << 3;
            let mut functions = 1;
            let mut function = 0;
            while function < functions {
                let address = first | function;
                function += 1;
                if config.read(address, 0) & 0xffff == 0xffff {
                    continue;
                }
                let header = config.read(address, HEADER_TYPE);
                if header & MULTIFUNCTION != 0 {
                    functions = 8;
                }
                let mut behind = None;
                if header >> 16 & 0x7f == BRIDGE {
                    let [_, secondary, ..] = config.read(address, BUS_NUMBERS).to_le_bytes();
                    if let Some(seen) = buses.get_mut(usize::from(secondary))
                        && secondary > bus
                    {
                        *seen = true;
                        behind = Some(secondary);
                    }
                }
                sink(address, behind);
            }
        }
    }
}

/// Offset of a function's MSI capability.
pub(crate) fn message_capability(config: &ConfigSpace, address: u16) -> Option<u8> {
    capabilities(config, address).find(|&at| config.read(address, at).to_le_bytes()[0] == MSI)
}

/// Offsets of a function's MSI and MSI-X capabilities.
fn capabilities(config: &ConfigSpace, address: u16) -> impl Iterator<Item = u8> {
    /// More capabilities do not fit into configuration space.
    const MOST: usize = 48;
    let listed = config.read(address, STATUS) & HAS_CAPABILITIES != 0;
    let first = if listed {
        config.read(address, CAPABILITIES).to_le_bytes()[0] & !3
    } else {
        0
    };
    core::iter::successors(Some(first), move |&at| {
        Some(config.read(address, at).to_le_bytes()[1] & !3)
    })
    .take(MOST)
    .take_while(|&at| at >= 0x40)
    .filter(move |&at| matches!(config.read(address, at).to_le_bytes()[0], MSI | MSI_X))
}

/// Gives each message that is switched on in the capability at `offset` of
/// the function `address` to `sink`.
pub(crate) fn messages(
    config: &ConfigSpace,
    address: u16,
    offset: u8,
    mut sink: impl FnMut(Route),
) {
    let read = |at: u8| config.read(address, offset.wrapping_add(at));
    let header = read(0);
    let control = header >> 16;
    if header.to_le_bytes()[0] == MSI {
        message_block(control, read, sink);
        return;
    }
    // MSI-X (PCI Local Bus Specification 3.0, 6.8.2): enabled, not masked as a
    // whole.
    if control & 1 << 15 == 0 || control & 1 << 14 != 0 {
        return;
    }
    let table = read(4);
    let bar = (table & 7) as u8;
    let low = config.read(address, BARS + bar * 4);
    if bar > 5 || low & 1 != 0 {
        return;
    }
    let high = match low >> 1 & 3 {
        2 if bar < 5 => config.read(address, BARS + bar * 4 + 4),
        _ => 0,
    };
    let base = u64::from(high) << 32 | u64::from(low & !0xf);
    for index in 0..=u64::from(control & 0x7ff) {
        let Some(entry) = base.checked_add(u64::from(table & !7) + index * 16) else {
            return;
        };
        let word = |n: u64| device_read(entry.checked_add(n * 4)?);
        let (Some(low), Some(high), Some(data), Some(vector_control)) =
            (word(0), word(1), word(2), word(3))
        else {
            return;
        };
        if vector_control & 1 == 0
            && let Some(route) = Route::from_message(u64::from(high) << 32 | u64::from(low), data)
        {
            sink(route);
        }
    }
}

/// MSI (PCI Local Bus Specification 3.0, 6.8.1): up to 32 vectors, of which
/// the low bits are the message's number.
fn message_block(control: u32, read: impl Fn(u8) -> u32, mut sink: impl FnMut(Route)) {
    if control & 1 == 0 {
        return;
    }
    let (high, data) = match control & 1 << 7 {
        0 => (0, read(8)),
        _ => (read(8), read(12)),
    };
    let address = u64::from(high) << 32 | u64::from(read(4));
    let count = 1_u32 << (control >> 4 & 7).min(5);
    for number in 0..count {
        let data = (data & 0xffff & !(count - 1)) | (data & (count - 1)) | number;
        if let Some(route) = Route::from_message(address, data) {
            sink(route);
        }
    }
}
