//! `cloister` in Linux: what it says is true, reading costs nothing, and what
//! it does to one partition no other notices.

use std::fs;

use anyhow::{Context, Result};
use cloister_tests::cases::Bench;
use cloister_tests::{Ended, PartitionState, linux, part, with_linux};
use serde_json::Value;
use xtask::build;

use crate::demo::expect;

/// The strict partition's core, and the one that is started and stopped.
const STRICT: usize = 2;
const VICTIM: usize = 3;

/// A strict partition without end, and beside it one to start and stop.
fn system() -> String {
    let strict = part("strict", "spin.elf")
        .cores("[2]")
        .memory("64M")
        .args("report=1000000")
        .may("quiesce strict populate");
    let victim = part("victim", "spin.elf")
        .cores("[3]")
        .args("report=1000000")
        .may("quiesce strict debug populate");
    with_linux(&linux("[0, 1]"), [strict, victim])
}

/// Commands that print `cloister list --json` between marks.
pub(crate) fn list(mark: &str) -> String {
    format!("echo \"<{mark}>$(cloister list --json)</{mark}>\"")
}

/// What Linux printed between the marks.
pub(crate) fn json(ended: &Ended, mark: &str) -> Result<Value> {
    let console = ended.linux_console();
    let text = console
        .split_once(&format!("<{mark}>"))
        .and_then(|(_, rest)| rest.split_once(&format!("</{mark}>")))
        .with_context(|| format!("Linux printed no <{mark}>"))?
        .0;
    serde_json::from_str(text).with_context(|| format!("in <{mark}>: {text}"))
}

/// Exits of core `core` in a list, for `reason` or all.
pub(crate) fn exits(list: &Value, core: usize, reason: Option<&str>) -> u64 {
    let core = &list["cores"][core];
    let Some(reason) = reason else {
        return core["exits"].as_u64().unwrap_or(0);
    };
    let counts = core["by_reason"].as_array().into_iter().flatten();
    counts
        .filter(|count| count["reason"] == reason)
        .filter_map(|count| count["total"].as_u64())
        .sum()
}

pub(crate) fn equal(
    ended: &Ended,
    what: &str,
    got: impl Into<Value>,
    expected: impl Into<Value>,
) -> Result<()> {
    let (got, expected) = (got.into(), expected.into());
    if got == expected {
        return Ok(());
    }
    Err(ended.failure(format!("{what}: {got}, expected {expected}")))
}

/// The strict partition has seen nothing at all between two lists, nor since
/// it became quiet.
fn undisturbed(ended: &Ended, before: &Value, after: &Value) -> Result<()> {
    let (old, new) = (exits(before, STRICT, None), exits(after, STRICT, None));
    equal(ended, "exits of the strict partition", new, old)?;
    ended
        .partition("strict")?
        .state(PartitionState::Running)?
        .since_quiesce(0)?
        .interrupts(0)?
        .violations(0)?;
    Ok(())
}

/// The tool says what is so, and says no as it should.
pub(crate) fn list_is_true(bench: &Bench) -> Result<()> {
    let command = format!(
        "{}; cloister show strict; cloister console victim >/dev/null; echo console=$?; \
         cloister hardware >/dev/null; echo hardware=$?; \
         cloister start nobody; echo nobody=$?; cloister start strict; echo running=$?; \
         cloister frobnicate 2>/dev/null; echo usage=$?; \
         mkdir -p /etc; echo 'user:x:1000:1000::/:/bin/sh' >/etc/passwd; \
         su user -c 'cloister list'; echo user=$?; {}",
        list("before"),
        list("after")
    );
    let ended = bench.system(system()).run(&command)?.completed()?;
    let list = json(&ended, "before")?;
    let equal =
        |what: &str, got: &Value, expected: Value| equal(&ended, what, got.clone(), expected);
    equal(
        "vendor",
        &list["vendor"],
        bench.choose("amd", "intel").into(),
    )?;
    equal("Linux's cores", &list["linux"], vec![0, 1].into())?;
    for (index, (name, core)) in [("strict", STRICT), ("victim", VICTIM)]
        .into_iter()
        .enumerate()
    {
        let partition = &list["partitions"][index];
        equal("name", &partition["name"], name.into())?;
        equal("state", &partition["state"], "running".into())?;
        equal("cpus", &partition["cpus"], vec![core].into())?;
        equal("starts", &partition["starts"], 1.into())?;
    }
    let core = &list["cores"][STRICT];
    let flags = vec!["quiesce", "strict", "populate"];
    equal("flags", &core["dataplane"], flags.into())?;
    equal("exits since quiesce", &core["since_quiesce"], 0.into())?;
    let statuses = [
        ("console", "0"),
        ("hardware", "0"),
        ("nobody", "4"),
        ("running", "5"),
        ("usage", "2"),
        ("user", "3"),
    ];
    for (key, status) in statuses {
        expect(&ended, key, status)?;
    }
    undisturbed(&ended, &list, &json(&ended, "after")?)
}

/// All counters, 10,000 times: no exit on any core. And its twin: a call is
/// one exit of the caller, and one kick of the partition that it is for.
pub(crate) fn reading_is_free(bench: &Bench) -> Result<()> {
    let command = format!(
        "{}; cloister top --json -i 0 -n 10000 >/dev/null; echo read=$?; {}; \
         cloister flags victim --set none >/dev/null; echo called=$?; {}",
        list("before"),
        list("between"),
        list("after")
    );
    let ended = bench.system(system()).run(&command)?.completed()?;
    expect(&ended, "read", "0")?;
    expect(&ended, "called", "0")?;
    let before = json(&ended, "before")?;
    let between = json(&ended, "between")?;
    let after = json(&ended, "after")?;
    // Linux's own timers and IPIs go on meanwhile, and each process that
    // starts asks CPUID a few times: far fewer than there are readings.
    let cpuid = |list: &Value, core| exits(list, core, Some("cpuid"));
    // What touching the function's pages could cost. (By reason: totals of
    // cores that run on are read at another moment than their parts.)
    let own = |list: &Value, core| -> u64 {
        ["nested-page-fault", "hypercall", "port-in", "port-out"]
            .into_iter()
            .map(|reason| exits(list, core, Some(reason)))
            .sum()
    };
    let asked: u64 = (0..STRICT)
        .map(|core| cpuid(&between, core) - cpuid(&before, core))
        .sum();
    ended
        .clone()
        .check(asked < 1000, format!("{asked} exits by CPUID"))?;
    for core in 0..4 {
        let what = format!("exits of core {core} while reading");
        let (old, new) = if core < STRICT {
            (own(&before, core), own(&between, core))
        } else {
            (exits(&before, core, None), exits(&between, core, None))
        };
        equal(&ended, &what, new, old)?;
    }
    let called: u64 = (0..STRICT)
        .map(|core| own(&after, core) - own(&between, core))
        .sum();
    equal(&ended, "exits of the caller", called, 1)?;
    let kicks = exits(&after, VICTIM, Some("kick")) - exits(&between, VICTIM, Some("kick"));
    equal(&ended, "kicks of the partition called for", kicks, 1)?;
    undisturbed(&ended, &before, &after)
}

/// Stop, start, restart and load, over and over, with Linux at work, tools
/// killed half-way and malformed stores; the strict partition has no exit.
pub(crate) fn life_cycle(bench: &Bench) -> Result<()> {
    const ROUNDS: u64 = 100;
    let command = format!(
        "{before}; \
         for n in 1 2; do (while :; do dd if=/dev/zero of=/tmp/load bs=64k count=20 2>/dev/null; done) & done; \
         n=0; while [ $n -lt {ROUNDS} ]; do n=$((n + 1)); \
         cloister stop victim >/dev/null && cloister start victim >/dev/null && \
         cloister restart victim >/dev/null || exit 21; done; \
         {between}; \
         for n in 1 2 3 4 5 6 7 8 9 10; do cloister restart victim >/dev/null 2>&1 & \
         cloister restart victim >/dev/null 2>&1 & kill -9 $!; done; \
         sleep 3; cloister restart victim || exit 22; \
         for d in /sys/bus/pci/devices/*; do grep -q 0x10f5 $d/device && set -- $(head -1 $d/resource); done; \
         devmem $1 32 1; devmem $(($1 + 16)) 32 1; devmem $(($1 + 16)) 64 99; \
         echo refused=$(cloister show victim --json | grep refused_stores | tr -dc 0-9); \
         cloister stop victim || exit 23; \
         echo nonsense >/tmp/bad; cloister load victim /tmp/bad; echo bad=$?; \
         cloister load victim /bin/cloister; echo foreign=$?; \
         cloister load victim /spin.elf || exit 24; \
         cloister start victim || exit 25; {after}",
        before = list("before"),
        between = list("between"),
        after = list("after"),
    );
    build::hypervisor_with(&["spin"])?;
    let programs = build::programs()?;
    let spin = fs::read(programs.get("spin").context("no program spin")?)?;
    let ended = bench
        .system(system())
        .linux_file("spin.elf", 0o644, &spin)
        .run(&command)?
        .completed()?;
    ended.linux()?.run_status(0)?;
    let before = json(&ended, "before")?;
    let between = json(&ended, "between")?;
    let after = json(&ended, "after")?;
    let starts = between["partitions"][1]["starts"].as_u64();
    equal(&ended, "starts", starts, 1 + 2 * ROUNDS)?;
    equal(
        &ended,
        "state",
        after["partitions"][1]["state"].clone(),
        "running",
    )?;
    expect(&ended, "refused", "3")?;
    expect(&ended, "bad", "1")?;
    expect(&ended, "foreign", "5")?;
    undisturbed(&ended, &before, &after)
}
