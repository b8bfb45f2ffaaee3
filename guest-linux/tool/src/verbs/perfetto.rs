//! Traced exits in the Trace Event Format (its "JSON Object Format"), which
//! ui.perfetto.dev and chrome://tracing open: complete events, one track for
//! each core.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::snapshot::Machine;
use crate::verbs::trace::Line;
use crate::{output, symbols, tsc};

/// The one process of the trace.
const PROCESS: u32 = 1;

/// Writes `lines` of the cores of `owners` to `file`.
pub(super) fn export(
    machine: &Machine,
    owners: &[(u32, Option<String>)],
    lines: &[Line],
    file: &Path,
    as_json: bool,
) -> Result<()> {
    let trace = document(owners, lines, tsc::frequency(machine.tsc_hz));
    if file == Path::new("-") {
        return output::json_line(&trace);
    }
    let cannot = || format!("cannot write {}", file.display());
    let mut out = BufWriter::new(File::create(file).with_context(cannot)?);
    serde_json::to_writer(&mut out, &trace).with_context(cannot)?;
    out.flush().with_context(cannot)?;
    if as_json {
        return output::json(&json!({ "file": file, "exits": lines.len() }));
    }
    output::text(&format!("{}: {} exits\n", file.display(), lines.len()))
}

fn document(owners: &[(u32, Option<String>)], lines: &[Line], hz: u64) -> Value {
    let named = |name: &str, tid: Option<u32>, args: Value| {
        let mut event = json!({ "name": name, "ph": "M", "pid": PROCESS, "args": args });
        if let Some(tid) = tid {
            event["tid"] = tid.into();
        }
        event
    };
    let mut events = vec![named("process_name", None, json!({ "name": "Cloister" }))];
    for (core, owner) in owners {
        let owner = owner.as_deref().unwrap_or("nobody");
        let name = json!({ "name": format!("core {core} ({owner})") });
        events.push(named("thread_name", Some(*core), name));
        let order = json!({ "sort_index": core });
        events.push(named("thread_sort_index", Some(*core), order));
    }
    events.extend(lines.iter().map(|line| event(line, hz)));
    json!({ "displayTimeUnit": "ns", "traceEvents": events })
}

fn event(line: &Line, hz: u64) -> Value {
    let backtrace = line.backtrace.iter().map(|frame| symbols::name(frame.0));
    json!({
        "name": line.reason,
        "cat": "exit",
        "ph": "X",
        "pid": PROCESS,
        "tid": line.core,
        "ts": tsc::microseconds(line.tsc, hz),
        "dur": tsc::microseconds(line.cycles, hz),
        "args": {
            "about": line.about,
            "rip": symbols::name(line.rip.0),
            "cr3": line.cr3,
            "cycles": line.cycles,
            "sequence": line.sequence,
            "backtrace": backtrace.collect::<Vec<String>>(),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::address::Address;

    /// A reader of the format as it is documented ("Trace Event Format",
    /// sections "JSON Object Format", "Complete Events", "Metadata Events"):
    /// it knows nothing of how the export is made.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Trace {
        trace_events: Vec<Event>,
        display_time_unit: Unit,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Unit {
        Ms,
        Ns,
    }

    #[derive(Deserialize)]
    #[serde(tag = "ph")]
    enum Event {
        #[serde(rename = "X")]
        Complete {
            name: String,
            #[serde(rename = "cat")]
            _categories: String,
            ts: f64,
            dur: f64,
            pid: u32,
            tid: u32,
            args: BTreeMap<String, Value>,
        },
        #[serde(rename = "M")]
        Metadata(Metadata),
    }

    #[derive(Deserialize)]
    #[serde(tag = "name", content = "args")]
    enum Metadata {
        #[serde(rename = "process_name")]
        Process { name: String },
        #[serde(rename = "thread_name")]
        Thread { name: String },
        #[serde(rename = "thread_sort_index")]
        Order { sort_index: i32 },
    }

    fn line(core: u32, tsc: u64, reason: &'static str) -> Line {
        Line {
            core,
            owner: Some("spin".into()),
            sequence: 7,
            tsc,
            reason,
            about: "port 0x60".into(),
            rip: Address(0x10_1000),
            cr3: Address(0x2000),
            cycles: 3000,
            backtrace: vec![Address(0x10_1000)],
        }
    }

    #[test]
    fn a_reader_of_the_format_finds_a_track_for_each_core() {
        let owners = [(2, Some("spin".into())), (3, None)];
        let lines = [
            line(2, 3_000_000, "port-in"),
            line(3, 3_003_000, "interrupt"),
            line(2, 6_000_000, "cpuid"),
        ];
        let text = document(&owners, &lines, 3_000_000_000).to_string();
        let trace: Trace = serde_json::from_str(&text).unwrap();
        assert!(matches!(trace.display_time_unit, Unit::Ns));
        let mut tracks: BTreeMap<u32, Vec<(String, f64, f64)>> = BTreeMap::new();
        let mut names = Vec::new();
        for event in trace.trace_events {
            match event {
                Event::Complete {
                    name,
                    ts,
                    dur,
                    pid,
                    tid,
                    args,
                    ..
                } => {
                    assert_eq!(pid, PROCESS);
                    assert_eq!(args["about"], "port 0x60");
                    tracks.entry(tid).or_default().push((name, ts, dur));
                }
                Event::Metadata(Metadata::Process { name } | Metadata::Thread { name }) => {
                    names.push(name);
                }
                Event::Metadata(Metadata::Order { sort_index }) => assert!(sort_index >= 2),
            }
        }
        assert_eq!(names, ["Cloister", "core 2 (spin)", "core 3 (nobody)"]);
        let of = |name: &str, ts| (name.to_owned(), ts, 1.0);
        assert_eq!(tracks[&2], [of("port-in", 1000.0), of("cpuid", 2000.0)]);
        assert_eq!(tracks[&3], [of("interrupt", 1001.0)]);
    }
}
