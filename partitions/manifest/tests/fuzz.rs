//! A short run of every fuzz target. cargo-fuzz finds what this does not: see
//! hypervisor/core/fuzz/README.md.

use std::path::{Path, PathBuf};

#[path = "../../../hypervisor/core/tests/mutate/mod.rs"]
mod mutate;
#[path = "../fuzz/src/targets.rs"]
pub mod targets;

/// Mutated inputs for each target.
const RUNS: u32 = 1000;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

#[test]
fn every_target_over_its_corpus() {
    for (name, target) in targets::TARGETS {
        mutate::run(&corpus(), name, *target, RUNS);
    }
}

/// The seeds are what a body is, and with the checksum that is put before
/// them they are read.
#[test]
fn seeds_are_read() {
    for seed in mutate::seeds(&corpus().join("blob")) {
        cloister_manifest::decode(&seed).expect("a seed");
        let body = mutate::seeds(&corpus().join("body"));
        assert!(body.iter().any(|body| seed.ends_with(body)));
    }
}
