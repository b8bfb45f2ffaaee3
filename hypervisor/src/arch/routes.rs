//! Reading where devices' interrupts go: I/O APICs, and the messages of PCI
//! functions.
//!
//! An I/O APIC is reached through an index register that Linux uses as well.
//! The functions here put the index back as they found it, so that whoever
//! stands still meanwhile does not notice; the caller sees to it that
//! everybody else does ([`crate::cores::hold`]).

use cloister_core::acpi::IoApic;
use cloister_core::pci::{self, ConfigSpace, FunctionInfo, Message, MsixTable};
use cloister_core::route::Route;

use crate::arch::paging::{device_read, device_write};
use crate::arch::pci::Config;
use crate::iommu::guest;

/// Offset of the index register (82093AA datasheet, 3.1).
const SELECT: u64 = 0x00;
/// Offset of the data register.
const WINDOW: u64 = 0x10;
const VERSION: u32 = 1;
const TABLE: u32 = 0x10;
/// Redirection entry: masked.
const MASKED: u32 = 1 << 16;

/// Gives each pin's global system interrupt and the halves of its entry, as
/// they were written, to `sink`. Returning `true` it has the pin masked.
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
        let (low, high) = match guest::is_on() {
            true => guest::pin(io_apic, pin),
            false => (register(index), register(index + 1)),
        };
        if sink(io_apic.gsi_base.wrapping_add(pin), low, high) {
            device_write(base + SELECT, index);
            device_write(base + WINDOW, low | MASKED);
        }
    }
    device_write(base + SELECT, selected);
}

/// Gives each message that `info` may send to `sink`.
pub(crate) fn messages(config: &Config, info: &FunctionInfo, mut sink: impl FnMut(Route)) {
    let at = info.address;
    let capabilities = &info.capabilities;
    let mut note = |message: Message| {
        if let Some(route) = Route::from_message(message.address, message.data) {
            sink(route);
        }
    };
    pci::msi(
        |offset| config.read(at, offset),
        capabilities.msi,
        &mut note,
    );
    let is_on = pci::msix_is_on(config.read(at, u16::from(capabilities.msix)));
    if !is_on || capabilities.msix == 0 {
        return;
    }
    let Some(table) = pci::msix_table_address(config, info) else {
        return;
    };
    let entries = info.msix_table.map_or(0, |table| table.entries);
    for entry in 0..u64::from(entries) {
        if let Some(message) = msix_entry(table, entry).and_then(pci::msix_message) {
            note(message);
        }
    }
}

/// Entry number `entry` of the MSI-X table at `table`, as it was written.
pub(crate) fn msix_entry(table: u64, entry: u64) -> Option<[u32; 4]> {
    guest::table_entry(table, entry).or_else(|| raw_msix_entry(table, entry))
}

/// The same, as hardware has it.
pub(crate) fn raw_msix_entry(table: u64, entry: u64) -> Option<[u32; 4]> {
    let at = table.checked_add(entry * MsixTable::ENTRY)?;
    let word = |n: u64| device_read(at.checked_add(n * 4)?);
    Some([word(0)?, word(1)?, word(2)?, word(3)?])
}
