//! Cores: every owner has one, and each has one owner.

use core::fmt;

use super::Sink;
use super::limits::{LOADER_AREA, loader_bytes};
use crate::cpuset::CpuSet;
use crate::model::{Manifest, Owner};
use crate::problem::Problem;
use crate::size::Size;

pub(super) fn check(manifest: &Manifest, sink: Sink<'_>) {
    if let Some(linux) = &manifest.linux {
        present(format_args!("linux.cpus"), linux.cpus, sink);
        let foreign = linux.debug.difference(linux.cpus);
        if !foreign.is_empty() {
            sink(Problem::error(
                format_args!("linux.debug"),
                format_args!(
                    "{foreign} not among linux.cpus; name cores out of {}",
                    linux.cpus
                ),
            ));
        }
    }
    for (index, partition) in manifest.partitions.iter().enumerate() {
        let key = format_args!("partition[{index}].cpus");
        present(key, partition.cpus, sink);
        let linux = manifest
            .linux
            .iter()
            .map(|linux| (Owner::Linux, linux.cpus));
        let earlier = manifest
            .owners()
            .take(index)
            .map(|(owner, other)| (owner, other.cpus));
        for (owner, cpus) in linux.chain(earlier) {
            let shared = cpus.intersection(partition.cpus);
            if !shared.is_empty() {
                sink(Problem::error(
                    key,
                    format_args!(
                        "{shared} belongs to {owner} already; a core has one owner, \
                         take it out of one of the two lists"
                    ),
                ));
            }
        }
        let loader = loader_bytes(partition.cpus.len(), partition.memory);
        if loader > LOADER_AREA {
            sink(Problem::error(
                key,
                format_args!(
                    "stacks of {} cores and page tables for {} do not fit below 1 MiB; \
                     use fewer cores (16 KiB each) or less memory (4 KiB per GiB)",
                    partition.cpus.len(),
                    Size(partition.memory)
                ),
            ));
        }
    }
}

fn present(key: fmt::Arguments<'_>, cpus: CpuSet, sink: Sink<'_>) {
    if cpus.is_empty() {
        sink(Problem::error(
            key,
            format_args!("no core; name at least one, as in [2]"),
        ));
    }
}
