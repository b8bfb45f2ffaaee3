//! Properties of all manifests: what validates has no two owners of anything;
//! the compiled form loses nothing; no bytes make the reader panic.

use std::collections::HashSet;
use std::hash::Hash;
use std::path::Path;

use cloister_abi::Dataplane;
use cloister_manifest::{
    Channel, Console, CpuSet, Device, DeviceName, Dma, Hypervisor, Linux, Machine, Manifest, Name,
    OnViolation, Partition, PciAddress, PortRange, decode, encode, machine_problems, parse,
    problems, validate,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

/// Names out of few, so that they clash now and then.
fn name() -> impl Strategy<Value = Name> {
    prop_oneof![20 => "[a-z]{2}", 1 => "linux", 1 => "hypervisor", 1 => "\\PC{0,3}"]
        .prop_map(|name| name.as_str().try_into().unwrap())
}

fn module() -> impl Strategy<Value = Name> {
    "[a-z]{3}\\.elf".prop_map(|name| name.as_str().try_into().unwrap())
}

/// One to three of the cores.
fn cpus() -> impl Strategy<Value = CpuSet> {
    vec(0..64_usize, 1..3).prop_map(|cores| cores.into_iter().collect())
}

fn ports() -> impl Strategy<Value = PortRange> {
    let base = prop_oneof![20 => 0x1000..0x2000_u16, 1 => 0x2e0..0x400_u16, 1 => any::<u16>()];
    (base, prop_oneof![30 => 1..64_u16, 1 => any::<u16>()])
        .prop_map(|(base, count)| PortRange { base, count })
}

fn device() -> impl Strategy<Value = Device> {
    (
        0..2_u16,
        0..2_u8,
        prop_oneof![30 => 1..32_u8, 1 => 0..34_u8],
        0..2_u8,
        any::<bool>(),
    )
        .prop_map(|(segment, bus, device, function, protected)| Device {
            name: match device % 8 {
                7 => DeviceName::Id {
                    vendor: segment,
                    device: bus.into(),
                    index: device,
                },
                _ => DeviceName::Address(PciAddress {
                    segment,
                    bus,
                    device,
                    function,
                }),
            },
            dma: if protected {
                Dma::Protected
            } else {
                Dma::Unprotected
            },
        })
}

fn memory() -> impl Strategy<Value = u64> {
    prop_oneof![20 => (2..64_u64).prop_map(|n| n * 2 * MIB), 1 => any::<u64>()]
}

fn console() -> impl Strategy<Value = Console> {
    prop::sample::select(Console::NAMES.map(|(_, console)| console).to_vec())
}

fn on_violation() -> impl Strategy<Value = OnViolation> {
    prop_oneof![
        Just(OnViolation::Stop),
        (prop_oneof![9 => 1..4_u32, 1 => Just(0)], any::<u32>())
            .prop_map(|(max, window)| OnViolation::Restart { max, window }),
        Just(OnViolation::Report),
    ]
}

prop_compose! {
    fn linux()(
        cpus in cpus(),
        kernel in module(),
        initrd in option::of(module()),
        cmdline in "(quiet |console=ttyS[0-4] ?|\\PC{0,8}){0,2}",
        debug in any::<bool>(),
    ) -> Linux {
        let debug = if debug { cpus } else { CpuSet::EMPTY };
        Linux { cpus, kernel, initrd, cmdline: cmdline.as_str().try_into().unwrap(), debug }
    }
}

prop_compose! {
    fn partition()(
        (name, cpus, memory, program) in (name(), cpus(), memory(), module()),
        args in "[a-z=0-9 ]{0,20}",
        dataplane in (0..16_u64).prop_map(Dataplane::from_bits_truncate),
        (autostart, apic, on_violation) in (any::<bool>(), any::<bool>(), on_violation()),
        ports in vec(ports(), 0..3),
        devices in vec(device(), 0..3),
    ) -> Partition {
        Partition {
            name, cpus, memory, program, dataplane, autostart, on_violation, apic,
            args: args.as_str().try_into().unwrap(),
            ports: ports.into_iter().collect(),
            devices: devices.into_iter().collect(),
        }
    }
}

prop_compose! {
    fn channel()(name in name(), ends in (name(), name()), order in 12..16_u32) -> Channel {
        Channel { name, between: [ends.0, ends.1], size: 1 << order }
    }
}

prop_compose! {
    fn manifest()(
        hypervisor_memory in memory(),
        console in console(),
        linux in option::of(linux()),
        partitions in vec(partition(), 0..5),
        channels in vec(channel(), 0..3),
        mend in any::<bool>(),
    ) -> Manifest {
        let mut manifest = Manifest {
            hypervisor: Hypervisor { memory: hypervisor_memory, console },
            linux,
            partitions: partitions.into_iter().collect(),
            channels: channels.into_iter().collect(),
        };
        if mend {
            // Ends that exist: random names hardly ever meet.
            let ends: Vec<_> = manifest.partitions.iter().map(|p| p.name.clone()).collect();
            match ends.as_slice() {
                [first, second, ..] => for channel in &mut manifest.channels {
                    channel.between = [first.clone(), second.clone()];
                },
                _ => manifest.channels.clear(),
            }
        }
        manifest
    }
}

/// Adds all of `things`; false when one was there already.
fn all_new<T: Hash + Eq>(seen: &mut HashSet<T>, things: impl IntoIterator<Item = T>) -> bool {
    things.into_iter().all(|thing| seen.insert(thing))
}

/// By brute force, thing by thing: has nothing two owners?
fn one_owner_each(manifest: &Manifest) -> Result<(), &'static str> {
    let mut cores = HashSet::new();
    let mut ports = HashSet::new();
    let mut devices = HashSet::new();
    let mut names = HashSet::from(["linux"]);
    let consoles = manifest.hypervisor.console.ports();
    all_new(&mut ports, consoles.iter().flat_map(|range| range.iter()));
    if let Some(linux) = &manifest.linux {
        all_new(&mut cores, linux.cpus.iter());
    }
    for partition in &manifest.partitions {
        if !all_new(&mut cores, partition.cpus.iter()) {
            return Err("core");
        }
        for range in &partition.ports {
            if usize::from(range.count) != range.iter().count() {
                return Err("range");
            }
            if !all_new(&mut ports, range.iter()) {
                return Err("port");
            }
        }
        if !all_new(
            &mut devices,
            partition
                .devices
                .iter()
                .map(|device| device.name.to_string()),
        ) {
            return Err("device");
        }
        if !all_new(&mut names, [partition.name.as_str()]) {
            return Err("name");
        }
    }
    for port in [
        0x20, 0x43, 0x60, 0x64, 0x70, 0x92, 0xa1, 0xcf8, 0xcf9, 0xcff, 0x510,
    ] {
        if ports.contains(&port) {
            return Err("machine's port");
        }
    }
    if !all_new(
        &mut names,
        manifest
            .channels
            .iter()
            .map(|channel| channel.name.as_str()),
    ) {
        return Err("channel's name");
    }
    Ok(())
}

const SIBLINGS: [CpuSet; 2] = [CpuSet::from_bits(0b11), CpuSet::from_bits(u64::MAX)];

fn machine() -> Machine<'static> {
    Machine {
        cores: 4,
        usable_memory: 1 << 30,
        has_iommu: false,
        smt_siblings: &SIBLINGS,
        modules: &["aaa.elf"],
        reserved_ports: &[PortRange {
            base: 0x600,
            count: 0x80,
        }],
    }
}

/// A right manifest's body after a CRC that fits, as a malicious module has.
fn seal(body: &[u8]) -> Vec<u8> {
    let mut blob = encode(&Manifest::new());
    blob.truncate(16);
    blob[12..].copy_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
    let checksum = crc.checksum(&[&blob, body].concat());
    [&blob, checksum.to_le_bytes().as_slice(), body].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 1_000_000, ..ProptestConfig::with_cases(256) })]

    /// The main promise. Manifests that do not validate are drawn again.
    #[test]
    fn what_validates_has_one_owner_for_each_thing(manifest in manifest()) {
        prop_assume!(validate(&manifest).is_ok());
        prop_assume!(manifest.partitions.len() > 1);
        prop_assert_eq!(one_owner_each(&manifest), Ok(()));
    }

    /// The same with a clash put in: it must be refused.
    #[test]
    fn a_shared_thing_is_refused(manifest in manifest(), what in 0..5) {
        prop_assume!(validate(&manifest).is_ok());
        let mut manifest = manifest;
        let [first, second, ..] = manifest.partitions.as_mut_slice() else {
            return Err(TestCaseError::reject("two partitions are needed"));
        };
        match what {
            0 => second.cpus = second.cpus.union(CpuSet::from_bits(1 << first.cpus.last().unwrap())),
            1 => second.name = first.name.clone(),
            2 => {
                prop_assume!(!first.ports.is_empty());
                let base = first.ports[0].last();
                second.ports.push(PortRange { base, count: 1 }).unwrap();
            }
            3 => {
                prop_assume!(!first.devices.is_empty());
                second.devices.push(first.devices[0]).unwrap();
            }
            _ => {
                let linux = manifest.linux.get_or_insert_with(Linux::default);
                linux.cpus = linux.cpus.union(CpuSet::from_bits(1 << second.cpus.first().unwrap()));
            }
        }
        prop_assert!(one_owner_each(&manifest).is_err());
        prop_assert!(validate(&manifest).is_err());
    }

    #[test]
    fn the_compiled_form_loses_nothing(manifest in manifest()) {
        prop_assert_eq!(decode(&encode(&manifest)), Ok(manifest));
    }

    #[test]
    fn a_changed_byte_is_refused(manifest in manifest(), at: prop::sample::Index, bits in 1..=u8::MAX) {
        let mut blob = encode(&manifest);
        let at = at.index(blob.len());
        blob[at] ^= bits;
        prop_assert!(decode(&blob).is_err());
    }

    #[test]
    fn a_cut_or_padded_blob_is_refused(manifest in manifest(), at: prop::sample::Index, more in 1..9_usize) {
        let mut blob = encode(&manifest);
        prop_assert!(decode(&blob[..at.index(blob.len())]).is_err());
        blob.resize(blob.len() + more, 0);
        prop_assert!(decode(&blob).is_err());
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes).is_err());
        if let Ok(manifest) = decode(&seal(&bytes)) {
            check(&manifest);
        }
    }

    /// Bytes that are nearly right, under a checksum that fits: what is read
    /// may be nonsense, and every check must bear it.
    #[test]
    fn no_sealed_body_makes_reader_or_checks_panic(
        manifest in manifest(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut body = encode(&manifest).split_off(20);
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if let Ok(manifest) = decode(&seal(&body)) {
            check(&manifest);
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(
        lines in vec(
            prop_oneof![
                "\\[{0,2}(hypervisor|linux|partition|channel|\\PC{0,2})\\]{0,2}",
                "(cpus|memory|name|ports|devices|between|dataplane) = (\\[.{0,9}\\]|[0-9a-fx]{1,4}|'[0-9KM:.]{0,9}')",
                "\\PC{0,20}",
            ],
            0..8,
        ),
    ) {
        let text = lines.join("\n");
        if let Err(errors) = parse(Path::new("x.toml"), &text) {
            prop_assert!(!errors.0.is_empty());
            for error in &errors.0 {
                prop_assert!(error.to_string().starts_with("x.toml:"));
                prop_assert!(error.line.is_some_and(|line| line <= text.lines().count().max(1) + 1));
            }
        }
    }
}

/// Runs every check on a manifest that may be anything.
fn check(manifest: &Manifest) {
    let shown = |problem: cloister_manifest::Problem| assert!(!problem.to_string().is_empty());
    problems(manifest, &mut |problem| shown(problem));
    machine_problems(manifest, &machine(), &mut |problem| shown(problem));
    assert!(manifest.modules().count() <= 34);
}
