//! The storm: what interrupts an isolated core of Linux, run beside a strict
//! partition.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::storm::{self, Action, Column};
use cloister_tests::{LinuxState, linux, part, with_linux};

/// What cannot be done under Cloister: Linux has no SVM there, and kvm-amd
/// says so.
const REFUSED: &[&str] = &["kvm-load"];

fn interrupts(actions: &[Action]) -> u64 {
    actions.iter().map(|action| action.interrupts).sum()
}

/// The same actions beside a core that Linux isolates as far as it can, on the
/// bare machine and under Cloister, and beside a strict partition: 0 for each.
pub(crate) fn beside_strict(bench: &Bench) -> Result<()> {
    let bare = bench.bare_with(&storm::isolate(3)).cores(4);
    let (bare, alone) = storm::run(bare, 3, 2)?;
    let spin = part("spin", "spin.elf")
        .cores("[3]")
        .args("work=10000")
        .may("quiesce strict populate");
    let system = with_linux(&linux("[0, 1, 2]").cmdline(&storm::isolate(1)), [spin]);
    let (ended, beside) = storm::run(bench.system(system).yielding(3), 1, 2)?;

    let spin = ended.partition("spin")?;
    let (exits, hits) = (
        spin.report().exits.since_quiesce,
        spin.report().interrupts_since_quiesce,
    );
    bench.note(storm::table(
        &alone,
        &[
            Column::Counted("nohz_full core, bare Linux", &alone),
            Column::Counted("nohz_full core, Linux in Cloister", &beside),
            Column::AtTheEnd("strict partition: interrupts", hits),
            Column::AtTheEnd("strict partition: VM exits", exits),
        ],
    ));
    spin.dataplane(&["quiesce", "strict", "populate"])?
        .since_quiesce(0)?
        .interrupts(0)?
        .violations(0)?
        .check(
            ended.report().core(3)?.quiesce_count == 1,
            "it was quiet more than once: its counters started anew",
        )?;
    ended.linux()?.run_status(0)?.state(LinuxState::Off)?;

    // The twin: the storm did blow, on both.
    for (run, actions, refused) in [(&bare, &alone, &[][..]), (&ended, &beside, REFUSED)] {
        for action in actions {
            let expected = !refused.contains(&action.name.as_str());
            if (action.status == 0) != expected {
                return Err(run.failure(format!("{action:?}: done {expected} expected")));
            }
        }
        let blown = actions
            .iter()
            .filter(|action| action.interrupts > 0)
            .count();
        if blown < 4 {
            return Err(run.failure(format!("only {blown} actions interrupted: {actions:?}")));
        }
    }
    bench.note(format!(
        "{} and {} interrupts of Linux's isolated core, {hits} and {exits} of the partition",
        interrupts(&alone),
        interrupts(&beside)
    ));
    Ok(())
}
