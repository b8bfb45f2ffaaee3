//! The machine's network functions, for the program's device table: bare, all
//! of them are the program's, in the order of their addresses.

use cloister_abi::device::{BARS, BarInfo, DeviceInfo, DeviceTable, MAX_DEVICES};

use crate::machine::{inl, outl};

const NETWORK: u32 = 0x02;
/// Registers of a type 0 header (PCI Local Bus Specification 3.0 §6.1).
const COMMAND: u8 = 0x04;
const CLASS: u8 = 0x08;
const HEADER_TYPE: u8 = 0x0c;
const FIRST_BAR: u8 = 0x10;
/// Decode ports and memory.
const DECODE: u32 = 3;

/// Fills `table` with the functions of bus 0 and what is behind no bridge.
pub(crate) fn find(table: &mut DeviceTable) {
    let mut count = 0;
    for address in (0..32 << 3_u32).filter(|address| is_network(*address)) {
        let Some(slot) = table.devices.get_mut(count) else {
            break;
        };
        *slot = describe(address);
        count += 1;
    }
    table.count = u32::try_from(count.min(MAX_DEVICES)).unwrap_or(0);
}

fn is_network(address: u32) -> bool {
    let multifunction = || read(address & !7, HEADER_TYPE) >> 23 & 1 == 1;
    read(address, 0) & 0xffff != 0xffff
        && read(address, CLASS) >> 24 == NETWORK
        && read(address, HEADER_TYPE) >> 16 & 0x7f == 0
        && (address & 7 == 0 || multifunction())
}

fn describe(address: u32) -> DeviceInfo {
    let id = read(address, 0);
    let command = read(address, COMMAND) & 0xffff;
    write(address, COMMAND, command & !DECODE);
    let mut bars = [NO_BAR; BARS];
    let mut index = 0;
    while let Some(slot) = bars.get_mut(index) {
        let (bar, taken) = size(address, index);
        *slot = bar;
        index += taken;
    }
    write(address, COMMAND, command);
    DeviceInfo {
        address,
        class: read(address, CLASS) >> 8,
        vendor: low(id),
        device: low(id >> 16),
        // Nothing keeps any function in bounds here.
        unprotected: 1,
        dma_offset: 0,
        bars,
    }
}

const NO_BAR: BarInfo = BarInfo {
    base: 0,
    size: 0,
    kind: 0,
};

/// BAR `index`, by writing ones into it (§6.2.5.1), and how many registers it
/// takes.
fn size(address: u32, index: usize) -> (BarInfo, usize) {
    let register = FIRST_BAR + 4 * u8::try_from(index).unwrap_or(0);
    let probe = |register| {
        let value = read(address, register);
        write(address, register, u32::MAX);
        let mask = read(address, register);
        write(address, register, value);
        (value, mask)
    };
    let (value, mask) = probe(register);
    if value & 1 == 1 {
        let size = u64::from(!(mask & !3) & 0xffff) + 1;
        let base = u64::from(value & !3);
        return (bar(base, size, 1, mask), 1);
    }
    if value & 6 != 4 {
        let size = u64::from(!(mask & !15)) + 1;
        return (bar((value & !15).into(), size, 0, mask), 1);
    }
    let (high, high_mask) = probe(register + 4);
    let base = u64::from(high) << 32 | u64::from(value & !15);
    let wide = u64::from(high_mask) << 32 | u64::from(mask & !15);
    (bar(base, (!wide).wrapping_add(1), 0, mask), 2)
}

fn bar(base: u64, size: u64, kind: u64, mask: u32) -> BarInfo {
    if mask == 0 {
        return NO_BAR;
    }
    BarInfo { base, size, kind }
}

/// The low half.
fn low(value: u32) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or(0)
}

/// Configuration mechanism #1 (§3.2.2.3.2).
fn select(address: u32, register: u8) {
    // SAFETY: selects a register and nothing else.
    unsafe { outl(0xcf8, 1 << 31 | address << 8 | u32::from(register & !3)) };
}

fn read(address: u32, register: u8) -> u32 {
    select(address, register);
    // SAFETY: reading configuration space has no effect on memory.
    unsafe { inl(0xcfc) }
}

fn write(address: u32, register: u8, value: u32) {
    select(address, register);
    // SAFETY: only BARs whose decoding is off, and their command register, are
    // written: no memory changes.
    unsafe { outl(0xcfc, value) };
}
