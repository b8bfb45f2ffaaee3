//! The machine's PCI functions: who owns them, and what guests see of them.

mod assign;
mod config;
mod interrupts;
mod linux;
mod memory;
mod port;
mod reset;

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use cloister_abi::device::{BarInfo, DeviceTable};
use cloister_core::acpi::Ecam;
use cloister_core::nested::{MapError, MemoryType, Rights};
use cloister_core::pci::{Address, Bar, FunctionInfo};
use cloister_manifest::Dma;
use heapless::Vec;
use spin::{Mutex, MutexGuard};

use crate::arch::memory::PAGE;
use crate::boot::acpi::Firmware;
use crate::partition::Partition;
use crate::virt::Vendor;
use crate::virt::guest::Guest;

pub(crate) use assign::{assign, of_partition};
pub(crate) use config::Access;
pub(crate) use linux::fence;
pub(crate) use memory::memory_write;
pub(crate) use port::{PORTS, serve as port};
use reset::{Method, reset};
pub(crate) use reset::{isolate, quiet};

/// Most functions of one machine.
const MAX_FUNCTIONS: usize = 256;

/// All functions of segment 0, as the firmware has set them up.
pub(crate) struct Pci {
    /// By address.
    pub(crate) functions: &'static [FunctionInfo],
    /// Which partition owns each of them, by its index; Linux the others.
    owners: Vec<Option<u8>, MAX_FUNCTIONS>,
    /// Where configuration space is in memory.
    pub(crate) ecam: Option<Ecam>,
    /// MSI-X tables of Linux's functions.
    tables: linux::Tables,
}

/// A function that a partition owns.
pub(crate) struct Assigned {
    pub(crate) info: &'static FunctionInfo,
    pub(crate) dma: Dma,
    /// BARs that read as their sizes, by bit.
    sized: AtomicU8,
}

/// What a guest has written to the configuration address port. Each guest has
/// its own.
pub(crate) type Selected = AtomicU32;

static FUNCTIONS: Mutex<Vec<FunctionInfo, MAX_FUNCTIONS>> = Mutex::new(Vec::new());

impl Pci {
    /// Finds all functions. Once, before any guest runs.
    pub(crate) fn find(firmware: &Firmware) -> Self {
        let mcfg = firmware.table(b"MCFG");
        let ecam = mcfg.and_then(|table| cloister_core::acpi::ecam(table).ok().flatten());
        crate::arch::pci::note_ecam(ecam);
        let mut functions = FUNCTIONS.lock();
        let mut left_out = 0;
        cloister_core::pci::scan(&mut crate::arch::pci::lock(), |info| {
            left_out += usize::from(functions.push(info).is_err());
        });
        if left_out != 0 {
            log::warn!("{left_out} PCI functions beyond {MAX_FUNCTIONS} exist for nobody");
        }
        // Nobody locks it again: it is only read from now on.
        let functions: &'static _ = MutexGuard::leak(functions);
        Self {
            owners: functions.iter().map(|_| None).collect(),
            functions,
            ecam,
            tables: Mutex::new(Vec::new()),
        }
    }

    /// The function at `at`, and the partition that owns it, by its index.
    pub(crate) fn function(&self, at: Address) -> Option<(&'static FunctionInfo, Option<usize>)> {
        let by_address = |info: &FunctionInfo| info.address;
        let index = self.functions.binary_search_by_key(&at, by_address).ok()?;
        let owner = self.owners.get(index).copied().flatten();
        Some((self.functions.get(index)?, owner.map(usize::from)))
    }

    /// Functions that partitions own.
    pub(crate) fn assigned(&self) -> impl Iterator<Item = &'static FunctionInfo> {
        let all = self.functions.iter().zip(&self.owners);
        all.filter(|(_, owner)| owner.is_some())
            .map(|(info, _)| info)
    }

    /// The device numbers of bus 0 at which nothing answers, the highest first.
    pub(crate) fn free_devices(&self) -> impl Iterator<Item = u8> {
        let is_free = |device: &u8| {
            let at = Address::new(0, *device, 0);
            self.functions.iter().all(|info| info.address.first() != at)
        };
        (1..32).rev().filter(is_free)
    }
}

/// Memory BARs of `info`, in whole pages: index, start, bytes.
pub(crate) fn memory_bars(info: &FunctionInfo) -> impl Iterator<Item = (usize, u64, u64)> {
    info.bars.iter().enumerate().filter_map(|(index, bar)| {
        let (start, end) = bar.memory()?;
        let start = start & !(PAGE - 1);
        Some((index, start, end.next_multiple_of(PAGE) - start))
    })
}

/// Ports of the BARs of `info`.
pub(crate) fn ports(info: &FunctionInfo) -> impl Iterator<Item = (u16, u16)> {
    info.bars.iter().filter_map(|bar: &Bar| bar.ports())
}

/// Tells the partition whose memory starts at host-physical `base` about its
/// functions.
pub(crate) fn describe(devices: &[Assigned], base: u64, table: &mut DeviceTable) {
    table.count = u32::try_from(devices.len()).unwrap_or(0);
    for (to, device) in table.devices.iter_mut().zip(devices) {
        let info = device.info;
        to.address = u32::from(info.address.0);
        to.class = info.class;
        to.vendor = info.vendor;
        to.device = info.device;
        let unprotected = device.dma == Dma::Unprotected;
        if unprotected {
            log::warn!("pci {}: nothing keeps its DMA in bounds", info.address);
        }
        to.unprotected = u32::from(unprotected);
        to.dma_offset = if unprotected { base } else { 0 };
        for (to, bar) in to.bars.iter_mut().zip(info.bars) {
            *to = match bar {
                Bar::None => continue,
                Bar::Memory { base, size, .. } => BarInfo {
                    base,
                    size,
                    kind: 0,
                },
                Bar::Ports { base, size } => BarInfo {
                    base: u64::from(base),
                    size: u64::from(size),
                    kind: 1,
                },
            };
        }
    }
}

/// Maps the BARs of a partition's functions where they are.
///
/// # Errors
/// No memory is left for tables, or something is there already.
pub(crate) fn map<V: Vendor>(devices: &[Assigned], guest: &Guest<V>) -> Result<(), MapError> {
    guest.with_nested(|nested, tables| {
        for device in devices {
            for (_, at, bytes) in memory_bars(device.info) {
                let kind = MemoryType::Uncacheable;
                nested.map(tables, at, at, bytes, Rights::RW, kind)?;
            }
            // Writes there are looked at.
            if let Some((table, at)) = memory::own_table(device.info) {
                let start = table & !(PAGE - 1);
                let end = (table + at.bytes()).next_multiple_of(PAGE);
                nested.protect(tables, start, end - start, Rights::READ)?;
            }
        }
        Ok(())
    })
}

/// Brings the functions of a partition that has stopped between two owners: no
/// core of it runs.
pub(crate) fn release<V: Vendor>(partition: &Partition<V>) {
    partition.selected.store(0, Ordering::Relaxed);
    for device in partition.devices {
        device.sized.store(0, Ordering::Relaxed);
        let method = reset(device.info);
        if method != Method::Express {
            log::info!(
                "pci {} of partition \"{}\": {}",
                device.info.address,
                partition.name(),
                method.name()
            );
        }
    }
}
