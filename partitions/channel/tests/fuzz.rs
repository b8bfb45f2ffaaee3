//! A short run of the fuzz target. cargo-fuzz finds what this does not: see
//! hypervisor/core/fuzz/README.md.

use std::path::{Path, PathBuf};

#[path = "../../../hypervisor/core/tests/mutate/mod.rs"]
mod mutate;
#[path = "../fuzz/src/targets.rs"]
pub mod targets;

/// Mutated inputs.
const RUNS: u32 = 5000;

#[test]
fn every_target_over_its_corpus() {
    let corpus: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in targets::TARGETS {
        mutate::run(&corpus, name, *target, RUNS);
    }
}
