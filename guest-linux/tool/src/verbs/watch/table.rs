//! What was seen of a CPU, as text and as JSON.

use std::sync::atomic::Ordering;

use anyhow::Result;
use cloister_abi::interrupts::{InterruptEntry, InterruptTable, Source};
use serde::Serialize;

use crate::address::Address;
use crate::verbs::trace;
use crate::verbs::watch::Seen;
use crate::{output, symbols, tsc};

/// Callers of a sender that text shows.
const CALLERS: usize = 6;

#[derive(Serialize)]
struct Watched {
    cpu: u32,
    core: u32,
    seconds: f64,
    interrupts: u64,
    sources: Vec<Row>,
    /// Interrupts of sources that found no place in the core's table.
    others: u64,
    /// What a loop on the CPU saw; absent with --passive.
    measured: Option<Loop>,
}

#[derive(Serialize)]
struct Row {
    vector: u8,
    kind: &'static str,
    /// The device or pin.
    origin: String,
    /// Linux's number of the CPU that sent it.
    from_cpu: Option<u32>,
    count: u64,
    per_second: f64,
    /// The longest time for which the CPU was away when it came, microseconds.
    worst_gap: Option<f64>,
    last_rip: Address,
    last_symbol: Option<String>,
    /// Return addresses of the sender.
    trail: Vec<Address>,
    trail_symbols: Vec<String>,
}

#[derive(Serialize)]
struct Loop {
    rounds: u64,
    /// Microseconds, as below.
    worst_gap: f64,
    /// The longest without any interrupt: another thread, an SMI, or the
    /// machine below.
    worst_unnamed_gap: f64,
}

/// Prints it.
pub(super) fn print(table: &InterruptTable, seen: &Seen, json: bool) -> Result<()> {
    let mut rows: Vec<Row> = table
        .sources()
        .filter_map(|(place, source, entry)| row(place, &source, entry, seen))
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.count));
    let microseconds = |cycles| tsc::microseconds(cycles, seen.tsc_hz);
    let watched = Watched {
        cpu: seen.cpu,
        core: seen.core,
        seconds: seen.seconds,
        interrupts: rows.iter().map(|row| row.count).sum::<u64>() + seen.others,
        sources: rows,
        others: seen.others,
        measured: seen.gaps.as_ref().map(|gaps| Loop {
            rounds: gaps.rounds,
            worst_gap: microseconds(gaps.worst),
            worst_unnamed_gap: microseconds(gaps.unnamed),
        }),
    };
    if json {
        output::json(&watched)
    } else {
        output::text(&text(&watched))
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates are for people")]
fn row(place: usize, source: &Source, entry: &InterruptEntry, seen: &Seen) -> Option<Row> {
    let count = *seen.counts.get(&place)?;
    let rip = entry.rip.load(Ordering::Relaxed);
    let trail: Vec<u64> = source.trail.into_iter().take_while(|&at| at != 0).collect();
    let gap = seen.gaps.as_ref().and_then(|gaps| gaps.by_place.get(place));
    let from = source.sender.and_then(|core| {
        let place = seen.cpus.iter().position(|&own| own == core)?;
        u32::try_from(place).ok()
    });
    Some(Row {
        vector: source.vector,
        kind: source.kind.name(),
        origin: trace::origin(source.kind, source.detail).trim().to_owned(),
        from_cpu: from,
        count,
        per_second: count as f64 / seen.seconds.max(1e-9),
        worst_gap: gap
            .filter(|&&gap| gap != 0)
            .map(|&gap| tsc::microseconds(gap, seen.tsc_hz)),
        last_rip: Address(rip),
        last_symbol: symbols::lookup(rip),
        trail_symbols: trail.iter().map(|&at| symbols::name(at)).collect(),
        trail: trail.into_iter().map(Address).collect(),
    })
}

fn text(watched: &Watched) -> String {
    let mut text = format!(
        "CPU {} (core {}): {} interrupts in {:.1} s\n",
        watched.cpu, watched.core, watched.interrupts, watched.seconds
    );
    let head = ["count", "per s", "worst gap", "vector", "who", "last met"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for row in &watched.sources {
        let gap = row
            .worst_gap
            .map_or("-".into(), |gap| format!("{gap:.1} us"));
        let who = match row.from_cpu {
            Some(cpu) => format!("{} from CPU {cpu}", row.kind),
            None => format!("{} {}", row.kind, row.origin),
        };
        let met = row.last_symbol.clone();
        rows.push(vec![
            row.count.to_string(),
            format!("{:.1}", row.per_second),
            gap,
            format!("{:#x}", row.vector),
            who.trim().to_owned(),
            met.unwrap_or_else(|| format!("user {}", row.last_rip)),
        ]);
    }
    if watched.sources.is_empty() {
        rows.clear();
    }
    // Behind the head's line, a line for each source and one for who sent it.
    let table = output::table(&rows);
    let senders = std::iter::once(None).chain(watched.sources.iter().map(Some));
    for (line, row) in table.lines().zip(senders) {
        text.push_str(&format!("{line}\n"));
        let callers = row.map_or(&[][..], |row| &row.trail_symbols);
        if !callers.is_empty() {
            let callers: Vec<&str> = callers.iter().take(CALLERS).map(String::as_str).collect();
            text.push_str(&format!("       sent by {}\n", callers.join(" < ")));
        }
    }
    if watched.others != 0 {
        text.push_str(&format!("{} more of other sources\n", watched.others));
    }
    if let Some(measured) = &watched.measured {
        text.push_str(&format!(
            "longest gap of a loop on the CPU: {:.1} us; without any interrupt \
             (a thread, an SMI, the machine below): {:.1} us\n",
            measured.worst_gap, measured.worst_unnamed_gap
        ));
    }
    text
}
