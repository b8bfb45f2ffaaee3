//! What the operator does to a partition: its own cores are kicked, as often as
//! it takes and no more, and no other core is touched.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::{PartitionState, linux, part, with_linux};

use crate::control::{equal, exits, json, list};

/// Rounds of start, restart and stop of a partition of two cores that never
/// exits by itself.
const ROUNDS: u64 = 3;

/// Stop and restart reach cores that never exit, in bounded time: each is one
/// kick of each core of that partition, and no kick of any other core, nor any
/// exit of a strict one. On a strict core, the operator's kicks are no
/// violation.
pub(crate) fn touches_no_other(bench: &Bench) -> Result<()> {
    // A start is over when each core has made its one hypercall.
    let command = format!(
        r#"
        up() {{ until [ $(cloister console $1 | grep -c set_dataplane) = $2 ]; do :; done; }}
        now() {{ cut -d' ' -f1 /proc/uptime | tr -d .; }}
        {before}
        n=0; while [ $n -lt {ROUNDS} ]; do
            n=$((n + 1))
            cloister start pair && up pair 2 && cloister restart pair && up pair 2 || exit 21
            from=$(now); cloister stop pair || exit 22; echo stop=$(($(now) - from))
        done
        {between}
        cloister start alone && up alone 1 || exit 23
        cloister flags alone --set debug && cloister flags alone --set none || exit 24
        cloister restart alone && up alone 1 && cloister stop alone || exit 25
        {after}
        "#,
        before = list("before"),
        between = list("between"),
        after = list("after"),
    );
    let waiting = |name: &str, cores: &str, args: &str| {
        part(name, "probe.elf")
            .cores(cores)
            .args(args)
            .may("quiesce strict populate")
            .key("autostart = false")
    };
    let strict = part("strict", "exits.elf")
        .cores("[2]")
        .args("enter=strict+populate hlt")
        .may("quiesce strict populate");
    let text = with_linux(
        &linux("[0, 1]"),
        [
            strict,
            waiting("pair", "[3, 4]", "enter=none loop"),
            waiting("alone", "[5]", "enter=strict+populate loop"),
        ],
    );
    let ended = bench.system(text).run(&command)?.completed()?;
    ended.linux()?.run_status(0)?;
    let (before, between) = (json(&ended, "before")?, json(&ended, "between")?);
    let after = json(&ended, "after")?;
    let kick = Some("kick");
    for core in [0, 1, 2, 5] {
        let what = format!("kicks of core {core}");
        let (old, new) = (exits(&before, core, kick), exits(&between, core, kick));
        equal(&ended, &what, new, old)?;
    }
    for core in [2, 5] {
        let what = format!("exits of core {core}");
        let (old, new) = (exits(&before, core, None), exits(&between, core, None));
        equal(&ended, &what, new, old)?;
    }
    for core in [3, 4] {
        let what = format!("kicks of core {core}: a restart and a stop in each round");
        equal(&ended, &what, exits(&between, core, kick), 2 * ROUNDS)?;
        let what = format!("starts of core {core}");
        let starts = exits(&between, core, Some("hypercall"));
        equal(&ended, &what, starts, 2 * ROUNDS)?;
    }
    // In hundredths of a second of Linux's, tool and all.
    let slowest = ended
        .linux_console()
        .lines()
        .filter_map(|line| line.trim().strip_prefix("stop=")?.parse::<u64>().ok())
        .max();
    bench.note(format!("slowest stop: {slowest:?} hundredths of a second"));
    let message = format!("the slowest stop took {slowest:?} hundredths of a second");
    let ended = ended.check(slowest.is_some_and(|time| time < 1000), message)?;
    // Two changes of flags, a restart, a stop.
    equal(&ended, "kicks under STRICT", exits(&after, 5, kick), 4)?;
    ended
        .partition("alone")?
        .state(PartitionState::Stopped)?
        .violations(0)?
        .since_quiesce(0)?;
    ended
        .partition("strict")?
        .state(PartitionState::Running)?
        .since_quiesce(0)?
        .interrupts(0)?;
    Ok(())
}
