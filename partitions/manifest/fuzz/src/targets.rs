//! What is fuzzed: both forms of the manifest. A target panics when a promise
//! is broken.

use std::path::Path;

use cloister_manifest::{
    CpuSet, FORMAT, MAGIC, Machine, Manifest, PortRange, Severity, decode, encode,
    machine_problems, parse, problems, validate,
};
use crc::{CRC_32_ISO_HDLC, Crc};

/// A target.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: &[(&str, Target)] = &[("blob", blob), ("body", body), ("text", text)];

/// A module as the boot loader hands it over.
pub fn blob(data: &[u8]) {
    if let Ok(manifest) = decode(data) {
        read(&manifest);
    }
}

/// The same behind a header that is right, so that the body itself is read.
pub fn body(data: &[u8]) {
    let Ok(length) = u32::try_from(data.len()) else {
        return;
    };
    let mut module = Vec::from(MAGIC);
    module.extend(FORMAT.to_le_bytes());
    module.extend(length.to_le_bytes());
    let crc = Crc::<u32>::new(&CRC_32_ISO_HDLC);
    let mut digest = crc.digest();
    digest.update(&module);
    digest.update(data);
    module.extend(digest.finalize().to_le_bytes());
    module.extend(data);
    blob(&module);
}

/// What has been read is validated whatever it says, and written as it was.
fn read(manifest: &Manifest) {
    assert_eq!(decode(&encode(manifest)).as_ref(), Ok(manifest));
    let mut errors = 0;
    problems(manifest, &mut |problem| {
        assert!(!problem.to_string().is_empty());
        errors += usize::from(problem.severity == Severity::Error);
    });
    assert_eq!(validate(manifest).is_ok(), errors == 0);
    if errors == 0 {
        accepted(manifest);
    }
    // The machine is asked of accepted manifests alone, but must stand any.
    let ports = [PortRange {
        base: 0x600,
        count: 0x80,
    }];
    let siblings: [CpuSet; 1] = [[0, 1].into_iter().collect()];
    let machine = Machine {
        cores: 4,
        usable_memory: 1 << 30,
        has_iommu: false,
        smt_siblings: &siblings,
        modules: &["manifest", "vmlinuz", "spin.elf"],
        reserved_ports: &ports,
    };
    machine_problems(manifest, &machine, &mut |problem| {
        assert!(!problem.to_string().is_empty());
    });
}

/// What every manifest that passes has: cores of its own for each.
fn accepted(manifest: &Manifest) {
    let mut taken = manifest
        .linux
        .as_ref()
        .map_or_else(CpuSet::default, |linux| linux.cpus);
    for partition in &manifest.partitions {
        assert!(!partition.cpus.is_empty());
        assert!(partition.cpus.iter().all(|cpu| !taken.contains(cpu)));
        for cpu in partition.cpus.iter() {
            taken.insert(cpu);
        }
    }
}

/// A system file. What is accepted survives being compiled.
pub fn text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match parse(Path::new("fuzz.toml"), text) {
        Ok(loaded) => {
            assert_eq!(validate(&loaded.manifest), Ok(()));
            assert_eq!(decode(&encode(&loaded.manifest)), Ok(loaded.manifest));
        }
        Err(error) => assert!(error.to_string().contains("fuzz.toml")),
    }
}
