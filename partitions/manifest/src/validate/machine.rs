//! What the machine at hand must have.

use cloister_abi::MAX_CORES;

use super::limits::MIN_LINUX_MEMORY;
use super::{Sink, first_error};
use crate::cpuset::CpuSet;
use crate::hardware::{Dma, PortRange};
use crate::model::{Manifest, Owner};
use crate::problem::Problem;
use crate::size::Size;

/// The machine, as firmware and boot loader describe it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Machine<'a> {
    /// Number of enabled cores; they are numbered from 0 in MADT order.
    pub cores: usize,
    /// Bytes of usable RAM in the memory map, the hypervisor's included.
    pub usable_memory: u64,
    /// Whether an IOMMU is there and can be used for DMA remapping.
    pub has_iommu: bool,
    /// Sets of cores that are SMT siblings. Sets of one core may be left out;
    /// empty where SMT is off or unknown.
    pub smt_siblings: &'a [CpuSet],
    /// Names (command lines) of the modules that the boot loader loaded.
    pub modules: &'a [&'a str],
    /// Ports of the whole machine that the firmware names (FADT: PM1 event and
    /// control blocks, PM timer, GPE blocks, SMI command, reset register),
    /// besides [`super::limits::MACHINE_PORTS`].
    pub reserved_ports: &'a [PortRange],
}

/// Finds all reasons why this machine cannot run this manifest, and warnings.
/// The manifest has passed [`crate::validate`].
pub fn machine_problems(manifest: &Manifest, machine: &Machine<'_>, sink: &mut dyn FnMut(Problem)) {
    cores(manifest, machine, sink);
    siblings(manifest, machine, sink);
    memory(manifest, machine, sink);
    modules(manifest, machine, sink);
    devices(manifest, machine, sink);
    ports(manifest, machine, sink);
}

/// Whether this machine can run this manifest.
///
/// # Errors
/// The first error that [`machine_problems`] finds.
#[expect(
    clippy::result_large_err,
    reason = "there is no heap to box it in; made once at boot"
)]
pub fn validate_machine(manifest: &Manifest, machine: &Machine<'_>) -> Result<(), Problem> {
    first_error(|sink| machine_problems(manifest, machine, sink))
}

fn cores(manifest: &Manifest, machine: &Machine<'_>, sink: Sink<'_>) {
    let exist: CpuSet = (0..machine.cores.min(MAX_CORES)).collect();
    for_each_cpus(manifest, |owner, cpus| {
        let missing = cpus.difference(exist);
        if !missing.is_empty() {
            let highest = machine.cores.saturating_sub(1);
            cpus_problem(
                owner,
                format_args!(
                    "core {missing} does not exist, this machine has {} cores; \
                     use cores 0 to {highest}, or a machine with more",
                    machine.cores
                ),
                sink,
            );
        }
    });
}

fn siblings(manifest: &Manifest, machine: &Machine<'_>, sink: Sink<'_>) {
    for &set in machine.smt_siblings {
        for_each_cpus(manifest, |owner, cpus| {
            let Some(mine) = set.intersection(cpus).first() else {
                return;
            };
            // Told once per pair of owners, at the one with the higher core.
            let mut others = set.difference(cpus).iter().filter(|&core| core < mine);
            let other = others.find_map(|core| Some((core, manifest.core_owner(core)?)));
            if let Some((core, other)) = other {
                cpus_problem(
                    owner,
                    format_args!(
                        "core {mine} is an SMT sibling of core {core}, which belongs to {other}: \
                         they would slow each other; give {set} to one owner, leave the sibling \
                         unused, or turn SMT off in the firmware"
                    ),
                    sink,
                );
            }
        });
    }
}

fn for_each_cpus<'a>(manifest: &'a Manifest, mut each: impl FnMut(Owner<'a>, CpuSet)) {
    if let Some(linux) = &manifest.linux {
        each(Owner::Linux, linux.cpus);
    }
    for (owner, partition) in manifest.owners() {
        each(owner, partition.cpus);
    }
}

fn cpus_problem(owner: Owner<'_>, message: core::fmt::Arguments<'_>, sink: Sink<'_>) {
    match owner {
        Owner::Partition(index, _) => {
            sink(Problem::error(
                format_args!("partition[{index}].cpus"),
                message,
            ));
        }
        Owner::Linux | Owner::Hypervisor => {
            sink(Problem::error(format_args!("linux.cpus"), message));
        }
    }
}

fn memory(manifest: &Manifest, machine: &Machine<'_>, sink: Sink<'_>) {
    let mut sum = 0;
    let mut told = false;
    let mut add = |key: core::fmt::Arguments<'_>, bytes: u64| {
        sum = u64::saturating_add(sum, bytes);
        if sum > machine.usable_memory && !told {
            told = true;
            sink(Problem::error(
                key,
                format_args!(
                    "does not fit: with this there are {} MiB in use, this machine has {} MiB; \
                     make something smaller, or use a machine with more memory",
                    sum.div_ceil(1 << 20),
                    machine.usable_memory >> 20
                ),
            ));
        }
    };
    add(
        format_args!("hypervisor.memory"),
        manifest.hypervisor.memory,
    );
    for (index, partition) in manifest.partitions.iter().enumerate() {
        add(format_args!("partition[{index}].memory"), partition.memory);
    }
    for (index, channel) in manifest.channels.iter().enumerate() {
        add(format_args!("channel[{index}].size"), channel.size);
    }
    if !told && manifest.linux.is_some() {
        let left = machine.usable_memory.saturating_sub(sum);
        if left < MIN_LINUX_MEMORY {
            sink(Problem::error(
                format_args!("linux"),
                format_args!(
                    "{} MiB are left for Linux, which needs {}; \
                     make the partitions smaller, or use a machine with more memory",
                    left >> 20,
                    Size(MIN_LINUX_MEMORY)
                ),
            ));
        }
    }
}

fn modules(manifest: &Manifest, machine: &Machine<'_>, sink: Sink<'_>) {
    let mut present = |key: core::fmt::Arguments<'_>, name: &str| {
        let count = machine
            .modules
            .iter()
            .filter(|&&module| module == name)
            .count();
        if count == 0 {
            sink(Problem::error(
                key,
                format_args!(
                    "no module is called \"{name}\"; \
                     add \"module2 /boot/{name} {name}\" to the GRUB menu entry"
                ),
            ));
        } else if count > 1 {
            sink(Problem::error(
                key,
                format_args!("{count} modules are called \"{name}\"; load it once"),
            ));
        }
    };
    if let Some(linux) = &manifest.linux {
        present(format_args!("linux.kernel"), &linux.kernel);
        if let Some(initrd) = &linux.initrd {
            present(format_args!("linux.initrd"), initrd);
        }
    }
    for (index, partition) in manifest.partitions.iter().enumerate() {
        present(
            format_args!("partition[{index}].program"),
            &partition.program,
        );
    }
}

fn devices(manifest: &Manifest, machine: &Machine<'_>, sink: Sink<'_>) {
    for (index, partition) in manifest.partitions.iter().enumerate() {
        for (position, device) in partition.devices.iter().enumerate() {
            if device.dma == Dma::Protected && !machine.has_iommu {
                sink(Problem::error(
                    format_args!("partition[{index}].devices[{position}]"),
                    format_args!(
                        "this machine has no usable IOMMU, so {0} could reach all memory; turn \
                         VT-d or AMD-Vi on in the firmware, or accept it: \
                         {{ {1} = \"{0}\", dma = \"unprotected\" }}",
                        device.name,
                        device.name.key()
                    ),
                ));
            }
        }
    }
}

fn ports(manifest: &Manifest, machine: &Machine<'_>, sink: Sink<'_>) {
    for (index, partition) in manifest.partitions.iter().enumerate() {
        for (position, range) in partition.ports.iter().enumerate() {
            let key = format_args!("partition[{index}].ports[{position}]");
            for reserved in machine
                .reserved_ports
                .iter()
                .filter(|other| range.overlaps(**other))
            {
                sink(Problem::error(
                    key,
                    format_args!(
                        "ports {reserved} are this machine's power management or reset: \
                         nobody may own them; leave them out"
                    ),
                ));
            }
        }
    }
}
