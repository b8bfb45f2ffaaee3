//! `top`: readings one interval apart, and what happened between them. On a
//! terminal a screen that is redrawn; else text or JSON, reading by reading.

mod app;
mod reading;
mod screen;
mod terminal;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::device::Device;
use crate::output;
use crate::verbs::list::names;
use reading::{Reading, compare};

/// `cloister top`.
pub(super) fn top(device: &Device, interval: f64, count: Option<u64>, json: bool) -> Result<()> {
    let terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if terminal && !json && count.is_none() {
        return app::run(device, Duration::from_secs_f64(interval));
    }
    let pause = Duration::from_secs_f64(interval);
    let mut before = device.machine()?;
    let mut since = Instant::now();
    for _ in 0..count.unwrap_or(1) {
        std::thread::sleep(pause);
        let now = device.machine()?;
        let seconds = since.elapsed().as_secs_f64();
        since = Instant::now();
        let reading = compare(&before, &now, seconds);
        if json {
            output::json_line(&reading)?;
        } else {
            output::text(&plain(&reading))?;
        }
        before = now;
    }
    Ok(())
}

fn plain(reading: &Reading) -> String {
    let head = [
        "core",
        "owner",
        "state",
        "dataplane",
        "exits/s",
        "cycles/exit",
        "since quiesce",
        "interrupts",
        "restarts",
        "last rip",
        "exits/s by reason",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for core in &reading.cores {
        let reasons = core.by_reason.iter().take(4);
        let reasons: Vec<String> = reasons
            .map(|(reason, rate)| format!("{reason} {rate:.0}"))
            .collect();
        rows.push(vec![
            core.core.to_string(),
            core.owner.clone().unwrap_or_else(|| "-".into()),
            core.state.unwrap_or("-").to_owned(),
            names(&core.dataplane),
            format!("{:.0}", core.exits_per_second),
            or_dash(core.cycles_per_exit),
            core.since_quiesce.to_string(),
            core.interrupts_since_quiesce.to_string(),
            or_dash(core.restarts),
            or_dash(core.last_rip),
            reasons.join(", "),
        ]);
    }
    output::table(&rows)
}

/// The value, or `-`.
fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or("-".into(), |value| value.to_string())
}
