//! A partition's life in Linux's hands, over and over: no other partition
//! notices, nothing leaks, and whatever stops half-way leaves nothing so.

use std::fs;

use anyhow::{Context, Result};
use cloister_tests::cases::Bench;
use cloister_tests::{Ended, System, linux, part};
use serde_json::Value;
use xtask::build;

use crate::control::{STRICT, equal, exits, json, list, marked, undisturbed};
use crate::neighbour::beside;

/// A system with the victim's program in Linux, to be loaded anew.
pub(crate) fn with_program(system: System, program: &str) -> Result<System> {
    build::hypervisor_with(&[program])?;
    let programs = build::programs()?;
    let elf = programs.get(program).context("no such program")?;
    let file = format!("{program}.elf");
    Ok(system.linux_file(&file, 0o644, &fs::read(elf)?))
}

/// A number in what the tool said.
pub(crate) fn number(value: &Value, what: &str) -> Result<u64> {
    value.as_u64().with_context(|| format!("no {what}"))
}

pub(crate) fn holds(ended: &Ended, holds: bool, message: &str) -> Result<()> {
    ended.clone().check(holds, message).map(|_| ())
}

/// The summary of one kind of call.
fn summary<'a>(cycled: &'a Value, operation: &str) -> Result<&'a Value> {
    let all = cycled["operations"].as_array().into_iter().flatten();
    all.into_iter()
        .find(|summary| summary["operation"] == operation)
        .with_context(|| format!("no {operation} in {cycled}"))
}

/// Exits of Linux's cores by touching what they may not: calls.
fn calls(list: &Value) -> u64 {
    let linux = 0..STRICT;
    linux
        .map(|core| exits(list, core, Some("nested-page-fault")))
        .sum()
}

/// The same system with a victim that only waits: what is measured is the life
/// cycle, and not how long QUIESCE takes.
fn idle(bench: &Bench) -> System {
    let victim = part("victim", "exits.elf")
        .cores("[3]")
        .memory("4M")
        .args("hlt");
    beside(bench, &linux("[0, 1]"), [victim])
}

/// Stop, load, start, restart a thousand times, with Linux at work: each call
/// is one exit of the core that makes it, no other partition has any, and not
/// a byte of the hypervisor's memory is gone afterwards.
pub(crate) fn life_cycle(bench: &Bench) -> Result<()> {
    const ROUNDS: u64 = 1000;
    // The first loads take the memory for two images, for good.
    let command = format!(
        "(while :; do dd if=/dev/zero of=/tmp/load bs=64k count=20 2>/dev/null; done) & \
         cloister cycle victim -n 2 --load /exits.elf >/dev/null || exit 20; {}; {}; {}; \
         kill $(jobs -p)",
        list("before"),
        marked(
            "cycle",
            &format!("cycle victim -n {ROUNDS} --load /exits.elf --json")
        ),
        list("after"),
    );
    let ended = with_program(idle(bench), "exits")?
        .run(&command)?
        .completed()?;
    let (before, after) = (json(&ended, "before")?, json(&ended, "after")?);
    let cycled = json(&ended, "cycle")?;
    for operation in ["stop", "load", "start", "restart"] {
        let count = summary(&cycled, operation)?["count"].clone();
        equal(&ended, operation, count, ROUNDS)?;
    }
    let of_victim = |list: &Value, key: &str| number(&list["partitions"][1][key], key);
    let starts = of_victim(&after, "starts")? - of_victim(&before, "starts")?;
    equal(&ended, "starts", starts, 2 * ROUNDS)?;
    equal(
        &ended,
        "restarts after violations",
        of_victim(&after, "restarts")?,
        0,
    )?;
    let left = |list: &Value| list["memory_left"].clone();
    equal(&ended, "memory left", left(&after), left(&before))?;
    holds(&ended, left(&after).as_u64() > Some(0), "no memory is told")?;
    equal(
        &ended,
        "malformed stores",
        after["refused_stores"].clone(),
        0,
    )?;
    let made = number(&after["calls"], "calls")? - number(&before["calls"], "calls")?;
    equal(&ended, "calls", made, 4 * ROUNDS)?;
    equal(
        &ended,
        "exits for calls",
        calls(&after) - calls(&before),
        made,
    )?;
    let seconds = cycled["seconds"].as_f64().context("no seconds")?;
    let median = |operation: &str| -> Result<u64> {
        number(&summary(&cycled, operation)?["effect"]["median"], "median")
    };
    bench.note(format!(
        "{ROUNDS} rounds in {seconds:.1} s; median TSC cycles until effect: stop {}, load {}, \
         start {}, restart {}",
        median("stop")?,
        median("load")?,
        median("start")?,
        median("restart")?
    ));
    undisturbed(&ended, &before, &after)
}
