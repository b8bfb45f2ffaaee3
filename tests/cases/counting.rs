//! Exits are counted, by the hypervisor and as the program sees it, and both
//! agree: the positive control of every zero.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::{Ended, Part, part, partitions};

/// `exits` on `core` with these arguments; it compares its counters itself.
pub(crate) fn exits(name: &str, core: u32, args: &str) -> Part {
    part(name, "exits.elf")
        .cores(&format!("[{core}]"))
        .args(args)
        .may("quiesce strict debug populate")
}

/// The first touch of the 2 MiB page that holds the program.
const OWN_PAGES: u64 = 1;
/// The call of `finish`.
const FINISH: u64 = 1;

/// The program's own check passed, and the report has exactly these exits
/// besides those of the program's start and end.
fn both_sides(ended: &Ended, name: &str, provoked: &[(&str, u64)]) -> Result<()> {
    let mut expected = vec![("nested-page-fault", OWN_PAGES), ("hypercall", FINISH)];
    for &(reason, count) in provoked {
        match expected.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, total)) => *total += count,
            None => expected.push((reason, count)),
        }
    }
    ended
        .partition(name)?
        .finished(0)?
        .says("exits: ok")?
        .exits_exactly(&expected)?;
    Ok(())
}

/// Each reason that a program can provoke, each with a number of its own.
pub(crate) fn every_reason(bench: &Bench) -> Result<()> {
    // Another MSR that is denied on both vendors: IA32_FEATURE_CONTROL, which
    // AMD does not have.
    let instructions = "cpuid=3 rdmsr=2 msr=0x3a wrmsr=4 in=5 out=6 virt=8";
    let calls = "hypercall=3 badcall=4 touch=5 wbinvd=6 dr=7 monitor=8 step=9";
    let none = "tlb=50 int3=5 div0=5 wait=100000";
    let ended = bench
        .system(partitions([
            exits("instructions", 0, instructions),
            exits("calls", 1, calls),
            exits("none", 2, none),
        ]))
        .run_to_end()?
        .completed()?;
    both_sides(
        &ended,
        "instructions",
        &[
            ("cpuid", 3),
            ("rdmsr", 2),
            ("wrmsr", 4),
            ("port-in", 5),
            ("port-out", 6),
            ("virtualization", 8),
        ],
    )?;
    both_sides(
        &ended,
        "calls",
        &[
            ("hypercall", 7),
            ("nested-page-fault", 5),
            ("cache-control", 6),
            ("control-register", 7),
            ("halt", 8),
            ("exception", 9),
        ],
    )?;
    both_sides(&ended, "none", &[])
}

/// See `strict::xsetbv`.
pub(crate) fn xsetbv(bench: &Bench) -> Result<()> {
    let ended = bench
        .system(partitions([exits("exits", 0, "xsetbv=7")]))
        .run_to_end()?
        .completed()?;
    both_sides(&ended, "exits", &[("xsetbv", 7)])
}

/// The twin of every `since_quiesce(0)`: one exit more, and it says 1.
pub(crate) fn one_more(bench: &Bench) -> Result<()> {
    let ended = bench
        .system(partitions([
            exits(
                "zero",
                0,
                "enter=quiesce+populate touch=1 wait=100000 leave",
            ),
            exits("one", 1, "enter=quiesce+populate cpuid=1 leave"),
            exits("two", 2, "cpuid=5 enter=quiesce touch=1 in=1 leave cpuid=9"),
        ]))
        .run_to_end()?
        .completed()?;
    for (name, count) in [("zero", 0), ("one", 1), ("two", 2)] {
        ended
            .partition(name)?
            .finished(0)?
            .says("exits: ok")?
            .since_quiesce(count)?
            .interrupts(0)?;
    }
    Ok(())
}

/// N first touches are N exits without POPULATE and none with it, in small
/// and large memory.
pub(crate) fn lazy_against_populate(bench: &Bench) -> Result<()> {
    let lazy = "enter=quiesce touch=20 leave";
    let eager = "enter=quiesce+populate touch=20 leave";
    let ended = bench
        .system(partitions([
            exits("lazy", 0, lazy).memory("64M"),
            exits("eager", 1, eager).memory("64M"),
        ]))
        .run_to_end()?
        .completed()?;
    ended
        .partition("lazy")?
        .finished(0)?
        .since_quiesce(20)?
        .exits_of("nested-page-fault", 20 + OWN_PAGES)?;
    ended
        .partition("eager")?
        .finished(0)?
        .since_quiesce(0)?
        .exits_of("nested-page-fault", OWN_PAGES)?;
    Ok(())
}
