//! `cargo xtask bench`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::json;
use xtask::MachineKind;
use xtask::bench::{channels, channels_table, forwarding, forwarding_table, measure, table};

/// Measure what exits cost, in instructions, beside what they cost others; what
/// messages through channels cost; and how fast frames are forwarded, beside
/// the bare machine.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where: QEMU has AMD SVM, Bochs Intel VMX
    #[arg(long, value_enum, default_value_t = Machines::All)]
    machine: Machines,
    /// Measure this alone
    #[arg(long, value_enum)]
    only: Option<Subject>,
    /// Write the figures, JSON, to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Do not install missing packages: name them
    #[arg(long)]
    no_install: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// What exits cost
    Exits,
    /// What a message through a channel costs
    Channels,
    /// Frames through l2fwd, in QEMU
    L2fwd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Machines {
    Qemu,
    Bochs,
    All,
}

impl Machines {
    fn list(self) -> &'static [MachineKind] {
        match self {
            Self::Qemu => &[MachineKind::Qemu],
            Self::Bochs => &[MachineKind::Bochs],
            Self::All => &[MachineKind::Qemu, MachineKind::Bochs],
        }
    }
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let mut measurements = Vec::new();
        let mut code = ExitCode::SUCCESS;
        let wants = |subject| self.only.is_none_or(|only| only == subject);
        let exits = self.machine.list().iter();
        for &machine in exits.filter(|_| wants(Subject::Exits)) {
            match measure(machine, !self.no_install) {
                Ok(measurement) => {
                    println!("{}", table(&measurement));
                    measurements.push(measurement);
                }
                // The other machine's figures are worth having.
                Err(error) => {
                    eprintln!("error: {}: {error:#}", machine.name());
                    code = ExitCode::FAILURE;
                }
            }
        }
        let mut messages = Vec::new();
        let machines = self.machine.list().iter();
        for &machine in machines.filter(|_| wants(Subject::Channels)) {
            let measured = channels(machine, !self.no_install)?;
            println!("{}", channels_table(&measured));
            messages.push(measured);
        }
        let mut forwarded = Vec::new();
        if wants(Subject::L2fwd) && self.machine != Machines::Bochs {
            forwarded = forwarding(!self.no_install)?;
            println!("{}", forwarding_table(&forwarded));
        }
        if let Some(path) = &self.json {
            let report = json!({
                "schema": 1, "machines": measurements, "channels": messages, "forwarding": forwarded
            });
            std::fs::write(path, format!("{report:#}\n"))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(code)
    }
}
