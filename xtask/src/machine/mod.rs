//! A virtual machine as a child process: two serial consoles, and an end.

pub mod bochs;
mod child;
mod codes;
mod nic;
pub mod qemu;
mod threads;
mod witness;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

pub use child::{Child, Event, Port};
pub use nic::{Nic, NicModel};
pub use witness::{OutsideExit, Testimony};

use crate::system::SerialPorts;

/// Which virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineKind {
    /// QEMU: AMD SVM by TCG, or nested KVM.
    Qemu,
    /// Bochs: Intel VMX and EPT, emulated.
    Bochs,
}

/// How QEMU runs guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Accel {
    /// KVM if it can nest here, else TCG.
    Auto,
    /// KVM, or an error.
    Kvm,
    /// Emulation, with AMD SVM.
    Tcg,
}

/// An IOMMU with interrupt remapping for QEMU's q35; either goes with either
/// maker of processor. Virtio functions are behind it only with
/// `iommu_platform=on,disable-legacy=on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Iommu {
    /// VT-d.
    Intel,
    /// AMD-Vi.
    Amd,
}

/// What makes a machine's time pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// The host's time in QEMU; Bochs has a time of its own.
    #[default]
    Host,
    /// Executed instructions, one cycle of the TSC for each: the same on every
    /// run. QEMU: TCG only, and with one core (Linux on more hangs).
    Instructions,
}

/// What a machine is to have.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// The disk it boots from.
    pub iso: &'a Path,
    /// Cores.
    pub cpus: u32,
    /// Bytes of memory, a multiple of 1 MiB.
    pub memory: u64,
    /// Cores that let the others run first ([`crate::Run::yielding`]): QEMU
    /// under TCG only.
    pub yielding: &'a [u32],
    /// QEMU only.
    pub accel: Accel,
    /// QEMU only.
    pub iommu: Option<Iommu>,
    /// Bochs always counts instructions.
    pub clock: Clock,
    /// The serial ports that are read.
    pub ports: SerialPorts,
    /// Whether the machine is to write down every VM exit; see
    /// [`Child::testimony`].
    pub witness: bool,
    /// Network cards.
    pub nics: &'a [Nic],
    /// Further command line arguments (QEMU) or lines of bochsrc (Bochs).
    pub extra: &'a [String],
}

impl MachineKind {
    /// Name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Bochs => "bochs",
        }
    }

    /// Starts the machine.
    ///
    /// # Errors
    /// The program cannot be started, or ends before its consoles are there;
    /// Bochs is to have an IOMMU.
    pub fn start(self, setup: &Setup<'_>) -> Result<Child> {
        match self {
            Self::Qemu => qemu::start(setup),
            Self::Bochs if setup.iommu.is_some() => anyhow::bail!("Bochs has no IOMMU"),
            Self::Bochs => bochs::start(setup),
        }
    }

    /// How long the machine may take to end by itself after the hypervisor
    /// said that nothing follows. Bochs starts over after a reset.
    #[must_use]
    pub const fn grace(self) -> Duration {
        match self {
            Self::Qemu => Duration::from_secs(5),
            Self::Bochs => Duration::from_millis(500),
        }
    }

    /// Timeout of a run without a terminal for which none was given.
    #[must_use]
    pub const fn patience(self) -> Duration {
        match self {
            Self::Qemu => Duration::from_secs(600),
            Self::Bochs => Duration::from_secs(3600),
        }
    }
}
