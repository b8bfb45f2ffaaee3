//! The strict partition beside Linux that never ends, and what must hold of it
//! whatever Linux does.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::{Ended, LinuxPart, Part, PartitionState, System, part, with_linux};

/// Its core.
pub(crate) const CORE: u32 = 2;

/// Reads the TSC seldom: see [`System::yielding`].
pub(crate) fn strict() -> Part {
    part("strict", "spin.elf")
        .cores(&format!("[{CORE}]"))
        .memory("64M")
        .args("work=10000 report=100")
        .may("quiesce strict populate")
}

/// Linux, the strict partition, and `parts`.
pub(crate) fn beside(
    bench: &Bench,
    linux: &LinuxPart,
    parts: impl IntoIterator<Item = Part>,
) -> System {
    let parts = [strict()].into_iter().chain(parts);
    bench.system(with_linux(linux, parts)).yielding(CORE)
}

/// It is still running, with nothing to be seen of what Linux did; returns its
/// iterations.
pub(crate) fn undisturbed(ended: &Ended) -> Result<u64> {
    ended
        .partition("strict")?
        .state(PartitionState::Running)?
        .since_quiesce(0)?
        .interrupts(0)?
        .violations(0)?
        .dataplane(&["quiesce", "strict", "populate"])?
        .value("quanta")
}
