//! What forwarding costs under Cloister and without it: the program `l2fwd`
//! between two network cards, the same file, the same machine, the same
//! frames.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cloister_abi::PartitionState;
use serde::Serialize;

use crate::machine::{Accel, Clock, MachineKind, NicModel};
use crate::net::{Cable, Generator};
use crate::run::{Console, Run};

const PARTITION: &str = "l2fwd";
/// Frames of a run whose time is measured, and of one whose instructions are
/// counted.
const FRAMES: u64 = 50_000;
const COUNTED: u64 = 10_000;
/// Runs of each kind, one after the other in turn: short, so that some meet an
/// idle host.
const ROUNDS: usize = 6;

/// What was measured with one card.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forwarding {
    /// The card.
    pub card: &'static str,
    /// Frames per second on the bare machine, of each run.
    pub bare: Vec<f64>,
    /// Under Cloister.
    pub cloister: Vec<f64>,
    /// Instructions of the program for each frame, bare and under Cloister.
    pub instructions: [u64; 2],
}

impl Forwarding {
    /// What of the bare machine's rate is left: that of the best runs, which
    /// the host has disturbed least.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        best(&self.cloister) / best(&self.bare)
    }
}

fn best(rates: &[f64]) -> f64 {
    rates.iter().copied().fold(0.0, f64::max)
}

/// Who starts the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Grub,
    Cloister,
}

/// Builds, boots and measures, in QEMU.
///
/// # Errors
/// See [`Run::start`] and [`Generator::run`].
pub fn forwarding(install: bool) -> Result<Vec<Forwarding>> {
    [(NicModel::Virtio, "virtio-net"), (NicModel::E1000, "e1000")]
        .into_iter()
        .map(|(model, card)| {
            let mut rates = [Vec::new(), Vec::new()];
            for _ in 0..ROUNDS {
                for (by, rates) in [By::Grub, By::Cloister].into_iter().zip(&mut rates) {
                    rates.push(run(model, by, Clock::Host, FRAMES, install)?.0);
                }
            }
            let count = |by| {
                let run = run(model, by, Clock::Instructions, COUNTED, install);
                run.map(|(_, cycles)| cycles)
            };
            let instructions = [count(By::Grub)?, count(By::Cloister)?];
            let [bare, cloister] = rates;
            Ok(Forwarding {
                card,
                bare,
                cloister,
                instructions,
            })
        })
        .collect()
}

/// Frames per second, and TSC cycles of the program for each frame.
fn run(model: NicModel, by: By, clock: Clock, frames: u64, install: bool) -> Result<(f64, u64)> {
    let qemu = MachineKind::Qemu;
    let cables = [Cable::new(qemu)?, Cable::new(qemu)?];
    let [one, other] = &cables;
    let mut run = Run::toml(system(frames))
        .accel(Accel::Tcg)
        .clock(clock)
        .cpus(1)
        .nic(one.nic(model))
        .nic(other.nic(model))
        .timeout(Duration::from_secs(300))
        .install(install);
    if by == By::Grub {
        run = run.without_hypervisor();
    }
    let mut live = run.start()?;
    let console = Console::Partition(PARTITION.into());
    live.wait_for(console, "ready", Duration::from_secs(120))?;
    let throughput = Generator::new(frames)
        .run(one, other)
        .with_context(|| live.tails())?;
    let finished = live.finish()?.completed()?;
    let partition = finished.report.partition(PARTITION)?;
    ensure!(
        partition.state == PartitionState::Finished && partition.exit_code == Some(0),
        "{PARTITION} ended badly\n{}",
        finished.tails(30)
    );
    Ok((throughput.rate(), cycles(&partition.console)?))
}

fn system(frames: u64) -> String {
    format!(
        "[[partition]]\nname = \"{PARTITION}\"\ncpus = [0]\nmemory = \"16M\"\n\
         program = \"l2fwd.elf\"\nargs = \"frames={frames}\"\n\
         dataplane = [\"quiesce\", \"strict\", \"populate\"]\n\
         [[partition.devices]]\naddress = \"0000:00:10.0\"\ndma = \"unprotected\"\n\
         [[partition.devices]]\naddress = \"0000:00:11.0\"\ndma = \"unprotected\"\n"
    )
}

/// What the program says a frame costs.
fn cycles(console: &[String]) -> Result<u64> {
    let words = console.iter().flat_map(|line| line.split_whitespace());
    let mut values = words.filter_map(|word| word.strip_prefix("cycles-per-frame="));
    let value = values.next_back().context("l2fwd gave no statistics")?;
    value.parse().context("l2fwd: cycles-per-frame")
}

/// For people.
#[must_use]
pub fn forwarding_table(measured: &[Forwarding]) -> String {
    let mut text = String::from(
        "l2fwd, qemu, amd, one core: frames per second (best run), instructions per frame\n\
         card                bare   Cloister    ratio   instructions: bare   Cloister\n",
    );
    for forwarding in measured {
        let [bare, cloister] = forwarding.instructions;
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{:<14}{:>10.0}{:>11.0}{:>9.3}{bare:>21}{cloister:>11}",
            forwarding.card,
            best(&forwarding.bare),
            best(&forwarding.cloister),
            forwarding.ratio(),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_figures() {
        let console = [
            "l2fwd: ready",
            "l2fwd: frames=3 drops=0 cycles-per-frame=210",
        ];
        let console = console.map(str::to_owned);
        assert_eq!(cycles(&console).unwrap(), 210);
        assert!(cycles(&console[..1]).is_err());
    }

    #[test]
    fn the_best_runs_count() {
        let forwarding = Forwarding {
            card: "e1000",
            bare: vec![100.0, 200.0, 150.0],
            cloister: vec![196.0, 20.0],
            instructions: [300, 301],
        };
        assert!((forwarding.ratio() - 0.98).abs() < 1e-9);
        let table = forwarding_table(&[forwarding]);
        assert!(
            table.contains("0.980") && table.ends_with("301\n"),
            "{table}"
        );
    }

    #[test]
    fn the_system_is_valid() {
        let text = system(5);
        cloister_manifest::parse("bench".as_ref(), &text).unwrap();
    }
}
