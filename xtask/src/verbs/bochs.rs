//! `cargo xtask bochs`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use xtask::{MachineKind, paths};

use super::run_options::RunOptions;

/// Boot the same image in Bochs: Intel VMX and EPT, deterministic, slow.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: RunOptions,
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode> {
        self.options
            .boot(paths::demo_bochs(), |run| run.machine(MachineKind::Bochs))
    }
}
