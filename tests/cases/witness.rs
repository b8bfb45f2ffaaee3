//! The outside witness: the emulator itself writes down each VM exit, and the
//! hypervisor's counters must say the same, exit for exit.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use cloister_abi::Reason;
use cloister_tests::cases::Bench;
use cloister_tests::{Accel, Ended, Part, part, partitions};
use xtask::machine::OutsideExit;

use crate::counting::exits;

fn boot(bench: &Bench, parts: impl IntoIterator<Item = Part>) -> Result<Ended> {
    bench
        .system(partitions(parts))
        .accel(Accel::Tcg)
        .witness()
        .run_to_end()?
        .completed()
}

/// The core of partition `name`, and what was seen of it.
fn seen<'a>(ended: &'a Ended, name: &str) -> Result<(u32, &'a [OutsideExit])> {
    let cpus = &ended.partition(name)?.report().cpus;
    let &core = cpus.first().context("a partition without a core")?;
    Ok((core, ended.testimony()?.core(core)))
}

/// Counters and witness agree on every reason of `name`; returns the total.
fn same_counts(ended: &Ended, name: &str) -> Result<u64> {
    let (core, _) = seen(ended, name)?;
    let outside = ended.testimony()?.by_reason(core);
    let partition = ended.partition(name)?.finished(0)?;
    let inside = &partition.report().exits;
    let total = outside.values().sum();
    partition
        .check(
            inside.by_reason == outside,
            format!("inside {:?}, outside {outside:?}", inside.by_reason),
        )?
        .check(
            inside.total == total,
            format!("inside {} exits, outside {total}", inside.total),
        )?;
    Ok(total)
}

/// Known numbers of each reason, each counted three times: by the program, by
/// the hypervisor, by the emulator.
pub(crate) fn agrees(bench: &Bench) -> Result<()> {
    let ended = boot(
        bench,
        [
            exits(
                "instructions",
                0,
                "cpuid=30 rdmsr=20 msr=0x3a wrmsr=4 in=5 out=6 virt=8",
            ),
            exits(
                "calls",
                1,
                "hypercall=3 badcall=4 touch=5 wbinvd=6 dr=7 monitor=8 cpuid=50",
            ),
            exits("none", 2, "tlb=50 int3=5 div0=5 wait=100000"),
        ],
    )?;
    // Besides what is provoked: the program's own pages, and `finish`.
    for (name, provoked) in [
        ("instructions", 30 + 20 + 4 + 5 + 6 + 8),
        ("calls", 3 + 4 + 5 + 6 + 7 + 8 + 50),
        ("none", 0),
    ] {
        let total = same_counts(&ended, name)?;
        ended.partition(name)?.says("exits: ok")?.check(
            total == provoked + 2,
            format!("{total} exits, expected {provoked} and 2"),
        )?;
        bench.note(format!("{name}: {total} exits inside and outside"));
    }
    Ok(())
}

/// The exits between the hypercalls that enter and leave the mode.
fn between<'a>(
    ended: &'a Ended,
    name: &str,
) -> Result<(&'a OutsideExit, Vec<Reason>, &'a OutsideExit)> {
    let (_, exits) = seen(ended, name)?;
    let is_call = |exit: &&OutsideExit| exit.reason == Some(Reason::Hypercall);
    // enter, leave, finish.
    let calls: Vec<&OutsideExit> = exits.iter().filter(is_call).collect();
    let [enter, leave, _finish] = calls[..] else {
        return Err(ended.failure(format!("{name}: 3 hypercalls expected in {exits:x?}")));
    };
    let from = exits.iter().position(|exit| std::ptr::eq(exit, enter));
    let to = exits.iter().position(|exit| std::ptr::eq(exit, leave));
    let range = from.context("enter")? + 1..to.context("leave")?;
    let reasons = exits.get(range).unwrap_or_default().iter();
    let reasons = reasons.map(|exit| exit.reason.unwrap_or(Reason::Other));
    Ok((enter, reasons.collect(), leave))
}

/// Millions of iterations under STRICT, and from outside nothing is seen
/// between the call that enters the mode and the one that leaves it; the twin
/// takes exactly one exit there, and it is seen.
pub(crate) fn sees_none(bench: &Bench) -> Result<()> {
    const QUANTA: u64 = 2_000_000;
    let spin = part("spin", "spin.elf")
        .cores("[0]")
        .args(&format!("quanta={QUANTA}"))
        .may("quiesce strict populate");
    let twin = exits("twin", 1, "enter=quiesce+populate cpuid=1 leave");
    let ended = boot(bench, [spin, twin])?;
    same_counts(&ended, "spin")?;
    same_counts(&ended, "twin")?;
    ended
        .partition("spin")?
        .dataplane(&["quiesce", "strict", "populate"])?
        .says(&format!("iterations={QUANTA}"))?
        .since_quiesce(0)?;
    let (enter, none, leave) = between(&ended, "spin")?;
    ended
        .partition("spin")?
        .check(none.is_empty(), format!("outside saw {none:?}"))?;
    ended.partition("twin")?.since_quiesce(1)?;
    let (_, one, _) = between(&ended, "twin")?;
    ended
        .partition("twin")?
        .check(one == [Reason::Cpuid], format!("outside saw {one:?}"))?;
    if let (Some(enter), Some(leave)) = (enter.tick, leave.tick) {
        let ticks = leave.saturating_sub(enter);
        // Each iteration is several instructions.
        ended.partition("spin")?.check(
            ticks > QUANTA,
            format!("only {ticks} instructions between enter and leave"),
        )?;
        bench.note(format!("no exit in {ticks} instructions"));
    }
    Ok(())
}

/// Under DEBUG each traced exit is one that was seen outside, in the same
/// order, for the same reason and, where the witness tells, at the same RIP;
/// and the last RIP that is counted for each reason is the last seen.
pub(crate) fn exit_for_exit(bench: &Bench) -> Result<()> {
    let steps =
        "enter=debug cpuid=2 in=1 rdmsr=3 out=2 cpuid=1 virt=1 hypercall=2 dr=1 wbinvd=1 leave";
    let ended = boot(bench, [exits("traced", 0, steps)])?;
    same_counts(&ended, "traced")?;
    let (core, outside) = seen(&ended, "traced")?;
    let last: BTreeMap<&str, u64> = outside
        .iter()
        .filter_map(|exit| Some((exit.reason?.name(), exit.rip?)))
        .collect();
    for counted in &ended.report().core(core)?.reasons {
        let (reason, got) = (&counted.reason, counted.last_rip.0);
        let seen = last.get(reason.as_str()).copied();
        ended.partition("traced")?.check(
            seen.is_none_or(|rip| rip == got),
            format!("last {reason} at {got:#x} inside, at {seen:x?} outside"),
        )?;
    }
    // Tracing begins with the exit of the call that turns it on, and ends
    // before the one that turns it off.
    let trace = &ended.report().trace;
    let inside: Vec<(&str, u64)> = trace
        .iter()
        .filter(|record| record.core == core)
        .map(|record| (record.reason.as_str(), record.rip))
        .collect();
    let first = outside
        .iter()
        .position(|exit| exit.reason == Some(Reason::Hypercall))
        .context("the witness saw no call that enters DEBUG")?;
    let expected: Vec<(&str, u64)> = outside
        .iter()
        .skip(first)
        .take(inside.len())
        .zip(&inside)
        .map(|(exit, (_, rip))| {
            let reason = exit.reason.map_or("exception-or-nmi", Reason::name);
            (reason, exit.rip.unwrap_or(*rip))
        })
        .collect();
    let provoked = 2 + 1 + 3 + 2 + 1 + 1 + 2 + 1 + 1;
    ended
        .partition("traced")?
        .check(
            inside.len() > provoked,
            format!("{} traced exits, {provoked} provoked", inside.len()),
        )?
        .check(
            inside == expected,
            format!("inside {inside:x?}, outside {expected:x?}"),
        )?;
    bench.note(format!("{} traced exits, each seen outside", inside.len()));
    Ok(())
}
