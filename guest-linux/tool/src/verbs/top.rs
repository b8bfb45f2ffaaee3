//! `top`: readings one interval apart, and what happened between them.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

use crate::device::Device;
use crate::output;
use crate::snapshot::{Core, Machine};
use crate::verbs::list::names;

/// Clears the rest of the line, and of the screen (ECMA-48 EL and ED).
const REST_OF_LINE: &str = "\x1b[K";
const REST_OF_SCREEN: &str = "\x1b[J";
const HOME: &str = "\x1b[H";
const CLEAR: &str = "\x1b[2J";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

#[derive(Serialize)]
struct Reading {
    seconds: f64,
    cores: Vec<Line>,
}

/// One core between two readings.
#[derive(Serialize)]
struct Line {
    core: u32,
    owner: Option<String>,
    state: Option<&'static str>,
    dataplane: Vec<&'static str>,
    exits_per_second: f64,
    /// TSC cycles in the hypervisor, per exit.
    cycles_per_exit: Option<u64>,
    since_quiesce: u64,
    interrupts_since_quiesce: u64,
    starts: Option<u64>,
    last_rip: Option<u64>,
    /// Exits per second by reason, the most frequent first.
    by_reason: Vec<(&'static str, f64)>,
}

/// `cloister top`.
pub(super) fn top(device: &Device, interval: f64, count: Option<u64>, json: bool) -> Result<()> {
    let live = io::stdout().is_terminal() && !json;
    let count = count.or((!live).then_some(1));
    let pause = Duration::from_secs_f64(interval);
    let mut before = device.machine()?;
    let mut since = Instant::now();
    let mut done = 0;
    if live {
        output::text(CLEAR)?;
    }
    while count.is_none_or(|count| done < count) {
        std::thread::sleep(pause);
        let now = device.machine()?;
        let seconds = since.elapsed().as_secs_f64();
        since = Instant::now();
        let reading = compare(&before, &now, seconds);
        if json {
            output::json(&reading)?;
        } else {
            print(&reading, live)?;
        }
        before = now;
        done += 1;
    }
    Ok(())
}

fn compare(before: &Machine, now: &Machine, seconds: f64) -> Reading {
    let cores = before.cores.iter().zip(&now.cores);
    Reading {
        seconds,
        cores: cores
            .map(|(before, core)| line(now, before, core, seconds))
            .collect(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates are for people")]
fn rate(before: u64, now: u64, seconds: f64) -> f64 {
    now.wrapping_sub(before) as f64 / seconds.max(1e-9)
}

fn line(machine: &Machine, before: &Core, now: &Core, seconds: f64) -> Line {
    let mut by_reason = Vec::new();
    let (mut exits, mut cycles) = (0_u64, 0_u64);
    let mut last = None;
    for count in &now.by_reason {
        let old = before
            .by_reason
            .iter()
            .find(|old| old.reason == count.reason);
        let (total, spent) = old.map_or((0, 0), |old| (old.total, old.cycles));
        let new = count.total.wrapping_sub(total);
        if new != 0 {
            exits = exits.wrapping_add(new);
            cycles = cycles.wrapping_add(count.cycles.wrapping_sub(spent));
            by_reason.push((count.reason, rate(total, count.total, seconds)));
            last = last.max(Some((new, count.last_rip)));
        }
    }
    by_reason.sort_by(|a, b| b.1.total_cmp(&a.1));
    let owner = machine
        .partitions
        .iter()
        .find(|partition| partition.cpus.contains(&now.core));
    Line {
        core: now.core,
        owner: now.owner.clone(),
        state: owner.map(|partition| partition.state),
        dataplane: now.dataplane.clone(),
        exits_per_second: rate(before.exits, now.exits, seconds),
        cycles_per_exit: cycles.checked_div(exits),
        since_quiesce: now.since_quiesce,
        interrupts_since_quiesce: now.interrupts_since_quiesce,
        starts: owner.map(|partition| partition.starts),
        last_rip: last.map(|(_, rip)| rip),
        by_reason,
    }
}

fn print(reading: &Reading, live: bool) -> Result<()> {
    let head = [
        "core",
        "owner",
        "state",
        "dataplane",
        "exits/s",
        "cycles/exit",
        "since quiesce",
        "interrupts",
        "starts",
        "last rip",
        "exits/s by reason",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    for core in &reading.cores {
        let reasons = core.by_reason.iter().take(4);
        let reasons: Vec<String> = reasons
            .map(|(reason, rate)| format!("{reason} {rate:.0}"))
            .collect();
        rows.push(vec![
            core.core.to_string(),
            or_dash(core.owner.clone()),
            core.state.unwrap_or("-").to_owned(),
            names(&core.dataplane),
            format!("{:.0}", core.exits_per_second),
            or_dash(core.cycles_per_exit.map(|cycles| cycles.to_string())),
            core.since_quiesce.to_string(),
            core.interrupts_since_quiesce.to_string(),
            or_dash(core.starts.map(|starts| starts.to_string())),
            or_dash(core.last_rip.map(|rip| format!("{rip:#x}"))),
            reasons.join(", "),
        ]);
    }
    let table = output::table(&rows);
    if !live {
        return output::text(&table);
    }
    let mut out = io::stdout().lock();
    write!(out, "{HOME}")?;
    for (index, line) in table.lines().enumerate() {
        let (on, off) = if index == 0 { (BOLD, PLAIN) } else { ("", "") };
        writeln!(out, "{on}{line}{off}{REST_OF_LINE}")?;
    }
    writeln!(
        out,
        "{REST_OF_LINE}\nover {:.1} s; reading this costs no exit; Ctrl-C ends{REST_OF_SCREEN}",
        reading.seconds
    )?;
    out.flush()?;
    Ok(())
}
