//! Everything about the running system, built once by the boot core and then
//! only read.

use cloister_abi::MAX_PARTITIONS;
use cloister_core::policy::io::IoFacts;
use cloister_manifest::{Manifest, PortRange};
use heapless::Vec;

use crate::arch::memory::FramePool;
use crate::boot::acpi::Firmware;
use crate::control::Control;
use crate::iommu::Iommu;
use crate::partition::Partition;
use crate::partition::linux::Linux;
use crate::pci::{self, Pci};
use crate::virt::Vendor;

/// The system.
pub(crate) struct System<V: Vendor> {
    pub(crate) manifest: &'static Manifest,
    pub(crate) firmware: &'static Firmware,
    pub(crate) pool: &'static FramePool,
    pub(crate) pci: Pci,
    pub(crate) linux: Option<Linux<V>>,
    pub(crate) partitions: Vec<Partition<V>, MAX_PARTITIONS>,
    /// Cores that run, in MADT order.
    pub(crate) cores: usize,
    /// Ports through which the machine is switched off or reset.
    pub(crate) io: IoFacts,
    /// What confines devices, on machines that have it.
    pub(crate) iommu: Option<Iommu>,
    /// Linux's view of all this; none without Linux.
    pub(crate) control: Option<&'static Control>,
}

impl<V: Vendor> System<V> {
    /// The partition that owns core `number`.
    pub(crate) fn partition_of(&self, number: usize) -> Option<&Partition<V>> {
        self.partitions
            .iter()
            .find(|partition| partition.config.cpus.contains(number))
    }

    /// What to call the owner of core `number` in records.
    pub(crate) fn owner_name(&self, number: usize) -> &str {
        match self.partition_of(number) {
            Some(partition) => partition.name(),
            None => cloister_manifest::LINUX,
        }
    }

    /// Whether an access to `width` ports from `port` touches one that is not
    /// Linux's: the hypervisor's console's, or a partition's.
    pub(crate) fn foreign_port(&self, port: u16, width: u8) -> bool {
        let touches = |range: &PortRange| {
            (0..u16::from(width)).any(|n| range.contains(port.saturating_add(n)))
        };
        self.manifest
            .hypervisor
            .console
            .ports()
            .is_some_and(|range| touches(&range))
            || self
                .manifest
                .partitions
                .iter()
                .any(|partition| partition.ports.iter().any(touches))
            || self
                .pci
                .assigned()
                .flat_map(pci::ports)
                .any(|(first, last)| {
                    (0..u16::from(width)).any(|n| (first..=last).contains(&port.saturating_add(n)))
                })
    }
}
