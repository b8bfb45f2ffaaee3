//! Two snapshots, and what happened between them.

use serde::Serialize;

use crate::address::Address;
use crate::snapshot::{Core, Machine};

/// What happened in an interval.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Reading {
    pub(super) seconds: f64,
    pub(super) cores: Vec<Line>,
}

/// One core between two snapshots.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    pub(super) core: u32,
    pub(super) owner: Option<String>,
    pub(super) state: Option<&'static str>,
    pub(super) dataplane: Vec<&'static str>,
    pub(super) exits_per_second: f64,
    /// TSC cycles in the hypervisor, per exit.
    pub(super) cycles_per_exit: Option<u64>,
    pub(super) since_quiesce: u64,
    pub(super) interrupts_since_quiesce: u64,
    /// How often the partition was started anew.
    pub(super) restarts: Option<u64>,
    /// Guest RIP at the last exit, of the most frequent reason.
    pub(super) last_rip: Option<Address>,
    /// Exits per second by reason, the most frequent first.
    pub(super) by_reason: Vec<(&'static str, f64)>,
}

/// What happened within `seconds`, core by core.
pub(super) fn compare(before: &Machine, now: &Machine, seconds: f64) -> Reading {
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
        restarts: owner.map(|partition| partition.starts.saturating_sub(1)),
        last_rip: last.map(|(_, rip)| rip),
        by_reason,
    }
}
