//! What others cost on the same machines, and what is aimed at.
//!
//! Jailhouse 0.12 (AMD build, its root Linux) and KVM (Linux 6.1) were measured
//! in the same way: instructions added over native, one CPU, the empty loop
//! taken off. KVM's figures are what its guest sees.

use serde::Serialize;

use crate::machine::MachineKind;

/// Figures to compare one kind of exit with, instructions; [`None`] where
/// there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reference {
    /// At most this is aimed at.
    pub target: Option<u64>,
    /// Jailhouse 0.12.
    pub jailhouse: Option<u64>,
    /// KVM 6.1.
    pub kvm: Option<u64>,
}

/// Machine, exit, and its figures.
const KNOWN: &[(MachineKind, &str, Reference)] = &[
    (MachineKind::Qemu, "cpuid", known(100, 122, 2507)),
    (MachineKind::Qemu, "null-hypercall", known(100, 162, 2666)),
    // Jailhouse: PAT.
    (MachineKind::Qemu, "rdmsr", known(95, 111, 0)),
    // Jailhouse: 0xcf8.
    (MachineKind::Qemu, "port-in", known(120, 149, 0)),
    (MachineKind::Qemu, "xapic-eoi", known(1000, 2931, 0)),
    (MachineKind::Qemu, "xapic-timer", known(1000, 2931, 0)),
    (MachineKind::Qemu, "xapic-icr", known(1000, 2931, 0)),
    (MachineKind::Bochs, "cpuid", known(100, 0, 1114)),
    (MachineKind::Bochs, "null-hypercall", known(90, 0, 0)),
    (MachineKind::Bochs, "xapic-eoi", known(1000, 0, 0)),
    (MachineKind::Bochs, "xapic-timer", known(1000, 0, 0)),
    (MachineKind::Bochs, "xapic-icr", known(1000, 0, 0)),
];

/// 0 stands for a figure that nobody has measured.
const fn known(target: u64, jailhouse: u64, kvm: u64) -> Reference {
    const fn some(figure: u64) -> Option<u64> {
        if figure == 0 { None } else { Some(figure) }
    }
    Reference {
        target: some(target),
        jailhouse: some(jailhouse),
        kvm: some(kvm),
    }
}

impl Reference {
    /// The figures for `exit` on `machine`.
    #[must_use]
    pub fn of(machine: MachineKind, exit: &str) -> Self {
        KNOWN
            .iter()
            .find(|(on, name, _)| *on == machine && *name == exit)
            .map_or_else(Self::default, |(_, _, reference)| *reference)
    }
}
