//! What `qemu-nested` and `bochs` have in common.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use xtask::report::Report;
use xtask::terminal::{RawMode, TerminalScreen, forward_keys, watch_signals};
use xtask::{Finished, Nic, Outcome, Run, report, system};

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// System file to boot [default: a demo: Linux and two partitions]
    #[arg(long, value_name = "FILE")]
    system: Option<PathBuf>,
    /// Boot the same Linux without Cloister, for comparison
    #[arg(long, conflicts_with = "system")]
    bare: bool,
    /// Cores of the machine [default: what the system file needs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: Option<u32>,
    /// Memory of the machine, e.g. 2G [default: what the system file needs]
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    memory: Option<u64>,
    /// Write the report, JSON, to FILE
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the consoles to linux.log, hypervisor.log and partition-NAME.log in
    /// FOLDER
    #[arg(long, value_name = "FOLDER")]
    consoles: Option<PathBuf>,
    /// Stop the machine after so long [default: none on a terminal]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// Run COMMAND in Linux with sh -c, then power off; its exit status is in
    /// the report and is ours
    #[arg(long, value_name = "COMMAND")]
    run: Option<String>,
    /// Put a kernel module and what it needs into the initramfs
    #[arg(long, value_name = "NAME")]
    module: Vec<String>,
    /// Name addresses in Linux's kernel by FILE: /proc/kallsyms as root sees it,
    /// or a System.map; of a kernel booted with nokaslr
    #[arg(long, value_name = "FILE")]
    symbols: Option<PathBuf>,
    /// Give the machine a network card: virtio, e1000 or e1000e, behind the
    /// user-mode network or what NETDEV says (QEMU's -netdev without the id,
    /// or ethmod=... of Bochs). In QEMU the first is 00:10.0, on Bochs 00:02.0
    #[arg(long, value_name = "MODEL[=NETDEV]")]
    nic: Vec<Nic>,
    /// Words for the hypervisor's own command line, such as apic=xapic
    #[arg(long, value_name = "WORDS", conflicts_with = "bare")]
    hypervisor: Option<String>,
    /// A further argument of QEMU, or a line of Bochs' bochsrc, such as
    /// 'cpu: model=corei7_haswell_4770'
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    machine_argument: Vec<String>,
    /// Do not install missing packages: name them
    #[arg(long)]
    no_install: bool,
}

fn parse_memory(text: &str) -> Result<u64> {
    system::parse_size(text)
}

impl RunOptions {
    /// Boots, shows, reports. `default` is the system when none is named.
    pub(crate) fn boot(
        self,
        default: PathBuf,
        configure: impl FnOnce(Run) -> Run,
    ) -> Result<ExitCode> {
        // A file named on the command line counts from where the user is.
        let mut run = match &self.system {
            _ if self.bare => Run::bare(),
            Some(path) => Run::new(system::System::File(path.clone())),
            None => Run::new(system::System::File(default)),
        };
        run = configure(run)
            .install(!self.no_install)
            .kernel_modules(self.module.iter());
        for nic in &self.nic {
            run = run.nic(nic.clone());
        }
        for argument in &self.machine_argument {
            run = run.machine_argument(argument);
        }
        if let Some(words) = &self.hypervisor {
            run = run.hypervisor_words(words);
        }
        if let Some(file) = &self.symbols {
            run = run.symbols(file);
        }
        if let Some(cpus) = self.cpus {
            run = run.cpus(cpus);
        }
        if let Some(memory) = self.memory {
            run = run.memory(memory);
        }
        if let Some(command) = &self.run {
            run = run.run_command(command);
        }
        let interactive = std::io::stdin().is_terminal() && self.run.is_none();
        match self.timeout {
            Some(seconds) => run = run.timeout(Duration::from_secs(seconds)),
            // A year: whoever sits at a terminal ends it.
            None if interactive => run = run.timeout(Duration::from_secs(365 * 86400)),
            None => {}
        }
        let finished = {
            let mut live = run.start()?;
            watch_signals(live.sender())?;
            let raw = RawMode::enter()?;
            if raw.is_some() {
                eprint!("Ctrl-A x ends the machine.\r\n");
                forward_keys(live.sender());
            }
            live.show(Box::new(TerminalScreen::new(raw.is_some())));
            live.finish()?
        };
        let report = &finished.report;
        let mut table = String::new();
        report::print(report, &mut table)?;
        print!("{table}");
        if let Some(path) = &self.report {
            std::fs::write(path, report.to_json()?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        if let Some(folder) = &self.consoles {
            write_consoles(&finished, folder)
                .with_context(|| format!("cannot write to {}", folder.display()))?;
        }
        if report.outcome != Outcome::Completed {
            eprintln!("{}", finished.machine_log);
        }
        Ok(exit_code(report, self.run.is_some()))
    }
}

fn write_consoles(finished: &Finished, folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text);
    write("linux.log", &finished.linux_console)?;
    write("hypervisor.log", &finished.hypervisor_console)?;
    for partition in &finished.report.partitions {
        let mut text = partition.console.join("\n");
        text.push('\n');
        write(&format!("partition-{}.log", partition.name), &text)?;
    }
    Ok(())
}

/// The command's status if there was a command; else 0 for a completed run.
fn exit_code(report: &Report, with_command: bool) -> ExitCode {
    match report.outcome {
        Outcome::Completed if with_command => {
            let status = report.linux.as_ref().and_then(|linux| linux.run_status);
            status
                .and_then(|status| u8::try_from(status).ok())
                .map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Outcome::Completed | Outcome::Interrupted => ExitCode::SUCCESS,
        Outcome::Timeout => ExitCode::from(124),
        Outcome::HypervisorPanic => ExitCode::FAILURE,
    }
}
