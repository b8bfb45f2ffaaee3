//! `cloister` in Linux: what it says is true, reading costs nothing, and what
//! it does to one partition no other notices.

use anyhow::{Context, Result};
use cloister_tests::cases::Bench;
use cloister_tests::{Ended, System, linux, part};
use serde_json::Value;

use crate::demo::expect;
use crate::neighbour::{self, beside};

/// The strict partition's core, and the one that is started and stopped.
pub(crate) const STRICT: usize = neighbour::CORE as usize;
const VICTIM: usize = 3;

/// A strict partition, and beside it one to start and stop.
pub(crate) fn system(bench: &Bench) -> System {
    let victim = part("victim", "spin.elf")
        .cores("[3]")
        .memory("4M")
        .args("work=10000 report=100")
        .may("quiesce strict debug populate");
    beside(bench, &linux("[0, 1]"), [victim])
}

/// Keeps messages of the kernel, above all those on processes that end by a
/// signal (Documentation/admin-guide/sysctl, `exception-trace`), out of what
/// is printed.
pub(crate) const QUIET_KERNEL: &str = "dmesg -n 2; echo 0 >/proc/sys/debug/exception-trace";

/// A command that prints what `cloister WORDS` does between marks.
pub(crate) fn marked(mark: &str, words: &str) -> String {
    format!("said=\"$(cloister {words})\"; dmesg -n 1; echo \"<{mark}>$said</{mark}>\"; dmesg -n 7")
}

/// `cloister list --json`, between marks.
pub(crate) fn list(mark: &str) -> String {
    marked(mark, "list --json")
}

/// What Linux printed between the marks.
pub(crate) fn json(ended: &Ended, mark: &str) -> Result<Value> {
    let console = ended.linux_console();
    let text = console
        .split_once(&format!("<{mark}>"))
        .and_then(|(_, rest)| rest.split_once(&format!("</{mark}>")))
        .with_context(|| ended.failure(format!("Linux printed no <{mark}>")))?
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
pub(crate) fn undisturbed(ended: &Ended, before: &Value, after: &Value) -> Result<()> {
    let (old, new) = (exits(before, STRICT, None), exits(after, STRICT, None));
    equal(ended, "exits of the strict partition", new, old)?;
    neighbour::undisturbed(ended)?;
    Ok(())
}

/// The tool says what is so, and says no as it should.
pub(crate) fn list_is_true(bench: &Bench) -> Result<()> {
    let command = format!(
        "{}; cloister show strict; cloister console victim >/dev/null; echo console=$?; \
         cloister hardware >/dev/null; echo hardware=$?; \
         cloister start nobody --json; echo nobody=$?; cloister start strict; echo running=$?; \
         cloister frobnicate 2>/dev/null; echo usage=$?; \
         mkdir -p /etc; echo 'user:x:1000:1000::/:/bin/sh' >/etc/passwd; \
         su user -c 'cloister list'; echo user=$?; \
         cd /sys/bus/pci/devices; for d in *; do grep -q 0x10f5 $d/device && cd $d && break; done; \
         su user -c 'cat resource0 resource2 resource4 2>&1' | grep -c 'Permission denied'; \
         echo modes=$(stat -c %a resource0 resource2 resource4); {}",
        list("before"),
        list("after")
    );
    let ended = system(bench).run(&command)?.completed()?;
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
        // Root's alone, and read as files they are nothing to anybody.
        ("modes", "600 600 600"),
    ];
    for (key, status) in statuses {
        expect(&ended, key, status)?;
    }
    ended
        .linux()?
        .says("{\"error\":\"no partition is called \\\"nobody\\\"")?;
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
    let ended = system(bench).run(&command)?.completed()?;
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
