//! The manifest as both sides hold it: fixed size, no heap.
//!
//! The values are as written or defaulted; that they make sense together is
//! what [`crate::validate`] says.

use core::fmt;

pub use cloister_abi::MAX_CHANNELS;
use cloister_abi::shared::MAX_ARGS;
use cloister_abi::{Dataplane, MAX_NAME, MAX_PARTITIONS};
use heapless::{String, Vec};
use serde::{Deserialize, Serialize};

use crate::cpuset::CpuSet;
use crate::hardware::{Console, Device, PortRange};

/// Longest kernel command line, bytes. (Linux takes up to 2047 on x86:
/// `COMMAND_LINE_SIZE`.)
pub const MAX_CMDLINE: usize = 1024;
/// Most port ranges of one partition.
pub const MAX_PORT_RANGES: usize = 16;
/// Most devices of one partition.
pub const MAX_DEVICES: usize = 8;
/// What `max_restarts` is when it is left out.
pub const DEFAULT_MAX_RESTARTS: u32 = 3;
/// What `hypervisor.memory` is when it is left out, bytes.
pub const DEFAULT_HYPERVISOR_MEMORY: u64 = 32 << 20;
/// The name of Linux among the ends of channels; no partition may have it.
pub const LINUX: &str = "linux";
/// Name of the GRUB module that holds the compiled manifest: the module's
/// command line. No other module may have it.
pub const MANIFEST_MODULE: &str = "manifest";

/// Name of a partition, a channel or a GRUB module.
pub type Name = String<MAX_NAME>;

/// A whole system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// What the hypervisor itself takes.
    pub hypervisor: Hypervisor,
    /// The housekeeping guest, if there is one.
    pub linux: Option<Linux>,
    /// The partitions, in the order of the system file.
    pub partitions: Vec<Partition, MAX_PARTITIONS>,
    /// Shared memory between two of them.
    pub channels: Vec<Channel, MAX_CHANNELS>,
}

/// Table `[hypervisor]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hypervisor {
    /// Bytes it takes for itself, its tables and records.
    pub memory: u64,
    /// Where it prints.
    pub console: Console,
}

/// Table `[linux]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linux {
    /// Its cores: the housekeeping cores.
    pub cpus: CpuSet,
    /// Module that holds the bzImage.
    pub kernel: Name,
    /// Module that holds the initial RAM disk.
    pub initrd: Option<Name>,
    /// Kernel command line.
    pub cmdline: String<MAX_CMDLINE>,
    /// Those of its cores whose every exit is traced.
    pub debug: CpuSet,
}

/// One table `[[partition]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Its name.
    pub name: Name,
    /// Its cores.
    pub cpus: CpuSet,
    /// Bytes of RAM.
    pub memory: u64,
    /// Module that holds its ELF image.
    pub program: Name,
    /// Command line of the program.
    pub args: String<MAX_ARGS>,
    /// Flags that it may ask for, implied ones included.
    #[serde(with = "dataplane_bits")]
    pub dataplane: Dataplane,
    /// Whether it starts at boot.
    pub autostart: bool,
    /// What a breach of STRICT leads to.
    pub on_violation: OnViolation,
    /// Whether it gets its local APIC's page (xAPIC) or MSRs (x2APIC).
    pub apic: bool,
    /// I/O ports that it may use.
    pub ports: Vec<PortRange, MAX_PORT_RANGES>,
    /// PCI functions that it owns.
    pub devices: Vec<Device, MAX_DEVICES>,
}

/// What happens to a partition after a breach of STRICT. It is recorded in
/// each case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnViolation {
    /// It stays stopped.
    #[default]
    Stop,
    /// It is loaded anew and started.
    Restart {
        /// After so many restarts the next breach stops it for good. At
        /// least 1.
        max: u32,
        /// Those restarts count that lie within so many seconds: counting
        /// begins anew when they have passed since the first. 0: all count.
        window: u32,
    },
    /// It goes on.
    Report,
}

/// One table `[[channel]]`: shared memory and a doorbell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// Its name.
    pub name: Name,
    /// The two ends: [`LINUX`] or names of partitions.
    pub between: [Name; 2],
    /// Bytes of shared memory.
    pub size: u64,
}

/// Who owns a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// The hypervisor.
    Hypervisor,
    /// Linux.
    Linux,
    /// A partition: its index in [`Manifest::partitions`], and its name.
    Partition(usize, &'a str),
}

/// What a GRUB module is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleKind {
    /// `linux.kernel`.
    Kernel,
    /// `linux.initrd`.
    Initrd,
    /// `program` of one or more partitions.
    Program,
}

impl Manifest {
    /// An empty system with defaults. It does not validate: nothing runs.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            hypervisor: Hypervisor::new(),
            linux: None,
            partitions: Vec::new(),
            channels: Vec::new(),
        }
    }

    /// The modules that GRUB must load besides [`MANIFEST_MODULE`]; a program
    /// that several partitions run comes once.
    pub fn modules(&self) -> impl Iterator<Item = (ModuleKind, &str)> {
        let linux = self.linux.iter().flat_map(|linux| {
            let initrd = linux.initrd.iter();
            core::iter::once((ModuleKind::Kernel, linux.kernel.as_str()))
                .chain(initrd.map(|name| (ModuleKind::Initrd, name.as_str())))
        });
        let programs = self.partitions.iter().enumerate();
        linux.chain(programs.filter_map(|(index, partition)| {
            let mut earlier = self.partitions.iter().take(index);
            let seen = earlier.any(|other| other.program == partition.program);
            (!seen).then_some((ModuleKind::Program, partition.program.as_str()))
        }))
    }

    /// Who owns physical core `core`. [`None`]: it stays halted.
    #[must_use]
    pub fn core_owner(&self, core: usize) -> Option<Owner<'_>> {
        if self
            .linux
            .as_ref()
            .is_some_and(|linux| linux.cpus.contains(core))
        {
            return Some(Owner::Linux);
        }
        let mut partitions = self.owners();
        partitions.find_map(|(owner, partition)| partition.cpus.contains(core).then_some(owner))
    }

    /// The partition called `name`, with its index.
    #[must_use]
    pub fn partition(&self, name: &str) -> Option<(usize, &Partition)> {
        let mut partitions = self.partitions.iter().enumerate();
        partitions.find(|(_, partition)| partition.name == name)
    }

    pub(crate) fn owners(&self) -> impl Iterator<Item = (Owner<'_>, &Partition)> {
        let partitions = self.partitions.iter().enumerate();
        partitions.map(|(index, partition)| (Owner::Partition(index, &partition.name), partition))
    }
}

impl Hypervisor {
    const fn new() -> Self {
        Self {
            memory: DEFAULT_HYPERVISOR_MEMORY,
            console: Console::Com2,
        }
    }
}

impl Default for Hypervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl OnViolation {
    /// Its name in system files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Restart { .. } => "restart",
            Self::Report => "report",
        }
    }
}

impl ModuleKind {
    /// What such a module is, for people.
    #[must_use]
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Kernel => "Linux kernel",
            Self::Initrd => "initial RAM disk",
            Self::Program => "partition program",
        }
    }
}

impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hypervisor => f.write_str("the hypervisor"),
            Self::Linux => f.write_str("linux"),
            Self::Partition(_, name) => write!(f, "partition \"{name}\""),
        }
    }
}

/// Flags as their bits; bits without a meaning are refused.
mod dataplane_bits {
    use cloister_abi::Dataplane;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(flags: &Dataplane, s: S) -> Result<S::Ok, S::Error> {
        flags.bits().serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Dataplane, D::Error> {
        let bits = u64::deserialize(d)?;
        Dataplane::from_bits(bits).ok_or_else(|| D::Error::custom("unknown dataplane flag"))
    }
}
