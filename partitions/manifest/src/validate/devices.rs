//! PCI functions: each with one owner.

use super::Sink;
use crate::hardware::{DeviceName, Dma, PciAddress};
use crate::model::{Manifest, Owner};
use crate::problem::Problem;

/// Where every PC has its host bridge (PCI Local Bus Specification 3.0, and
/// all chipsets since).
const HOST_BRIDGE: PciAddress = PciAddress {
    segment: 0,
    bus: 0,
    device: 0,
    function: 0,
};

pub(super) fn check(manifest: &Manifest, sink: Sink<'_>) {
    for (index, partition) in manifest.partitions.iter().enumerate() {
        for (position, device) in partition.devices.iter().enumerate() {
            let key = format_args!("partition[{index}].devices[{position}]");
            let name = device.name;
            if let DeviceName::Address(address) = name {
                check_address(address, key, sink);
            }
            let own = partition.devices.iter().take(position);
            let own = own.map(|other| (Owner::Partition(index, &partition.name), other));
            let earlier = manifest.owners().take(index);
            let earlier =
                earlier.flat_map(|(owner, other)| other.devices.iter().map(move |d| (owner, d)));
            for (owner, _) in earlier.chain(own).filter(|(_, other)| other.name == name) {
                sink(Problem::error(
                    key,
                    format_args!(
                        "{name} belongs to {owner} already; \
                         a device has one owner, take it out of one of the two"
                    ),
                ));
            }
            if device.dma == Dma::Unprotected {
                sink(Problem::warning(
                    key,
                    format_args!(
                        "{name} may read and write all memory of the machine; \
                         leave dma out where there is an IOMMU"
                    ),
                ));
            }
        }
    }
}

fn check_address(address: PciAddress, key: core::fmt::Arguments<'_>, sink: Sink<'_>) {
    if !address.is_valid() {
        sink(Problem::error(
            key,
            format_args!("{address} is no PCI address; device is at most 1f, function 7"),
        ));
    }
    if address == HOST_BRIDGE {
        sink(Problem::error(
            key,
            format_args!("{address} is the host bridge: nobody may own it; leave it out"),
        ));
    }
}
