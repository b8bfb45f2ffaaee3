//! `cargo xtask check`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

/// Validate a system file; without FILE all in partitions/, and the
/// workspace's own rules.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// System file
    file: Option<PathBuf>,
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let complaints = match &self.file {
            Some(file) => xtask::check::system_files(std::slice::from_ref(file)),
            None => xtask::check::everything()?,
        };
        for complaint in &complaints {
            eprintln!("{complaint}");
        }
        Ok(if complaints.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}
