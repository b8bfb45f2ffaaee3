//! `cargo xtask image`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use xtask::image::{Recipe, make};
use xtask::system::{BARE_COMMAND_LINE, System};
use xtask::{paths, tools};

/// Make the bootable ISO, for a USB stick or another VM.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// System file [default: the demo]
    #[arg(long, value_name = "FILE")]
    system: Option<PathBuf>,
    /// The same Linux without Cloister, for comparison
    #[arg(long, conflicts_with = "system")]
    bare: bool,
    /// Where to [default: target/images/NAME.iso]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Run COMMAND in Linux with sh -c, then power off
    #[arg(long, value_name = "COMMAND")]
    run: Option<String>,
    /// Put a kernel module and what it needs into the initramfs
    #[arg(long, value_name = "NAME")]
    module: Vec<String>,
    /// Do not install missing packages: name them
    #[arg(long)]
    no_install: bool,
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode> {
        tools::ensure(&[tools::IMAGE], !self.no_install)?;
        let system = match self.system {
            _ if self.bare => System::Bare(BARE_COMMAND_LINE.into()),
            Some(path) => System::File(path),
            None => System::File(paths::demo()),
        };
        let images = paths::images();
        fs::create_dir_all(&images)?;
        let out = self
            .out
            .unwrap_or_else(|| images.join(format!("{}.iso", system.name())));
        let folder = tempfile::tempdir_in(&images)?;
        let mut recipe = Recipe::new(system);
        recipe.run = self.run;
        recipe.kernel_modules = self.module;
        let image = make(&recipe, folder.path())?;
        fs::copy(&image.iso, &out).with_context(|| format!("cannot write {}", out.display()))?;
        println!("{}", out.display());
        Ok(ExitCode::SUCCESS)
    }
}
