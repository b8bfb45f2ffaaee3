//! Partitions of more than one core act as one.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::{Part, PartitionState, part, partitions};

use crate::strict::neighbour;

fn pair(name: &str, cores: &str, args: &str) -> Part {
    part(name, "probe.elf")
        .cores(cores)
        .args(args)
        .may("quiesce strict populate")
}

/// Both cores finish, and the higher code counts; both were quiet.
pub(crate) fn finish_as_one(bench: &Bench) -> Result<()> {
    let codes =
        "enter=strict+populate wait=100000 leave core=0 finish=3 core=1 wait=3000000 finish=9";
    let exits = part("exits", "exits.elf")
        .cores("[2, 3]")
        .args("cpuid=3 enter=quiesce+populate in=2 leave")
        .may("quiesce populate");
    let ended = bench
        .system(partitions([pair("codes", "[0, 1]", codes), exits]))
        .run_to_end()?
        .completed()?;
    ended
        .partition("codes")?
        .finished(9)?
        .since_quiesce(0)?
        .interrupts(0)?;
    ended
        .partition("exits")?
        .finished(0)?
        .says("core 0: exits: ok")?
        .says("core 1: exits: ok")?
        .exits_of("cpuid", 6)?
        .exits_of("port-in", 4)?
        .since_quiesce(4)?;
    for core in [2, 3] {
        let exits = &ended.report().core(core)?.exits;
        let got = (exits.of("cpuid"), exits.since_quiesce);
        if got != (3, 2) {
            return Err(ended.failure(format!("core {core}: {got:?}, expected (3, 2)")));
        }
    }
    Ok(())
}

/// One core breaks STRICT: the other, which would run for ever, is stopped as
/// well.
pub(crate) fn end_as_one(bench: &Bench) -> Result<()> {
    let breaks = "core=0 enter=strict+populate loop core=1 wait=1000000 enter=strict cpuid";
    let ended = bench
        .system(partitions([pair("breaks", "[0, 1]", breaks), neighbour(2)]))
        .run_to_end()?
        .completed()?;
    ended
        .partition("breaks")?
        .state(PartitionState::Violated)?
        .violations(1)?
        .violation("cpuid")?;
    ended
        .partition("neighbour")?
        .finished(0)?
        .since_quiesce(0)?;
    Ok(())
}

/// Both cores start again from a clean image, together.
pub(crate) fn restart_as_one(bench: &Bench) -> Result<()> {
    let again =
        "core=0 dirty meet enter=strict+populate loop core=1 meet wait=2000000 enter=strict cpuid";
    let ended = bench
        .system(partitions([
            pair("again", "[1, 2]", again)
                .key("on_violation = \"restart\"")
                .key("max_restarts = 3"),
            neighbour(0),
        ]))
        .run_to_end()?
        .completed()?;
    let again = ended
        .partition("again")?
        .state(PartitionState::Violated)?
        .restarts(3)?
        .violations(4)?;
    let clean = again.lines_with("probe: clean at restart");
    let mismatches = again.lines_with("MISMATCH");
    again
        .check(
            clean == 4 && mismatches == 0,
            format!("{clean} clean starts, expected 4"),
        )?
        .says("probe: clean at restart 3")?;
    ended
        .partition("neighbour")?
        .finished(0)?
        .since_quiesce(0)?;
    Ok(())
}
