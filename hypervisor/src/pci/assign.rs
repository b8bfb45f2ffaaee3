//! Which function goes to which partition: the system file against the machine.

use core::sync::atomic::AtomicU8;

use cloister_abi::device::MAX_DEVICES;
use cloister_core::pci::{Address, Bar, FunctionInfo, Kind};
use cloister_manifest::{
    Channel, Device, DeviceName, Dma, Manifest, Partition, PciAddress, Problem,
};
use heapless::Vec;

use super::{Assigned, Pci, memory_bars};
use crate::arch::memory::FramePool;
use crate::partition::load;

/// Class and subclass of IOMMUs (PCI Code and ID Assignment Specification).
const IOMMU: u32 = 0x0806;

/// Class of bridges of all kinds.
const BRIDGE: u32 = 0x06;

/// Gives the functions that the system file names to their partitions. Their
/// DMA and interrupts are off from now on.
///
/// # Errors
/// Which key of the file this machine cannot fulfil.
#[expect(
    clippy::result_large_err,
    reason = "there is no heap to box it in; made once at boot"
)]
pub(crate) fn assign(pci: &mut Pci, manifest: &Manifest, has_iommu: bool) -> Result<(), Problem> {
    for (index, partition) in manifest.partitions.iter().enumerate() {
        for (position, device) in partition.devices.iter().enumerate() {
            let key = format_args!("partition[{index}].devices[{position}]");
            let info = find(pci, device).ok_or_else(|| missing(device, key))?;
            check(pci, info, key)?;
            if has_iommu {
                check_path(pci, info, key)?;
            }
            check_memory(info, end(manifest, partition), key)?;
            claim(pci, manifest, info, index, key)?;
            super::isolate(pci, info.address);
            super::quiet(info);
        }
    }
    Ok(())
}

/// The functions of a partition, in the order of the system file, after
/// [`assign`]. `None`: the pool is empty.
pub(crate) fn of_partition(
    pci: &Pci,
    devices: &[Device],
    has_iommu: bool,
    pool: &FramePool,
) -> Option<&'static [Assigned]> {
    if devices.is_empty() {
        return Some(&[]);
    }
    let all = devices.iter().filter_map(|device| {
        Some(Assigned {
            info: find(pci, device)?,
            // Consent to do without an IOMMU is not needed where there is one.
            dma: if has_iommu {
                Dma::Protected
            } else {
                device.dma
            },
            sized: AtomicU8::new(0),
        })
    });
    let all: Vec<Assigned, MAX_DEVICES> = all.collect();
    Some(&*pool.page()?.place(all)?)
}

fn address(at: PciAddress) -> Option<Address> {
    (at.segment == 0).then(|| Address::new(at.bus, at.device, at.function))
}

fn find(pci: &Pci, device: &Device) -> Option<&'static FunctionInfo> {
    match device.name {
        DeviceName::Address(at) => pci.function(address(at)?).map(|(info, _)| info),
        DeviceName::Id {
            vendor,
            device,
            index,
        } => {
            let is = |info: &&FunctionInfo| (info.vendor, info.device) == (vendor, device);
            pci.functions.iter().filter(is).nth(usize::from(index))
        }
    }
}

fn missing(device: &Device, key: core::fmt::Arguments<'_>) -> Problem {
    Problem::error(
        key,
        format_args!(
            "this machine has no PCI function {}; look with `lspci -D` in a Linux on it, and \
             leave it out or name one that is there",
            device.name
        ),
    )
}

/// Whether a partition can own it at all.
#[expect(clippy::result_large_err, reason = "as above")]
fn check(pci: &Pci, info: &FunctionInfo, key: core::fmt::Arguments<'_>) -> Result<(), Problem> {
    let at = info.address;
    let is_bridge = info.class >> 16 == BRIDGE;
    if info.kind != Kind::Endpoint || is_bridge {
        let what = match info.kind {
            Kind::HostBridge => "a host bridge",
            Kind::Bridge { .. } | Kind::Endpoint => "a bridge, through which others are reached",
            Kind::Other => "no ordinary function",
        };
        return Err(Problem::error(
            key,
            format_args!("{at} is {what}: nobody can own it; leave it out"),
        ));
    }
    if info.class >> 8 == IOMMU {
        return Err(Problem::error(
            key,
            format_args!("{at} is the machine's IOMMU: nobody can own it; leave it out"),
        ));
    }
    for (bar, start, bytes) in memory_bars(info) {
        let shares = |other: &&FunctionInfo| {
            other.address != at
                && memory_bars(other)
                    .any(|(_, from, len)| from < start + bytes && start < from + len)
        };
        if let Some(other) = pci.functions.iter().find(shares) {
            return Err(Problem::error(
                key,
                format_args!(
                    "BAR {bar} of {at} shares a page at {start:#x} with {}, so neither can be \
                     fenced; have the firmware align BARs to 4 KiB, or leave it out",
                    other.address
                ),
            ));
        }
    }
    Ok(())
}

/// Whether the IOMMU sees every request of the function, and as its own: each
/// bridge on the way must send requests upstream, and a conventional one takes
/// them over in its own name.
#[expect(clippy::result_large_err, reason = "as above")]
fn check_path(
    pci: &Pci,
    info: &FunctionInfo,
    key: core::fmt::Arguments<'_>,
) -> Result<(), Problem> {
    let at = info.address;
    let on_path = |bridge: &&FunctionInfo| bridge.leads_to(at);
    for bridge in pci.functions.iter().filter(on_path) {
        let Kind::Bridge { isolates, .. } = bridge.kind else {
            continue;
        };
        let (behind, why) = match (bridge.capabilities.express, isolates) {
            (0, _) => (
                "conventional PCI bridge",
                "others behind it have the same requester ID",
            ),
            (_, false) => (
                "bridge without access control services (ACS)",
                "others behind it can \
                            be reached past the IOMMU",
            ),
            _ => continue,
        };
        return Err(Problem::error(
            key,
            format_args!(
                "{at} is behind the {behind} {}: {why}; put it into another slot, or leave it out",
                bridge.address
            ),
        ));
    }
    Ok(())
}

/// End of what a partition has in its address space besides its functions'
/// BARs: RAM, shared pages, channels.
fn end(manifest: &Manifest, partition: &Partition) -> u64 {
    const LARGE: u64 = 2 << 20;
    let own = |channel: &&Channel| channel.between.contains(&partition.name);
    let channels = manifest.channels.iter().filter(own);
    let bytes = channels.map(|channel| channel.size.next_multiple_of(LARGE));
    let shared = load::shared_base(partition.memory) + LARGE;
    shared.saturating_add(bytes.fold(0, u64::saturating_add))
}

/// Whether its BARs, which the partition finds at their own addresses, are
/// clear of the partition's RAM and shared pages, which end at `end`.
#[expect(clippy::result_large_err, reason = "as above")]
fn check_memory(
    info: &FunctionInfo,
    end: u64,
    key: core::fmt::Arguments<'_>,
) -> Result<(), Problem> {
    let at = info.address;
    for (index, bar) in info.bars.iter().enumerate() {
        if let Bar::Memory { base: 0, .. } | Bar::Ports { base: 0, .. } = bar {
            return Err(Problem::error(
                key,
                format_args!("the firmware gave BAR {index} of {at} no address; leave it out"),
            ));
        }
    }
    for (bar, start, _) in memory_bars(info) {
        if start < end {
            return Err(Problem::error(
                key,
                format_args!(
                    "BAR {bar} of {at} is at {start:#x}, where the partition's own memory is (up \
                     to {end:#x}); give the partition less memory"
                ),
            ));
        }
    }
    Ok(())
}

/// Gives it to partition `index`, unless it has an owner.
#[expect(clippy::result_large_err, reason = "as above")]
fn claim(
    pci: &mut Pci,
    manifest: &Manifest,
    info: &FunctionInfo,
    index: usize,
    key: core::fmt::Arguments<'_>,
) -> Result<(), Problem> {
    let all = pci.functions.iter().zip(&mut pci.owners);
    let mut same = all.filter(|(other, _)| other.address == info.address);
    let Some((_, owner)) = same.next() else {
        return Ok(());
    };
    if let Some(first) = owner {
        let name = manifest.partitions.get(usize::from(*first));
        return Err(Problem::error(
            key,
            format_args!(
                "{} belongs to partition \"{}\" already; name it once",
                info.address,
                name.map_or("", |partition| partition.name.as_str())
            ),
        ));
    }
    *owner = u8::try_from(index).ok();
    Ok(())
}
