//! What an exit costs, counted in instructions.

use anyhow::{Result, ensure};
use cloister_tests::cases::Bench;
use xtask::bench::{Unit, measure};

/// No exit takes more instructions than its target, on any repetition.
pub(crate) fn exits(bench: &Bench) -> Result<()> {
    let measured = measure(bench.machine(), true)?;
    ensure!(
        measured.unit == Unit::Instructions,
        "the clock does not count instructions"
    );
    let with_target: Vec<_> = measured
        .exits
        .iter()
        .filter_map(|cost| Some((cost, cost.reference.target?)))
        .collect();
    let expected = bench.choose(7, 5);
    ensure!(
        with_target.len() == expected,
        "{} exits with a target, expected {expected}",
        with_target.len()
    );
    for (cost, target) in with_target {
        ensure!(
            cost.max <= target,
            "{}: {} to {} instructions, expected {target} at most",
            cost.exit,
            cost.min,
            cost.max
        );
    }
    let figures: Vec<String> = measured
        .exits
        .iter()
        .map(|cost| format!("{} {}", cost.exit, cost.median))
        .collect();
    bench.note(figures.join(", "));
    Ok(())
}
