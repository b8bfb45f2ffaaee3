//! Writes in memory that must be looked at: to configuration space, I/O APICs
//! and MSI-X tables.

use cloister_abi::Reason;
use cloister_core::acpi::IoApic;
use cloister_core::decode::{self, Store};
use cloister_core::pci::{self, Address, Bar, FunctionInfo, MsixTable};

use super::config::{self, Access};
use super::interrupts;
use crate::arch::memory::PAGE;
use crate::arch::paging;
use crate::arch::routes::msix_entry;
use crate::exit::{Next, apic};
use crate::iommu::guest;
use crate::report;
use crate::run::Core;
use crate::virt::{Event, Vcpu, Vendor};

/// What lies where a guest writes.
#[derive(Clone, Copy)]
enum Place {
    /// A function's configuration space.
    Config(Address, u16),
    IoApic(IoApic),
    /// The page of an MSI-X table: where that begins, and its messages.
    Table(Address, u64, u16),
}

/// The guest on this core writes to `gpa`, which it may not by itself. `None`:
/// nothing of this kind is there.
pub(crate) fn memory_write<V: Vendor>(core: &mut Core<V>, gpa: u64) -> Option<Next> {
    let place = place(core, gpa)?;
    let gpr = core.vcpu.registers().gpr;
    let store = apic::fetch(core)
        .and_then(|code| decode::store(code.bytes(), code.mode, &gpr).ok())
        .filter(|store| gpa % PAGE + u64::from(store.width) <= PAGE);
    let Some(store) = store else {
        refuse(core, gpa, "no plain MOV");
        core.vcpu.inject(Event::GP);
        return Some(Next::Resume);
    };
    let done = match place {
        Place::Config(at, offset) => write_config(core, at, offset, &store),
        Place::IoApic(io_apic) => write_io_apic(core, &io_apic, gpa, &store),
        Place::Table(at, table, entries) => write_table(core, at, (table, entries), gpa, &store),
    };
    if let Err(why) = done {
        refuse(core, gpa, why);
    }
    core.vcpu.skip_by(store.length);
    Some(Next::Resume)
}

fn refuse<V: Vendor>(core: &Core<V>, gpa: u64, why: &str) {
    report::refused(
        core,
        Reason::NestedPageFault,
        format_args!("store to device memory at {gpa:#x}: {why}"),
    );
}

fn place<V: Vendor>(core: &Core<V>, gpa: u64) -> Option<Place> {
    let pci = &core.system.pci;
    if let Some(partition) = core.partition {
        let own = partition.devices.iter().filter_map(|device| {
            let (table, at) = own_table(device.info)?;
            let pages = table & !(PAGE - 1)..(table + at.bytes()).next_multiple_of(PAGE);
            pages
                .contains(&gpa)
                .then_some(Place::Table(device.info.address, table, at.entries))
        });
        return own.last();
    }
    if let Some((id, offset)) = pci.ecam.and_then(|ecam| ecam.place(gpa)) {
        return Some(Place::Config(Address(id), offset));
    }
    if let Some(io_apic) = interrupts::io_apic_at(core.system.firmware, gpa & !(PAGE - 1)) {
        return Some(Place::IoApic(io_apic));
    }
    let tables = pci.tables.lock();
    let table = tables.iter().find(|table| table.is_near(gpa))?;
    let entries = super::linux::entries(table);
    Some(Place::Table(table.info.address, table.address, entries))
}

/// Where the MSI-X table of a partition's function is: its BARs never move.
pub(super) fn own_table(info: &FunctionInfo) -> Option<(u64, MsixTable)> {
    let table = info.msix_table?;
    let Bar::Memory { base, size, .. } = info.bars.get(usize::from(table.bar))? else {
        return None;
    };
    let end = u64::from(table.offset).checked_add(table.bytes())?;
    (end <= *size).then_some((base + u64::from(table.offset), table))
}

fn write_config<V: Vendor>(
    core: &mut Core<V>,
    at: Address,
    offset: u16,
    store: &Store,
) -> Result<(), &'static str> {
    if store.width > 4 {
        return Err("configuration space is written by 4 bytes at most");
    }
    if pci::lanes(offset, store.width).is_none() {
        return Err("across the end of a register");
    }
    #[expect(clippy::cast_possible_truncation, reason = "four bytes at most")]
    let value = store.value as u32;
    let access = Access {
        at,
        offset,
        width: store.width,
        value: Some(value),
        reason: Reason::NestedPageFault,
    };
    config::serve(core, access);
    Ok(())
}

fn write_io_apic<V: Vendor>(
    core: &Core<V>,
    io_apic: &IoApic,
    gpa: u64,
    store: &Store,
) -> Result<(), &'static str> {
    let offset = gpa.checked_sub(u64::from(io_apic.address));
    let offset = offset.filter(|offset| store.width == 4 && offset.is_multiple_of(16));
    let offset = offset.ok_or("registers of an I/O APIC have 32 bits, 16 bytes apart")?;
    #[expect(clippy::cast_possible_truncation, reason = "four bytes were written")]
    let value = store.value as u32;
    interrupts::write_io_apic(core.system, core.guest.cpus, io_apic, offset, value)
}

/// An MSI-X table may be written by 4 and by 8 bytes (PCI Local Bus
/// Specification 3.0 §6.8.2); what else is in its pages, as its device says.
fn write_table<V: Vendor>(
    core: &Core<V>,
    at: Address,
    (table, entries): (u64, u16),
    gpa: u64,
    store: &Store,
) -> Result<(), &'static str> {
    let end = table + u64::from(entries) * MsixTable::ENTRY;
    let last = gpa + u64::from(store.width);
    if last > table && gpa < end {
        let within = gpa.checked_sub(table).filter(|_| last <= end);
        let within = within.filter(|within| {
            matches!(store.width, 4 | 8) && within.is_multiple_of(u64::from(store.width))
        });
        let within = within.ok_or("an MSI-X table is written by 4 or 8 bytes")?;
        let number = within / MsixTable::ENTRY;
        let mut entry = msix_entry(table, number).ok_or("no such MSI-X table")?;
        let [a, b, c, d, e, f, g, h] = store.value.to_le_bytes();
        let words = [[a, b, c, d], [e, f, g, h]].map(u32::from_le_bytes);
        let first = usize::try_from(within % MsixTable::ENTRY / 4).unwrap_or(0);
        let changed = entry.iter_mut().skip(first).zip(words);
        for (to, from) in changed.take(usize::from(store.width / 4)) {
            *to = from;
        }
        let own = interrupts::own_cores(core);
        let allowed = pci::msix_message(entry)
            .is_none_or(|message| interrupts::may_send(core.system, own, message));
        if !allowed {
            return Err("a message to a core that is not its own, or no interrupt");
        }
        if guest::is_on() {
            guest::set_table_entry(at, (table, entries), number, entry);
            return Ok(());
        }
    }
    paging::device_write_part(gpa, store.width, store.value);
    Ok(())
}
