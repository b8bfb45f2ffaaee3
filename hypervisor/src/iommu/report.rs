//! Faults of devices: read, counted, and printed for their owner. A device that
//! goes on and on is not printed after [`PRINTED`] of them, and where hardware
//! can, not even recorded; announcements end after [`ANNOUNCED`].

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use cloister_abi::record::{DmaFault, DmaFaults, Record};
use cloister_core::iommu::Requester;
use heapless::{String, Vec};
use spin::Mutex;

use super::Iommu;
use crate::arch::console;
use crate::system::System;
use crate::virt::Vendor;

/// Faults of one device that are printed.
const PRINTED: u64 = 16;
/// Announcements that are taken.
const ANNOUNCED: u32 = 1000;
/// Devices that are told apart.
const DEVICES: usize = 64;

/// No core is told of faults.
const NOBODY: usize = usize::MAX;

/// What has been reported so far.
pub(super) struct Reporter {
    /// By device, how many.
    devices: Mutex<Vec<(Requester, u64), DEVICES>>,
    /// Of those that found no place there.
    others: AtomicU64,
    /// The core that gets an NMI for faults.
    core: AtomicUsize,
    announced: AtomicU32,
    /// More than one fault has been taken for one NMI: another NMI may be on
    /// its way.
    late: AtomicBool,
}

impl Reporter {
    pub(super) const fn new() -> Self {
        Self {
            devices: Mutex::new(Vec::new()),
            others: AtomicU64::new(0),
            core: AtomicUsize::new(NOBODY),
            announced: AtomicU32::new(0),
            late: AtomicBool::new(false),
        }
    }

    /// Counts a fault; which one of its device it is.
    fn count(&self, requester: Requester) -> u64 {
        let mut devices = self.devices.lock();
        if let Some((_, count)) = devices.iter_mut().find(|(known, _)| *known == requester) {
            *count = count.saturating_add(1);
            return *count;
        }
        if devices.push((requester, 1)).is_err() {
            return self.others.fetch_add(1, Ordering::Relaxed) + 1;
        }
        1
    }
}

impl Iommu {
    /// Core `number` is the one that is told of faults.
    pub(crate) fn tell(&self, number: usize) {
        self.report.core.store(number, Ordering::Relaxed);
    }

    /// Whether it is.
    pub(crate) fn tells(&self, number: usize) -> bool {
        self.report.core.load(Ordering::Relaxed) == number
    }
}

/// An NMI has arrived at the core that is told of faults. Whether it was that.
#[cold]
pub(crate) fn announced<V: Vendor>(system: &System<V>) -> bool {
    let Some(iommu) = &system.iommu else {
        return false;
    };
    let faults = look(system);
    let late = iommu.report.late.swap(faults > 1, Ordering::Relaxed);
    if faults > 0 && iommu.report.announced.fetch_add(1, Ordering::Relaxed) == ANNOUNCED {
        log::warn!("IOMMU: {ANNOUNCED} announcements of faults: no more of them are taken");
        iommu.hardware.lock().mute();
    }
    faults > 0 || late
}

/// Takes the faults that wait: how many.
pub(crate) fn look<V: Vendor>(system: &System<V>) -> usize {
    let Some(iommu) = &system.iommu else {
        return 0;
    };
    let mut faults = 0;
    let mut loud: Vec<Requester, 8> = Vec::new();
    let mut hardware = iommu.hardware.lock();
    hardware.take_faults(&mut |fault| {
        faults += 1;
        let number = iommu.report.count(fault.requester);
        if number > PRINTED {
            return;
        }
        let mut device = String::<16>::new();
        let _ = core::fmt::write(&mut device, format_args!("{}", fault.requester));
        console::lock().record(&Record::DmaFault(DmaFault {
            owner: owner(system, iommu, fault.requester),
            device: &device,
            address: fault.address,
            access: fault.access.name(),
            code: u32::from(fault.code),
            number,
        }));
        if number == PRINTED {
            let _ = loud.push(fault.requester);
        }
    });
    for requester in loud {
        hardware.silence(requester);
    }
    faults
}

/// Looks for the last time, and says how many there were of each device.
pub(crate) fn end<V: Vendor>(system: &System<V>) {
    look(system);
    let Some(iommu) = &system.iommu else {
        return;
    };
    for &(requester, total) in iommu.report.devices.lock().iter() {
        let mut device = String::<16>::new();
        let _ = core::fmt::write(&mut device, format_args!("{requester}"));
        console::lock().record(&Record::DmaFaults(DmaFaults {
            owner: owner(system, iommu, requester),
            device: &device,
            total,
        }));
    }
}

/// Name of whom a device belongs to.
fn owner<'a, V: Vendor>(system: &'a System<V>, iommu: &Iommu, requester: Requester) -> &'a str {
    let partition = iommu.owner(requester);
    match partition.and_then(|index| system.partitions.get(index)) {
        Some(partition) => partition.name(),
        None => cloister_manifest::LINUX,
    }
}
