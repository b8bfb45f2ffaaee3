//! `cloister watch` and `cloister trace`: DEBUG on one of Linux's own cores, at
//! Linux's request, and what it leaves.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use cloister_tests::cases::Bench;
use serde::Deserialize;
use serde_json::Value;

use crate::control::{equal, exits, json, list, marked, system, undisturbed};
use crate::demo::expect;

/// A file in the Trace Event Format, read as that is documented: what Chrome
/// and Perfetto must find in it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trace {
    trace_events: Vec<Event>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "ph")]
enum Event {
    #[serde(rename = "X")]
    Complete {
        name: String,
        ts: f64,
        dur: f64,
        pid: u32,
        tid: u32,
        args: BTreeMap<String, Value>,
    },
    #[serde(rename = "M")]
    Metadata {
        name: String,
        pid: u32,
        tid: Option<u32>,
        args: BTreeMap<String, Value>,
    },
}

/// Name, begin and length of the events of one track, microseconds.
type Track = Vec<(String, f64, f64)>;

/// The complete events of each named track, in their order.
fn tracks(trace: Trace) -> Result<BTreeMap<String, Track>> {
    let mut names = BTreeMap::new();
    let mut events: BTreeMap<u32, Track> = BTreeMap::new();
    for event in trace.trace_events {
        match event {
            Event::Complete {
                name,
                ts,
                dur,
                pid: 1,
                tid,
                args,
            } => {
                let rip = args.get("rip").and_then(Value::as_str);
                rip.context("an event without rip")?;
                events.entry(tid).or_default().push((name, ts, dur));
            }
            Event::Metadata {
                name,
                pid: 1,
                tid: Some(tid),
                args,
            } if name == "thread_name" => {
                let name = args.get("name").and_then(Value::as_str);
                names.insert(tid, name.context("a track without name")?.to_owned());
            }
            Event::Metadata { pid: 1, .. } => {}
            other => anyhow::bail!("an event of another process: {other:?}"),
        }
    }
    let named = names.into_iter();
    Ok(named
        .map(|(tid, name)| (name, events.remove(&tid).unwrap_or_default()))
        .collect())
}

/// Who interrupts Linux's CPU 1: found while it is watched, and not otherwise;
/// DEBUG ends with the tool, with a killed one after a while.
pub(crate) fn watch(bench: &Bench) -> Result<()> {
    let command = format!(
        "provoke() {{ while :; do echo 1 >/proc/sys/vm/stat_refresh; done; }}; \
         provoke & provoke=$!; {before}; {watched}; {after}; {trace}; kill $provoke; \
         for n in 1 2 3 4 5 6; do cloister watch --cpu 1 --seconds 0.1 --passive >/dev/null \
         || exit 20; done; \
         cloister watch --cpu 7; echo none=$?; \
         cloister watch --cpu 0 --seconds 600 >/dev/null & \
         until cloister list --json | grep -q '\"debug\"$'; \
         do :; done; {watching}; \
         cloister watch --cpu 1; echo second=$?; kill -9 $!; \
         n=0; while [ $n -lt 60 ] && cloister list --json | grep -q '\"debug\"$'; \
         do sleep 1; n=$((n + 1)); done; {ended}",
        before = list("before"),
        watched = marked("watched", "watch --cpu 1 --seconds 2 --json"),
        after = list("after"),
        trace = marked("trace", "trace --perfetto -"),
        watching = list("watching"),
        ended = list("ended"),
    );
    let ended = system(bench).run(&command)?.completed()?;
    ended.linux()?.run_status(0)?;
    let [before, after] = ["before", "after"].map(|mark| json(&ended, mark));
    let (before, after) = (before?, after?);
    let interrupts = |list: &Value, core| exits(list, core, Some("interrupt"));
    for core in [0, 1] {
        equal(&ended, "unwatched", interrupts(&before, core), 0)?;
    }
    equal(&ended, "beside it", interrupts(&after, 0), 0)?;
    let watched = json(&ended, "watched")?;
    let count = watched["interrupts"].as_u64().context("no count")?;
    let sources = watched["sources"].as_array().context("no sources")?;
    let ipi = sources.iter().find(|source| {
        let trail = source["trail_symbols"].as_array();
        source["kind"] == "ipi"
            && source["from_cpu"] == 0
            && trail.is_some_and(|trail| {
                trail
                    .iter()
                    .any(|caller| caller.as_str().is_some_and(|name| name.contains("work")))
            })
    });
    let timer = sources.iter().find(|source| source["kind"] == "lvt-timer");
    let measured = |source: Option<&Value>| source.is_some_and(|s| s["worst_gap"].is_f64());
    let message = format!("{} exits, {watched:#}", interrupts(&after, 1));
    let ended = ended.check(
        count > 0 && interrupts(&after, 1) >= count && ipi.is_some() && measured(timer),
        message,
    )?;
    let trace: Trace = serde_json::from_value(json(&ended, "trace")?)?;
    let tracks = tracks(trace)?;
    let names: Vec<&str> = tracks.keys().map(String::as_str).collect();
    let all = [
        "core 0 (linux)",
        "core 1 (linux)",
        "core 2 (strict)",
        "core 3 (victim)",
    ];
    equal(&ended, "tracks", names, all.to_vec())?;
    let own = &tracks[all[1]];
    let ordered = own
        .windows(2)
        .all(|pair| pair[0].1 + pair[0].2 <= pair[1].1);
    let ended = ended.check(
        own.len() > 10 && ordered && own.iter().any(|(name, ..)| name == "interrupt"),
        format!("the track of core 1: {own:?}"),
    )?;
    expect(&ended, "none", "1")?;
    expect(&ended, "second", "1")?;
    let flags =
        |mark: &str| -> Result<Value> { Ok(json(&ended, mark)?["cores"][0]["dataplane"].clone()) };
    equal(
        &ended,
        "flags of a watched core",
        flags("watching")?,
        vec!["debug"],
    )?;
    equal(
        &ended,
        "flags afterwards",
        flags("ended")?,
        Vec::<&str>::new(),
    )?;
    let (names, worst) = (sources.len(), &watched["measured"]["worst_gap"]);
    bench.note(format!(
        "{count} interrupts of {names} sources in 2 s; worst gap {worst} us"
    ));
    undisturbed(&ended, &before, &json(&ended, "ended")?)
}
