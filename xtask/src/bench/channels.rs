//! What a message through a channel costs: `partitions/messages` measures it
//! with both ends on one core, on a machine whose clock counts instructions.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cloister_abi::PartitionState;
use serde::Serialize;

use super::Unit;
use crate::machine::{Accel, Clock, MachineKind};
use crate::run::Run;

const PARTITION: &str = "messages";

/// What was measured on one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Channels {
    /// `qemu` or `bochs`.
    pub machine: &'static str,
    /// What the figures count.
    pub unit: Unit,
    /// One for each length.
    pub messages: Vec<MessageCost>,
    /// One look at a channel that finds nothing.
    pub look: u64,
    /// VM exits of the partition from the first message to the last.
    pub exits: u64,
}

/// What a message of one length costs each end, the loop around the call
/// included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MessageCost {
    /// Its length.
    pub bytes: u64,
    /// For the sender, of many that are sent in one go.
    pub send: u64,
    /// For the receiver.
    pub receive: u64,
    /// From the call that sends one to its arrival, nothing else under way.
    pub through: u64,
}

/// Builds, boots and measures.
///
/// # Errors
/// See [`Run::start`]; or the program did not come to its end.
pub fn channels(machine: MachineKind, install: bool) -> Result<Channels> {
    let finished = Run::toml(system())
        .machine(machine)
        .accel(Accel::Tcg)
        .clock(Clock::Instructions)
        .cpus(1)
        .timeout(Duration::from_secs(120))
        .install(install)
        .finish()?
        .completed()?;
    let partition = finished.report.partition(PARTITION)?;
    ensure!(
        partition.state == PartitionState::Finished && partition.exit_code == Some(0),
        "{PARTITION} ended badly\n{}",
        finished.tails(30)
    );
    read(&partition.console, machine, partition.exits.since_quiesce)
}

fn system() -> String {
    format!(
        "[[partition]]\nname = \"{PARTITION}\"\ncpus = [0]\nmemory = \"16M\"\n\
         program = \"messages.elf\"\nargs = \"measure\"\n\
         dataplane = [\"quiesce\", \"strict\", \"populate\"]\n"
    )
}

/// Reads the program's lines.
fn read(console: &[String], machine: MachineKind, exits: u64) -> Result<Channels> {
    let value = |line: &str, key: &str| -> Option<u64> {
        let mut words = line.split_whitespace();
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
    };
    let lines = |word: &str| {
        let prefix = format!("messages: {word} ");
        console
            .iter()
            .filter_map(move |line| line.strip_prefix(&prefix).map(str::to_owned))
    };
    let clock = lines("clock").next().context("no line about the clock")?;
    let unit = match value(&clock, "instructions") == value(&clock, "cycles") {
        true => Unit::Instructions,
        false => Unit::Cycles,
    };
    let messages: Vec<MessageCost> = lines("cost")
        .filter_map(|line| {
            Some(MessageCost {
                bytes: value(&line, "bytes")?,
                send: value(&line, "send")?,
                receive: value(&line, "receive")?,
                through: value(&line, "through")?,
            })
        })
        .collect();
    ensure!(!messages.is_empty(), "the program measured nothing");
    let look = lines("cost").find_map(|line| value(&line, "look"));
    Ok(Channels {
        machine: machine.name(),
        unit,
        messages,
        look: look.context("no cost of a look")?,
        exits,
    })
}

/// For people.
#[must_use]
pub fn channels_table(measured: &Channels) -> String {
    let unit = match measured.unit {
        Unit::Instructions => "instructions",
        Unit::Cycles => "TSC cycles (the clock does not count instructions here)",
    };
    let mut text = format!(
        "channels, {}, one core: {unit} for a message\n\
         bytes             send    receive    through\n",
        measured.machine
    );
    for cost in &measured.messages {
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{:<10}{:>12}{:>11}{:>11}",
            cost.bytes, cost.send, cost.receive, cost.through
        );
    }
    let _ = writeln!(
        text,
        "a look that finds nothing: {}; VM exits: {}",
        measured.look, measured.exits
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_lines() {
        let console: Vec<String> = [
            "messages: clock instructions=22 cycles=22",
            "messages: cost bytes=16 send=40 receive=50 through=90",
            "messages: cost look=5",
        ]
        .map(str::to_owned)
        .into();
        let measured = read(&console, MachineKind::Bochs, 0).unwrap();
        assert_eq!(measured.unit, Unit::Instructions);
        let text = channels_table(&measured);
        assert!(
            text.contains("16                  40         50         90\n"),
            "{text}"
        );
        assert!(text.ends_with("nothing: 5; VM exits: 0\n"), "{text}");
        for missing in 0..3 {
            let mut lines = console.clone();
            lines.remove(missing);
            assert!(read(&lines, MachineKind::Bochs, 0).is_err(), "{missing}");
        }
    }

    #[test]
    fn the_system_is_valid() {
        cloister_manifest::parse("bench".as_ref(), &system()).unwrap();
    }
}
