//! Devices of partitions, and what devices reached for that is not their
//! owner's.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use cloister_abi::record;
use serde::{Deserialize, Serialize};

use super::{Hex, Report};

/// An access that the IOMMU blocked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmaFault {
    /// `linux`, or the partition that owns the device.
    pub owner: String,
    /// The PCI function: `0000:00:03.0`.
    pub device: String,
    /// The address that it used; on VT-d that of the page.
    pub address: Hex,
    /// `read`, `write` or `interrupt`.
    pub access: String,
    /// The IOMMU's number for the cause: a fault reason (VT-d) or an event code
    /// (AMD-Vi).
    pub code: u32,
    /// Which fault of that device this is, from 1.
    pub number: u64,
}

impl From<record::DmaFault<String>> for DmaFault {
    fn from(fault: record::DmaFault<String>) -> Self {
        Self {
            owner: fault.owner,
            device: fault.device,
            address: Hex(fault.address),
            access: fault.access,
            code: fault.code,
            number: fault.number,
        }
    }
}

/// A PCI function of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where it is: `0000:00:03.0`.
    pub address: String,
    /// Vendor and device ID: `8086:100e`.
    pub id: String,
    /// `protected` by the IOMMU, or `unprotected`.
    pub dma: String,
}

impl From<record::Device<String>> for Device {
    fn from(device: record::Device<String>) -> Self {
        let dma = if device.unprotected {
            "unprotected"
        } else {
            "protected"
        };
        Self {
            address: device.device,
            id: format!("{:04x}:{:04x}", device.id >> 16, device.id & 0xffff),
            dma: dma.to_owned(),
        }
    }
}

/// How many faults each device had, by owner and device.
pub(super) type Totals = BTreeMap<(String, String), u64>;

/// Gives owners the sums over their devices.
pub(super) fn finish(report: &mut Report, totals: &Totals) {
    let sum = |name: &str| {
        let of = |((owner, _), total): (&(String, String), &u64)| (owner == name).then_some(*total);
        totals.iter().filter_map(of).sum()
    };
    if let Some(linux) = &mut report.linux {
        linux.dma_faults = sum("linux");
    }
    for partition in &mut report.partitions {
        partition.dma_faults = sum(&partition.name);
    }
}

/// Writes a line for each device that was blocked.
pub(super) fn print(report: &Report, out: &mut dyn Write) -> fmt::Result {
    let mut devices: Vec<(&DmaFault, u64)> = Vec::new();
    for fault in &report.dma_faults {
        let same = |(first, _): &&mut (&DmaFault, u64)| {
            (&first.owner, &first.device) == (&fault.owner, &fault.device)
        };
        match devices.iter_mut().find(same) {
            Some((_, count)) => *count += 1,
            None => devices.push((fault, 1)),
        }
    }
    for (first, count) in devices {
        writeln!(
            out,
            "blocked DMA of {} ({}): {} of {}, {count} recorded in all",
            first.device, first.owner, first.access, first.address
        )?;
    }
    Ok(())
}
