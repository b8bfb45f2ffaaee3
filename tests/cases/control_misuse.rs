//! Wrong use of the control function: refused or done whole, and counted.

use anyhow::Result;
use cloister_tests::Ended;
use cloister_tests::cases::Bench;
use serde_json::Value;

use crate::control::{QUIET_KERNEL, STRICT, equal, json, list, system, undisturbed};
use crate::control_life::{holds, number, with_program};
use crate::demo::expect;
use crate::hostile_root;

/// Tools killed at random moments, two at once, stores that are no calls,
/// calls that mean nothing, hypercalls from user mode: all refused or done
/// whole, and counted.
pub(crate) fn misuse(bench: &Bench) -> Result<()> {
    const KILLS: u64 = 10;
    const BOTH: u64 = 10;
    let command = format!(
        "{QUIET_KERNEL}; {before}; \
         n=0; while [ $n -lt {KILLS} ]; do n=$((n + 1)); \
         old=$(cloister show victim | grep starts); \
         cloister cycle victim -n 1000000 --load /spin.elf 2>/dev/null & \
         while [ \"$(cloister show victim | grep starts)\" = \"$old\" ]; do :; done; \
         usleep $((RANDOM * 30)); kill -9 $! || exit 20; wait $! 2>/dev/null; done; \
         cloister cycle victim -n 3 --load /spin.elf || exit 21; {killed}; \
         cloister stop victim || exit 22; \
         for k in 1 2; do (n=0; while [ $n -lt {BOTH} ]; do n=$((n + 1)); \
         cloister load victim /spin.elf >/dev/null && echo loaded; done) >/tmp/$k & done; wait; \
         echo loads=$(cat /tmp/1 /tmp/2 | grep -c loaded); \
         echo nonsense >/tmp/bad; cloister load victim /tmp/bad; echo bad=$?; \
         cloister load victim /bin/hostile-root; echo foreign=$?; \
         cloister start victim || exit 23; {between}; \
         hostile-root control 1 || exit 24; hostile-root hypercalls || exit 25; {after}",
        before = list("before"),
        killed = list("killed"),
        between = list("between"),
        after = list("after"),
    );
    let ended = hostile_root::with_root(with_program(system(bench), "spin")?)?
        .run(&command)?
        .completed()?;
    ended.linux()?.run_status(0)?;
    let [before, killed, between, after] =
        ["before", "killed", "between", "after"].map(|mark| json(&ended, mark));
    let (before, killed, between, after) = (before?, killed?, between?, after?);
    let at_least = number(&before["calls"], "calls")? + KILLS;
    holds(
        &ended,
        number(&killed["calls"], "calls")? > at_least,
        "the tools were killed before they did anything",
    )?;
    expect(&ended, "loads", &(2 * BOTH).to_string())?;
    expect(&ended, "bad", "1")?;
    expect(&ended, "foreign", "5")?;
    for (what, list) in [("between", &between), ("after", &after)] {
        let state = list["partitions"][1]["state"].clone();
        equal(&ended, what, state, "running")?;
    }
    equal(
        &ended,
        "starts by calls that are none",
        after["partitions"][1]["starts"].clone(),
        between["partitions"][1]["starts"].clone(),
    )?;
    refusals(&ended, &between, &after)?;
    undisturbed(&ended, &before, &after)
}

/// What `hostile-root control` and `hypercalls` did between two lists was all
/// refused, and counted one by one.
pub(crate) fn refusals(ended: &Ended, before: &Value, after: &Value) -> Result<()> {
    let said = |name, key| hostile_root::number(ended, name, key);
    let stores = said("control", "stores")?;
    equal(ended, "refused stores", said("control", "refused")?, stores)?;
    let counted = number(&after["refused_stores"], "refused")?
        - number(&before["refused_stores"], "refused")?;
    equal(ended, "refused stores in the list", counted, stores)?;
    holds(ended, stores > 300, &format!("only {stores} stores"))?;
    equal(ended, "odd stores", said("control", "odd")?, 3)?;
    let served = said("control", "served")?;
    equal(ended, "calls answered", served, said("control", "rung")?)?;
    equal(
        ended,
        "changed statistics",
        said("statistics", "changed")?,
        0,
    )?;
    let made = said("hypercalls", "made")?;
    equal(
        ended,
        "illegal hypercalls",
        said("hypercalls", "illegal")?,
        made,
    )?;
    // The other vendor's instruction is illegal by itself.
    let users: u64 = (0..STRICT)
        .filter_map(|core| after["cores"][core]["user_hypercalls"].as_u64())
        .sum();
    equal(ended, "user hypercalls", users, made / 2)
}
