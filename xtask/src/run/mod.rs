//! One boot of one system on one machine, from image to report.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::image::{self, Recipe};
use crate::kvm::Choice;
use crate::machine::{Accel, Clock, Iommu, MachineKind, Nic, Setup, Testimony, qemu};
use crate::report::{Fold, Report};
use crate::symbols::Symbols;
use crate::system::{Loaded, SerialPorts, System};
use crate::{paths, tools};

mod live;
#[cfg(test)]
mod tests;

pub use live::{Live, Screen};

/// One of the consoles of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    /// Linux's, on COM1.
    Linux,
    /// The hypervisor's text, without its records.
    Hypervisor,
    /// A partition's.
    Partition(String),
}

/// A run to be. Nothing happens before [`Run::start`] or [`Run::finish`].
#[derive(Clone, Debug)]
pub struct Run {
    recipe: Recipe,
    machine: MachineKind,
    accel: Accel,
    iommu: Option<Iommu>,
    clock: Clock,
    yielding: Vec<u32>,
    cpus: Option<u32>,
    memory: Option<u64>,
    timeout: Option<Duration>,
    nics: Vec<Nic>,
    machine_arguments: Vec<String>,
    witness: bool,
    symbols: Option<PathBuf>,
    install: bool,
}

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The report.
    pub report: Report,
    /// What came from COM1: Linux's console.
    pub linux_console: String,
    /// The hypervisor's text for people.
    pub hypervisor_console: String,
    /// What the virtual machine's own program said.
    pub machine_log: String,
    /// What the outside witness saw, if there was one; see [`Run::witness`].
    pub testimony: Option<Testimony>,
}

impl Run {
    /// Boots `system` in QEMU, accelerated if possible.
    #[must_use]
    pub fn new(system: System) -> Self {
        Self {
            recipe: Recipe::new(system),
            machine: MachineKind::Qemu,
            accel: Accel::Auto,
            iommu: None,
            clock: Clock::Host,
            yielding: Vec::new(),
            cpus: None,
            memory: None,
            timeout: None,
            nics: Vec::new(),
            machine_arguments: Vec::new(),
            witness: false,
            symbols: None,
            install: true,
        }
    }

    /// Boots a system file; a relative path counts from the repository's top.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::new(System::File(paths::root().join(path.into())))
    }

    /// Boots the system whose file would have this text.
    #[must_use]
    pub fn toml(text: impl Into<String>) -> Self {
        Self::new(System::Inline(text.into()))
    }

    /// Boots Linux alone, straight from GRUB, without Cloister.
    #[must_use]
    pub fn bare() -> Self {
        Self::new(System::Bare(crate::system::BARE_COMMAND_LINE.into()))
    }

    /// The same with these words added to the kernel command line.
    #[must_use]
    pub fn bare_with(words: &str) -> Self {
        Self::new(System::Bare(format!(
            "{} {words}",
            crate::system::BARE_COMMAND_LINE
        )))
    }

    /// On which machine. Default: QEMU.
    #[must_use]
    pub fn machine(mut self, machine: MachineKind) -> Self {
        self.machine = machine;
        self
    }

    /// How QEMU runs it. Default: [`Accel::Auto`].
    #[must_use]
    pub fn accel(mut self, accel: Accel) -> Self {
        self.accel = accel;
        self
    }

    /// Puts an IOMMU into it: QEMU only. Default: none.
    #[must_use]
    pub fn iommu(mut self, iommu: Iommu) -> Self {
        self.iommu = Some(iommu);
        self
    }

    /// What makes its time pass. Default: [`Clock::Host`].
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Core `core` lets the others run first where the host has fewer processors
    /// than QEMU's machine. That is for a program which only computes: one that
    /// reads the TSC without a pause holds the lock around QEMU's clock most of
    /// the time, and then everybody waits for it.
    #[must_use]
    pub fn yielding(mut self, core: u32) -> Self {
        self.yielding.push(core);
        self
    }

    /// Cores of the machine. Default: as many as the system names, in QEMU at
    /// least 4 (a bare run: 2).
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = Some(cpus);
        self
    }

    /// Bytes of memory. Default: enough for the system, at least 1 GiB.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Runs `command` in Linux with `sh -c`, then powers off.
    #[must_use]
    pub fn run_command(mut self, command: impl Into<String>) -> Self {
        self.recipe.run = Some(command.into());
        self
    }

    /// Wall time after which the machine is stopped, outcome `timeout`.
    /// Default: 10 minutes on QEMU, an hour on Bochs.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Adds kernel modules to our initramfs; see
    /// [`guest_linux::initramfs::DEFAULT_MODULES`] for those that are there.
    #[must_use]
    pub fn kernel_modules<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.recipe
            .kernel_modules
            .extend(names.into_iter().map(Into::into));
        self
    }

    /// Adds a file to our initramfs (no leading slash; permission bits).
    #[must_use]
    pub fn linux_file(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.recipe
            .files
            .push((path.to_owned(), mode, content.to_vec()));
        self
    }

    /// Leaves a module that the manifest names out of the image.
    #[must_use]
    pub fn without_module(mut self, name: &str) -> Self {
        self.recipe.omit = Some(name.to_owned());
        self
    }

    /// Puts these bytes into the image instead of the compiled manifest.
    #[must_use]
    pub fn manifest_blob(mut self, bytes: Vec<u8>) -> Self {
        self.recipe.manifest_blob = Some(bytes);
        self
    }

    /// Adds words to the hypervisor's own command line, which has `console=`.
    #[must_use]
    pub fn hypervisor_words(mut self, words: &str) -> Self {
        words.clone_into(&mut self.recipe.hypervisor_words);
        self
    }

    /// Starts the system's one program on the bare machine, without the
    /// hypervisor, for comparison: see `partitions/bare`.
    #[must_use]
    pub fn without_hypervisor(mut self) -> Self {
        self.recipe.without_hypervisor = true;
        self
    }

    /// Gives the machine a network card; the first in device 16 of bus 0 in
    /// QEMU, in device 2 on Bochs.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// Adds a command line argument of QEMU, or a line of Bochs' bochsrc.
    #[must_use]
    pub fn machine_argument(mut self, argument: impl Into<String>) -> Self {
        self.machine_arguments.push(argument.into());
        self
    }

    /// Lets the machine itself write down every VM exit, for
    /// [`Finished::testimony`]: slower on Bochs; on QEMU only under TCG.
    /// Default: no.
    #[must_use]
    pub fn witness(mut self, witness: bool) -> Self {
        self.witness = witness;
        self
    }

    /// Whether missing Debian packages may be installed. Default: yes.
    #[must_use]
    pub fn install(mut self, install: bool) -> Self {
        self.install = install;
        self
    }

    /// Builds, makes the image and starts the machine.
    ///
    /// # Errors
    /// The system file is wrong, something does not build, a tool is missing,
    /// or the machine does not start.
    pub fn start(self) -> Result<Live> {
        let machine_needs = match self.machine {
            MachineKind::Qemu => tools::QEMU,
            MachineKind::Bochs => tools::BOCHS,
        };
        tools::ensure(&[tools::IMAGE, machine_needs], self.install)?;
        let images = paths::images();
        std::fs::create_dir_all(&images)?;
        sweep(&images);
        let folder = tempfile::Builder::new()
            .prefix(&format!(
                "{}-{}-",
                self.recipe.system.name(),
                std::process::id()
            ))
            .tempdir_in(images)?;
        let image = image::make(&self.recipe, folder.path())?;

        let cpus = self
            .cpus
            .unwrap_or_else(|| self.default_cpus(image.loaded.as_ref()));
        let memory = self.memory.unwrap_or_else(|| {
            let named = image.loaded.as_ref().map_or(0, Loaded::memory);
            named.max(1 << 30)
        });
        let ports = match &image.loaded {
            Some(loaded) => loaded.serial_ports()?,
            None => SerialPorts {
                linux: 0,
                hypervisor: 1,
            },
        };
        let kernel_symbols = match &self.symbols {
            Some(file) => Some(Symbols::read_kernel(file)?),
            None => None,
        };
        let accel = match self.machine {
            MachineKind::Bochs => "emulated",
            MachineKind::Qemu => match qemu::choice(self.accel)? {
                Choice::Kvm(_) => "kvm",
                Choice::Tcg(_) => "tcg",
            },
        };
        let mut fold = Fold::new(
            image.loaded.as_ref().map(|loaded| &loaded.manifest),
            self.machine.name(),
            accel,
            cpus,
            image.programs,
        );
        fold.kernel_symbols(kernel_symbols);
        let child = self.machine.start(&Setup {
            iso: &image.iso,
            cpus,
            memory,
            yielding: &self.yielding,
            accel: self.accel,
            iommu: self.iommu,
            clock: self.clock,
            ports,
            witness: self.witness,
            nics: &self.nics,
            extra: &self.machine_arguments,
        })?;
        let timeout = self.timeout.unwrap_or(self.machine.patience());
        Ok(Live::new(
            child,
            fold,
            timeout,
            self.machine.grace(),
            image.hypervisor,
            folder,
        ))
    }

    /// Names addresses in Linux's kernel by `file`: see
    /// [`Symbols::read_kernel`].
    #[must_use]
    pub fn symbols(mut self, file: impl Into<PathBuf>) -> Self {
        self.symbols = Some(file.into());
        self
    }

    /// [`Run::start`], then waits for the end.
    ///
    /// # Errors
    /// As [`Run::start`]. A timeout, a violation or a hypervisor that gives up
    /// is no error: the report says so.
    pub fn finish(self) -> Result<Finished> {
        self.start()?.finish()
    }

    fn default_cpus(&self, loaded: Option<&Loaded>) -> u32 {
        let least = match self.machine {
            MachineKind::Qemu => 4,
            // Each core of Bochs costs minutes.
            MachineKind::Bochs => 1,
        };
        loaded.map_or(2, |loaded| loaded.cpus().max(least))
    }
}

/// Removes the folders of runs that were killed: NAME-PROCESS-RANDOM, of
/// processes that are no more.
fn sweep(images: &Path) {
    let entries = std::fs::read_dir(images).into_iter().flatten();
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let process: Option<u32> = name.rsplit('-').nth(1).and_then(|id| id.parse().ok());
        if let Some(process) = process
            && !Path::new("/proc").join(process.to_string()).exists()
        {
            // Another process may be sweeping too.
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

impl Finished {
    /// Fails unless the run completed, with the consoles' last lines.
    ///
    /// # Errors
    /// The outcome is another.
    pub fn completed(self) -> Result<Self> {
        let outcome = self.report.outcome;
        if outcome == crate::Outcome::Completed {
            return Ok(self);
        }
        let tails = self.tails(30);
        Err(anyhow::anyhow!(
            "{} ({})\n{tails}",
            outcome.name(),
            self.report.detail
        ))
        .context("the run did not complete")
    }

    /// The last `lines` lines of each console, for messages.
    #[must_use]
    pub fn tails(&self, lines: usize) -> String {
        let mut text = String::new();
        let consoles = [
            ("linux", &self.linux_console),
            ("hypervisor", &self.hypervisor_console),
            ("machine", &self.machine_log),
        ];
        for (name, console) in consoles {
            tail(&mut text, name, &console.lines().collect::<Vec<_>>(), lines);
        }
        for partition in &self.report.partitions {
            let console: Vec<&str> = partition.console.iter().map(String::as_str).collect();
            tail(&mut text, &partition.name, &console, lines);
        }
        text
    }
}

/// Appends the end of one console.
pub(crate) fn tail(text: &mut String, name: &str, console: &[&str], lines: usize) {
    let from = console.len().saturating_sub(lines);
    // Writing to a String does not fail.
    let _ = writeln!(text, "--- {name}: last {} lines", console.len() - from);
    for line in console.iter().skip(from) {
        let _ = writeln!(text, "{line}");
    }
}
