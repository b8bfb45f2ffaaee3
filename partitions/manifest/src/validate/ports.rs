//! I/O ports: possible ones, each with one owner.

use super::Sink;
use super::limits::MACHINE_PORTS;
use crate::model::{Manifest, Owner};
use crate::problem::Problem;

pub(super) fn check(manifest: &Manifest, sink: Sink<'_>) {
    for (index, partition) in manifest.partitions.iter().enumerate() {
        for (position, &range) in partition.ports.iter().enumerate() {
            let key = format_args!("partition[{index}].ports[{position}]");
            if range.count == 0 {
                sink(Problem::error(
                    key,
                    format_args!("no port; count must be at least 1"),
                ));
                continue;
            }
            if range.end() > 0x1_0000 {
                sink(Problem::error(
                    key,
                    format_args!(
                        "goes past the last port, 0xffff; with this base count may be {} at most",
                        0x1_0000 - u32::from(range.base)
                    ),
                ));
            }
            for (machine, what) in MACHINE_PORTS {
                if range.overlaps(machine) {
                    sink(Problem::error(
                        key,
                        format_args!(
                            "ports {machine} are {what}: nobody may own them; leave them out"
                        ),
                    ));
                }
            }
            if manifest
                .hypervisor
                .console
                .ports()
                .is_some_and(|ports| range.overlaps(ports))
            {
                let console = manifest.hypervisor.console.name();
                sink(Problem::error(
                    key,
                    format_args!(
                        "ports {range} overlap the hypervisor's console, {console}; \
                         set hypervisor.console to another port or to \"none\""
                    ),
                ));
            }
            let own = partition.ports.iter().take(position);
            let own = own.map(|other| (Owner::Partition(index, &partition.name), other));
            let earlier = manifest.owners().take(index);
            let earlier =
                earlier.flat_map(|(owner, other)| other.ports.iter().map(move |r| (owner, r)));
            for (owner, other) in earlier
                .chain(own)
                .filter(|(_, other)| range.overlaps(**other))
            {
                sink(Problem::error(
                    key,
                    format_args!(
                        "ports {range} overlap {other}, which belong to {owner} already; \
                         a port has one owner, take it out of one of the two"
                    ),
                ));
            }
        }
    }
}
