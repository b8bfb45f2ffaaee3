//! Linux and its own functions: what it writes is looked at before it is done
//! (`cloister_core::pci::decide_linux`), by ports and in memory.

use cloister_core::nested::{MapError, MemoryType, Rights};
use cloister_core::pci::{
    self, Bar, Claim, ConfigSpace, FunctionInfo, Judge, Message, msix_table_address,
};
use heapless::Vec;
use spin::Mutex;

use super::config::Access;
use super::{Pci, interrupts};
use crate::arch::memory::{FramePool, PAGE};
use crate::arch::pci::Config;
use crate::arch::{paging, pci as hardware};
use crate::boot::acpi::Firmware;
use crate::cores::{self, Request};
use crate::run::Core;
use crate::system::System;
use crate::virt::guest::Guest;
use crate::virt::{Vcpu, Vendor};

const LARGE: u64 = 2 << 20;
/// Most functions of Linux that have an MSI-X table.
const MAX_TABLES: usize = 64;

/// An MSI-X table of one of Linux's functions. Its pages are read-only, so
/// that writes to it exit.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub(super) info: &'static FunctionInfo,
    /// Where it is; 0: nowhere.
    pub(super) address: u64,
}

/// All of them.
pub(super) type Tables = Mutex<Vec<Table, MAX_TABLES>>;

impl Table {
    fn entries(&self) -> u16 {
        self.info.msix_table.map_or(0, |table| table.entries)
    }

    fn bytes(&self) -> u64 {
        self.info.msix_table.map_or(0, pci::MsixTable::bytes)
    }

    /// The pages that hold it.
    fn pages(&self) -> impl Iterator<Item = u64> + use<> {
        let start = self.address & !(PAGE - 1);
        (start..self.address.saturating_add(self.bytes())).step_by(4096)
    }

    /// Whether `address` is in one of its pages.
    pub(super) fn is_near(&self, address: u64) -> bool {
        self.address != 0 && self.pages().any(|page| page == address & !(PAGE - 1))
    }
}

/// Takes from Linux, before it runs, the right to write where interrupts and
/// configuration space are in memory: such writes exit.
///
/// # Errors
/// The pool is empty.
pub(crate) fn fence<V: Vendor>(
    pci: &Pci,
    firmware: &Firmware,
    linux: &Guest<V>,
    pool: &FramePool,
) -> Result<(), MapError> {
    linux.with_nested(|nested, tables| {
        let kind = MemoryType::Uncacheable;
        if let Some(ecam) = pci.ecam {
            let (at, bytes) = (ecam.base, ecam.bytes());
            match nested.is_free(tables, at, bytes) {
                true => nested.map(tables, at, at, bytes, Rights::READ, kind)?,
                false => nested.protect(tables, at, bytes, Rights::READ)?,
            }
        }
        for page in interrupts::io_apic_pages(firmware) {
            nested.remap_page(tables, page, page, Rights::READ, kind)?;
        }
        Ok(())
    })?;
    let mut tables = pci.tables.lock();
    let config = hardware::lock();
    let own = pci.functions.iter().zip(&pci.owners);
    for (info, _) in own.filter(|(_, owner)| owner.is_none()) {
        if info.msix_table.is_none() {
            continue;
        }
        let address = msix_table_address(&config, info).unwrap_or(0);
        let table = Table { info, address };
        if tables.push(table).is_err() {
            log::error!(
                "more than {MAX_TABLES} MSI-X tables: {} is not fenced",
                info.address
            );
        }
        protect(linux, table, pool)?;
    }
    Ok(())
}

/// Makes the pages of `table` read-only.
fn protect<V: Vendor>(linux: &Guest<V>, table: Table, pool: &FramePool) -> Result<(), MapError> {
    if table.address == 0 {
        return Ok(());
    }
    for page in table.pages() {
        paging::map_device(pool, page)?;
        linux.with_nested(|nested, tables| {
            let kind = MemoryType::Uncacheable;
            // What is around it is mapped with it, as a first touch would.
            let large = page & !(LARGE - 1);
            if nested.is_free(tables, large, LARGE) {
                nested.map(tables, large, large, LARGE, Rights::RW, kind)?;
            }
            nested.remap_page(tables, page, page, Rights::READ, kind)
        })?;
    }
    Ok(())
}

/// Does what `access` by Linux to its function `info` says, if it may.
///
/// # Errors
/// Why it is not done.
pub(super) fn write<V: Vendor>(
    core: &mut Core<V>,
    info: &'static FunctionInfo,
    access: &Access,
    value: u32,
) -> Result<(), &'static str> {
    let mut config = hardware::lock();
    let judge = Linux {
        system: core.system,
        core,
        config: &config,
    };
    let read = |offset| config.read(info.address, offset);
    if !pci::decide_linux(info, (access.offset, access.width, value), read, &judge)? {
        return Ok(());
    }
    config.write_part(info.address, access.offset, access.width, value);
    let moved = info.msix_table.is_some() && access.offset < 0x28;
    if moved {
        follow(core, info, &config);
    }
    Ok(())
}

/// The function's BARs may have moved: so may its MSI-X table.
fn follow<V: Vendor>(core: &mut Core<V>, info: &FunctionInfo, config: &Config) {
    let now = msix_table_address(config, info).unwrap_or(0);
    let mut tables = core.system.pci.tables.lock();
    let same = |table: &&mut Table| table.info.address == info.address;
    let Some(table) = tables.iter_mut().find(same) else {
        return;
    };
    // While ones are written to find out its size it is nowhere.
    let is_sizing = match info
        .msix_table
        .and_then(|at| info.bars.get(usize::from(at.bar)))
    {
        Some(Bar::Memory { size, .. }) => {
            let top = u64::from(u32::MAX) + 1 - size;
            now.checked_sub(u64::from(info.msix_table.map_or(0, |at| at.offset)))
                .is_some_and(|base| base & u64::from(u32::MAX) == top)
        }
        _ => true,
    };
    if now == table.address || now == 0 || is_sizing {
        return;
    }
    let old = core::mem::replace(&mut table.address, now);
    let table = *table;
    if old != 0 {
        let left = Table {
            address: old,
            ..table
        };
        core.guest.with_nested(|nested, maps| {
            for page in left.pages() {
                let _ = nested.protect(maps, page, PAGE, Rights::RW);
            }
        });
    }
    if protect(core.guest, table, core.system.pool).is_err() {
        log::error!(
            "hypervisor.memory is used up: the MSI-X table of {}",
            info.address
        );
    }
    core.vcpu.flush_nested();
    for other in core.guest.cpus.iter().filter(|&other| other != core.number) {
        cores::core(other).ask(Request::Flush);
    }
}

/// What Linux may have its functions do.
struct Linux<'a, V: Vendor> {
    system: &'static System<V>,
    core: &'a Core<V>,
    config: &'a Config,
}

impl<V: Vendor> Judge for Linux<'_, V> {
    fn is_foreign(&self, claim: Claim) -> bool {
        match claim {
            Claim::Memory(first, last) => {
                let linux = self.system.linux.as_ref();
                linux.is_some_and(|linux| linux.reaches_foreign(first, last))
            }
            Claim::Ports(first, last) => (first..=last.min(0xffff)).any(|port| {
                let port = u16::try_from(port).unwrap_or(u16::MAX);
                super::PORTS.contains(&port) || self.system.foreign_port(port, 1)
            }),
        }
    }

    fn may_send(&self, message: Message) -> bool {
        interrupts::may_send(self.system, self.core.guest.cpus, message)
    }

    fn may_send_table(&self, info: &FunctionInfo) -> bool {
        let Some(address) = msix_table_address(self.config, info) else {
            return false;
        };
        let entries = info.msix_table.map_or(0, |table| table.entries);
        interrupts::may_send_table(self.system, self.core.guest.cpus, address, entries)
    }

    fn is_way_to_partition(&self, first: u8, last: u8) -> bool {
        let mut assigned = self.system.pci.assigned();
        assigned.any(|info| first != 0 && (first..=last).contains(&info.address.bus()))
    }
}

/// Number of entries, for who writes to the table.
pub(super) fn entries(table: &Table) -> u16 {
    table.entries()
}
