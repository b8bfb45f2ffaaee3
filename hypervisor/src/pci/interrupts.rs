//! Where interrupts of devices may go: to cores of whoever owns the device, by
//! their vectors.

use cloister_core::acpi::{IoApic, madt_io_apics};
use cloister_core::pci::{self, Message};
use cloister_core::route::Route;
use cloister_manifest::CpuSet;
use spin::Mutex;

use crate::arch::paging::{device_read, device_write};
use crate::arch::routes::msix_entry;
use crate::boot::acpi::Firmware;
use crate::iommu::guest;
use crate::routes;
use crate::run::Core;
use crate::system::System;
use crate::virt::Vendor;

/// The cores to which the guest on this core may have its devices' interrupts
/// sent: none if it is a partition without a local APIC.
pub(super) fn own_cores<V: Vendor>(core: &Core<V>) -> CpuSet {
    match core.partition {
        Some(partition) if !partition.config.apic => CpuSet::EMPTY,
        _ => core.guest.cpus,
    }
}

/// Whether `message` reaches cores of `own` alone, by its vector.
pub(super) fn may_send<V: Vendor>(system: &System<V>, own: CpuSet, message: Message) -> bool {
    Route::from_message(message.address, message.data)
        .is_some_and(|route| route.by_vector && stays(system, own, &route))
}

/// Whether no core but those of `own` is reached.
fn stays<V: Vendor>(system: &System<V>, own: CpuSet, route: &Route) -> bool {
    (0..system.cores)
        .all(|number| own.contains(number) || !route.reaches(routes::in_hardware(system, number)))
}

/// Whether that holds for all messages of the MSI-X table at `table` that are
/// not masked.
pub(super) fn may_send_table<V: Vendor>(
    system: &System<V>,
    own: CpuSet,
    table: u64,
    entries: u16,
) -> bool {
    (0..u64::from(entries)).all(|number| {
        msix_entry(table, number)
            .and_then(pci::msix_message)
            .is_none_or(|message| may_send(system, own, message))
    })
}

/// Registers of an I/O APIC (82093AA datasheet, 3.0): index, data.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
/// Index of the first redirection entry.
const TABLE: u32 = 0x10;
/// Redirection entry: masked; delivery mode, and that of the 8259's interrupts.
const MASKED: u32 = 1 << 16;
const MODE: u32 = 7 << 8;
const EXTERNAL: u32 = 7 << 8;

/// The I/O APIC whose registers are in the page at `page`.
pub(super) fn io_apic_at(firmware: &Firmware, page: u64) -> Option<IoApic> {
    let mut found = madt_io_apics(firmware.table(b"APIC")?).ok()?;
    found.find(|io_apic| u64::from(io_apic.address) & !0xfff == page)
}

/// All I/O APICs' pages.
pub(super) fn io_apic_pages(firmware: &Firmware) -> impl Iterator<Item = u64> {
    let madt = firmware.table(b"APIC").map(madt_io_apics);
    let found = madt.and_then(Result::ok).into_iter().flatten();
    found.map(|io_apic| u64::from(io_apic.address) & !0xfff)
}

/// Serves a write by Linux to a register of an I/O APIC, `offset` bytes from
/// where it begins.
///
/// # Errors
/// Why it is not done.
pub(super) fn write_io_apic<V: Vendor>(
    system: &System<V>,
    own: CpuSet,
    io_apic: &IoApic,
    offset: u64,
    value: u32,
) -> Result<(), &'static str> {
    /// The index register is one for all cores.
    static REGISTERS: Mutex<()> = Mutex::new(());
    let _one = REGISTERS.lock();
    let base = u64::from(io_apic.address);
    if offset == WINDOW {
        let index = device_read(base + SELECT).unwrap_or(0) & 0xff;
        let entry = redirection(system, own, io_apic, index, value)?;
        if let Some((low, high)) = entry
            && guest::is_on()
        {
            let (low, high) = guest::set_pin(io_apic, (index - TABLE) / 2, low, high);
            write_entry(base, index, low, high);
            return Ok(());
        }
    }
    device_write(base + offset, value);
    Ok(())
}

/// Writes a redirection entry: while its upper half changes it is masked.
/// `index` is that of one of its halves, which stays selected.
fn write_entry(base: u64, index: u32, low: u32, high: u32) {
    let write = |index: u32, value: u32| {
        device_write(base + SELECT, index);
        device_write(base + WINDOW, value);
    };
    device_write(base + SELECT, index | 1);
    if device_read(base + WINDOW) != Some(high) {
        write(index & !1, MASKED);
        write(index | 1, high);
    }
    write(index & !1, low);
    device_write(base + SELECT, index);
}

/// Checks what a write of `value` to the register `index`, which is selected,
/// makes of a redirection entry, and returns that; `None`: it is no half of
/// one.
fn redirection<V: Vendor>(
    system: &System<V>,
    own: CpuSet,
    io_apic: &IoApic,
    index: u32,
    value: u32,
) -> Result<Option<(u32, u32)>, &'static str> {
    if index < TABLE {
        return Ok(None);
    }
    let other = match guest::is_on() {
        true => {
            let (low, high) = guest::pin(io_apic, (index - TABLE) / 2);
            if index & 1 == 0 { high } else { low }
        }
        false => {
            let base = u64::from(io_apic.address);
            device_write(base + SELECT, index ^ 1);
            let other = device_read(base + WINDOW).unwrap_or(0);
            device_write(base + SELECT, index);
            other
        }
    };
    let (low, high) = match index & 1 {
        0 => (value, other),
        _ => (other, value),
    };
    if low & MASKED != 0 {
        return Ok(Some((low, high)));
    }
    let route = Route::from_redirection(low, high);
    let by_vector = |route: &Route| route.by_vector || low & MODE == EXTERNAL;
    match route.filter(by_vector) {
        Some(route) if stays(system, own, &route) => Ok(Some((low, high))),
        Some(_) => Err("a pin to a core that is not Linux's"),
        None => Err("a pin that sends no vector"),
    }
}
