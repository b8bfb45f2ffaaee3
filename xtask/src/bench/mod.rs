//! What exits cost, and what forwarding does. Exits: boots `partitions/bench.toml` on a machine whose clock
//! counts instructions, and reads what the program `bench` prints.

mod channels;
mod forward;
mod reference;
mod table;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use cloister_abi::PartitionState;
use serde::Serialize;

use crate::machine::{Accel, Clock, MachineKind};
use crate::run::Run;

pub use channels::{Channels, MessageCost, channels, channels_table};
pub use forward::{Forwarding, forwarding, forwarding_table};
pub use reference::Reference;
pub use table::table;

/// The system that is booted, and its partition.
const SYSTEM: &str = "partitions/bench.toml";
const PARTITION: &str = "bench";

/// What was measured on one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Measurement {
    /// `qemu` or `bochs`.
    pub machine: &'static str,
    /// `amd` or `intel`.
    pub vendor: String,
    /// What the figures count.
    pub unit: Unit,
    /// One for each kind of exit, in the order of the program.
    pub exits: Vec<Cost>,
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// The TSC advances by one for each instruction.
    Instructions,
    /// It does not.
    Cycles,
}

/// What one kind of exit adds over executing the instruction natively. The
/// arithmetic is in `partitions/bench/src/main.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Its name in the program.
    pub exit: String,
    /// The least of all repetitions.
    pub min: u64,
    /// The middle one.
    pub median: u64,
    /// The most.
    pub max: u64,
    /// What to compare it with.
    #[serde(flatten)]
    pub reference: Reference,
}

/// Words for the hypervisor, for one boot each: where the processor has x2APIC
/// mode, xAPIC mode is measured as well.
const fn boots(machine: MachineKind) -> &'static [&'static str] {
    match machine {
        MachineKind::Qemu => &[""],
        MachineKind::Bochs => &["", "apic=xapic"],
    }
}

/// Builds, boots and measures.
///
/// # Errors
/// See [`Run::start`]; or the program did not come to its end.
pub fn measure(machine: MachineKind, install: bool) -> Result<Measurement> {
    let mut all: Option<Measurement> = None;
    for words in boots(machine) {
        let one = measure_once(machine, words, install)?;
        match &mut all {
            None => all = Some(one),
            Some(all) => all.add(one)?,
        }
    }
    all.context("nothing was booted")
}

impl Measurement {
    /// Adds the exits of another boot that this one does not have.
    fn add(&mut self, other: Self) -> Result<()> {
        ensure!(
            self.unit == other.unit,
            "the clocks of two boots count differently"
        );
        for cost in other.exits {
            if self.exits.iter().all(|known| known.exit != cost.exit) {
                self.exits.push(cost);
            }
        }
        Ok(())
    }
}

fn measure_once(machine: MachineKind, words: &str, install: bool) -> Result<Measurement> {
    let finished = Run::file(SYSTEM)
        .machine(machine)
        .accel(Accel::Tcg)
        .clock(Clock::Instructions)
        .cpus(1)
        .hypervisor_words(words)
        .timeout(Duration::from_secs(300))
        .install(install)
        .finish()?
        .completed()?;
    let partition = finished.report.partition(PARTITION)?;
    ensure!(
        partition.state == PartitionState::Finished && partition.exit_code == Some(0),
        "{SYSTEM} ended badly\n{}",
        finished.tails(30)
    );
    let (unit, exits) = read(&partition.console, machine)?;
    Ok(Measurement {
        machine: machine.name(),
        vendor: finished.report.platform.vendor.clone(),
        unit,
        exits,
    })
}

/// Reads the program's lines.
fn read(console: &[String], machine: MachineKind) -> Result<(Unit, Vec<Cost>)> {
    let mut unit = None;
    let mut exits = Vec::new();
    for line in console {
        let Some((name, values)) = line
            .strip_prefix("bench: ")
            .and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        let values: BTreeMap<&str, &str> = values
            .split_whitespace()
            .filter_map(|word| word.split_once('='))
            .collect();
        let value = |key: &str| -> Result<u64> {
            let text = values
                .get(key)
                .ok_or_else(|| anyhow!("no {key} in: {line}"))?;
            text.parse()
                .with_context(|| format!("{key} is no number in: {line}"))
        };
        match name {
            "clock" if value("instructions")? == value("cycles")? => {
                unit = Some(Unit::Instructions);
            }
            "clock" => unit = Some(Unit::Cycles),
            _ if values.contains_key("median") => exits.push(Cost {
                exit: name.to_owned(),
                min: value("min")?,
                median: value("median")?,
                max: value("max")?,
                reference: Reference::of(machine, name),
            }),
            _ => {}
        }
    }
    let unit = unit.context("the program did not say what its clock counts")?;
    ensure!(!exits.is_empty(), "the program measured nothing");
    Ok((unit, exits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_programs_lines() {
        let console = lines(
            "bench: clock instructions=22 cycles=22\nbench: empty cycles=4\n\
             bench: cpuid min=90 median=91 max=300 n=5\nsomething else\n\
             bench: new-exit min=1 median=2 max=3 n=5",
        );
        let (unit, exits) = read(&console, MachineKind::Qemu).unwrap();
        assert_eq!(unit, Unit::Instructions);
        let cpuid = &exits[0];
        assert_eq!((cpuid.min, cpuid.median, cpuid.max), (90, 91, 300));
        assert_eq!(cpuid.reference.jailhouse, Some(122));
        assert_eq!(exits[1].reference, Reference::default());
        assert_eq!(exits.len(), 2);
    }

    #[test]
    fn two_boots_make_one_table() {
        let boot = |text: &str| {
            let clock = "bench: clock instructions=1 cycles=1\n".to_owned();
            let (unit, exits) = read(&lines(&(clock + text)), MachineKind::Bochs).unwrap();
            Measurement {
                machine: "bochs",
                vendor: "intel".into(),
                unit,
                exits,
            }
        };
        let mut first = boot("bench: cpuid min=1 median=1 max=1 n=1");
        let second = boot(
            "bench: cpuid min=2 median=2 max=2 n=1\nbench: xapic-eoi min=3 median=3 max=3 n=1",
        );
        first.add(second).unwrap();
        let medians: Vec<u64> = first.exits.iter().map(|cost| cost.median).collect();
        assert_eq!(medians, [1, 3]);
    }

    #[test]
    fn a_clock_that_does_not_count_instructions_is_told() {
        let console =
            lines("bench: clock instructions=22 cycles=23\nbench: cpuid min=1 median=1 max=1 n=1");
        assert_eq!(read(&console, MachineKind::Qemu).unwrap().0, Unit::Cycles);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |text| {
            let error = read(&lines(text), MachineKind::Bochs).unwrap_err();
            format!("{error:#}")
        };
        assert!(error("").contains("clock"));
        assert!(error("bench: clock instructions=1 cycles=1").contains("nothing"));
        let text = "bench: clock instructions=1 cycles=1\nbench: cpuid min=x median=1 max=1";
        assert!(error(text).contains("min is no number"));
    }
}
