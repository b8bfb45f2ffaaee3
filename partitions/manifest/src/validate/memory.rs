//! Sizes: possible ones.

use core::fmt;

use super::Sink;
use super::limits::{
    MAX_HYPERVISOR_MEMORY, MAX_PARTITION_MEMORY, MEMORY_GRANULE, MIN_HYPERVISOR_MEMORY,
    MIN_PARTITION_MEMORY,
};
use crate::model::Manifest;
use crate::problem::Problem;
use crate::size::Size;

pub(super) fn check(manifest: &Manifest, sink: Sink<'_>) {
    let hypervisor = (MIN_HYPERVISOR_MEMORY, MAX_HYPERVISOR_MEMORY, MEMORY_GRANULE);
    size(
        format_args!("hypervisor.memory"),
        manifest.hypervisor.memory,
        hypervisor,
        sink,
    );
    let partition = (MIN_PARTITION_MEMORY, MAX_PARTITION_MEMORY, MEMORY_GRANULE);
    for (index, each) in manifest.partitions.iter().enumerate() {
        size(
            format_args!("partition[{index}].memory"),
            each.memory,
            partition,
            sink,
        );
    }
}

fn size(
    key: fmt::Arguments<'_>,
    bytes: u64,
    (least, most, granule): (u64, u64, u64),
    sink: Sink<'_>,
) {
    let wrong = if bytes < least {
        "too small"
    } else if bytes > most {
        "too large"
    } else if !bytes.is_multiple_of(granule) {
        "not a whole number of pages"
    } else {
        return;
    };
    sink(Problem::error(
        key,
        format_args!(
            "{} is {wrong}; use a multiple of {} from {} to {}",
            Size(bytes),
            Size(granule),
            Size(least),
            Size(most)
        ),
    ));
}
