//! Manifests against machines.

use cloister_abi::Dataplane;

use super::machine::{Machine, machine_problems, validate_machine};
use super::validate;
use crate::{CpuSet, Device, DeviceName, Dma, Linux, Manifest, Partition, PortRange};

const MIB: u64 = 1 << 20;

/// Linux on cores 0 and 1, a partition on 2 and 3, one on 4: 112 MiB without
/// Linux.
fn manifest() -> Manifest {
    let mut manifest = Manifest::new();
    manifest.linux = Some(Linux {
        cpus: CpuSet::from_bits(0b0_0011),
        kernel: "vmlinuz".try_into().unwrap(),
        initrd: Some("initrd.img".try_into().unwrap()),
        ..Linux::default()
    });
    let ports = [PortRange {
        base: 0x600,
        count: 4,
    }]
    .into_iter()
    .collect();
    let address = "0000:00:03.0".parse().unwrap();
    let devices = [Device {
        name: DeviceName::Address(address),
        dma: Dma::Protected,
    }]
    .into_iter()
    .collect();
    for (name, cpus, memory) in [("spin", 0b0_1100, 64 * MIB), ("other", 0b1_0000, 16 * MIB)] {
        let partition = Partition {
            name: name.try_into().unwrap(),
            cpus: CpuSet::from_bits(cpus),
            memory,
            program: "spin.elf".try_into().unwrap(),
            dataplane: Dataplane::QUIESCE,
            ..Partition::default()
        };
        manifest.partitions.push(partition).unwrap();
    }
    manifest.partitions[0].ports = ports;
    manifest.partitions[1].devices = devices;
    assert_eq!(validate(&manifest), Ok(()));
    manifest
}

fn machine() -> Machine<'static> {
    Machine {
        cores: 5,
        usable_memory: 240 * MIB,
        has_iommu: true,
        smt_siblings: &[],
        modules: &["manifest", "vmlinuz", "initrd.img", "spin.elf"],
        reserved_ports: &[PortRange {
            base: 0x604,
            count: 2,
        }],
    }
}

fn told(machine: &Machine<'_>) -> Vec<String> {
    let manifest = manifest();
    let mut told = Vec::new();
    machine_problems(&manifest, machine, &mut |problem| {
        told.push(problem.to_string());
    });
    let first = validate_machine(&manifest, machine)
        .err()
        .map(|problem| problem.to_string());
    assert_eq!(first.as_ref(), told.first());
    told
}

#[track_caller]
fn refused(machine: &Machine<'_>, expected: &[(&str, &str)]) {
    let told = told(machine);
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, (start, end)) in told.iter().zip(expected) {
        assert!(told.starts_with(start) && told.ends_with(end), "{told}");
    }
}

#[test]
fn a_machine_with_just_enough_is_accepted() {
    assert_eq!(told(&machine()), [""; 0]);
}

#[test]
fn cores_must_exist() {
    refused(
        &Machine {
            cores: 3,
            ..machine()
        },
        &[
            (
                "partition[0].cpus: core [3] does not exist, this machine has 3 cores",
                "use cores 0 to 2, or a machine with more",
            ),
            (
                "partition[1].cpus: core [4] does not exist",
                "a machine with more",
            ),
        ],
    );
    assert_eq!(
        told(&Machine {
            cores: 0,
            ..machine()
        })
        .len(),
        3
    );
    assert_eq!(
        told(&Machine {
            cores: usize::MAX,
            ..machine()
        }),
        [""; 0]
    );
}

#[test]
fn siblings_have_one_owner() {
    let siblings = |pairs: &[u64]| -> Vec<CpuSet> {
        pairs.iter().map(|&bits| CpuSet::from_bits(bits)).collect()
    };
    // Pairs of one owner, a pair with an unused core, and a single core.
    let fine = siblings(&[0b00_0011, 0b00_1100, 0b11_0000, 0b100_0000]);
    assert_eq!(
        told(&Machine {
            smt_siblings: &fine,
            ..machine()
        }),
        [""; 0]
    );
    let split = siblings(&[0b0_0001, 0b0_0110, 0b1_1000]);
    refused(
        &Machine {
            smt_siblings: &split,
            ..machine()
        },
        &[
            (
                "partition[0].cpus: core 2 is an SMT sibling of core 1, which belongs to linux",
                "give [1, 2] to one owner, leave the sibling unused, or turn SMT off in the firmware",
            ),
            (
                "partition[1].cpus: core 4 is an SMT sibling of core 3, which belongs to \
                 partition \"spin\"",
                "turn SMT off in the firmware",
            ),
        ],
    );
}

#[test]
fn memory_must_suffice() {
    refused(
        &Machine {
            usable_memory: 111 * MIB,
            ..machine()
        },
        &[(
            "partition[1].memory: does not fit: with this there are 112 MiB in use, this machine \
             has 111 MiB",
            "or use a machine with more memory",
        )],
    );
    refused(
        &Machine {
            usable_memory: 240 * MIB - 1,
            ..machine()
        },
        &[(
            "linux: 127 MiB are left for Linux, which needs 128M",
            "with more memory",
        )],
    );
    refused(
        &Machine {
            usable_memory: 0,
            ..machine()
        },
        &[("hypervisor.memory: does not", "")],
    );
}

#[test]
fn modules_must_be_there_once() {
    refused(
        &Machine {
            modules: &["vmlinuz", "initrd.img"],
            ..machine()
        },
        &[
            (
                "partition[0].program: no module is called \"spin.elf\"",
                "add \"module2 /boot/spin.elf spin.elf\" to the GRUB menu entry",
            ),
            ("partition[1].program: no module", "GRUB menu entry"),
        ],
    );
    refused(
        &Machine {
            modules: &["spin.elf"],
            ..machine()
        },
        &[
            ("linux.kernel: no module", ""),
            ("linux.initrd: no module", ""),
        ],
    );
    refused(
        &Machine {
            modules: &["vmlinuz", "initrd.img", "spin.elf", "vmlinuz"],
            ..machine()
        },
        &[(
            "linux.kernel: 2 modules are called \"vmlinuz\"",
            "load it once",
        )],
    );
}

#[test]
fn devices_need_an_iommu_or_consent() {
    let without = Machine {
        has_iommu: false,
        ..machine()
    };
    refused(
        &without,
        &[(
            "partition[1].devices[0]: this machine has no usable IOMMU, so 0000:00:03.0 could",
            "accept it: { address = \"0000:00:03.0\", dma = \"unprotected\" }",
        )],
    );
    let mut manifest = manifest();
    manifest.partitions[1].devices[0].dma = Dma::Unprotected;
    assert_eq!(validate_machine(&manifest, &without), Ok(()));
}

#[test]
fn ports_of_the_firmware_are_nobodys() {
    let reserved = [PortRange {
        base: 0x603,
        count: 1,
    }];
    refused(
        &Machine {
            reserved_ports: &reserved,
            ..machine()
        },
        &[(
            "partition[0].ports[0]: ports 0x603 are this machine's power",
            "leave them out",
        )],
    );
}
