//! A short run of every fuzz target. cargo-fuzz finds what this does not (see
//! `fuzz/README.md`).

use std::path::{Path, PathBuf};

mod mutate;
#[path = "../fuzz/src/targets.rs"]
pub mod targets;

/// Mutated inputs for each target.
const RUNS: u32 = 3000;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

#[test]
fn every_target_over_its_corpus() {
    for (name, target) in targets::TARGETS {
        mutate::run(&corpus(), name, *target, RUNS);
    }
}

/// Seeds that a parser turns away at once would start nothing.
#[test]
fn parsers_accept_their_seeds() {
    use cloister_core::acpi::{Fadt, ecam, madt_cores, sleep_type_s5};
    use cloister_core::bzimage::Kernel;
    use cloister_core::elf::Program;
    use cloister_core::iommu::{dmar, ivrs};
    let corpus = corpus();
    let all = |name: &str, accepts: &dyn Fn(&[u8]) -> bool| {
        assert!(
            mutate::seeds(&corpus.join(name))
                .iter()
                .all(|seed| accepts(seed)),
            "{name}"
        );
    };
    all("elf", &|seed| Program::parse(seed, 64 << 20).is_ok());
    all("bzimage", &|seed| Kernel::parse(seed).is_ok());
    all("fadt", &|seed| Fadt::parse(seed).is_ok());
    all("aml", &|seed| sleep_type_s5(seed).is_some());
    all("mcfg", &|seed| {
        ecam(seed).is_ok_and(|address| address.is_some())
    });
    all("dmar", &|seed| {
        dmar(seed).is_ok_and(|dmar| dmar.units.len() == 1)
    });
    all("ivrs", &|seed| {
        ivrs(seed).is_ok_and(|ivrs| ivrs.units.len() == 1)
    });
    all("madt", &|seed| {
        madt_cores(seed).is_ok_and(|mut cores| cores.all(|core| core.is_ok()))
    });
}
