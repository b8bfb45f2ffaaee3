//! What to boot, and where.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use xtask::{Accel, Clock, Iommu, MachineKind, Nic, Run};

use crate::ended::Ended;
use crate::running::Running;

/// A system to be booted. Nothing happens before [`System::start`] or one of
/// the calls that end in a run.
#[derive(Clone, Debug)]
pub struct System {
    what: What,
    programs: Vec<(String, PathBuf)>,
    configure: Vec<Setting>,
    deadline: Duration,
}

#[derive(Clone, Debug)]
enum What {
    Text(String),
    File(PathBuf),
    Bare(String),
}

/// What is said about the run, in order.
#[derive(Clone, Debug)]
enum Setting {
    Machine(MachineKind),
    Accel(Accel),
    Iommu(Iommu),
    Clock(Clock),
    Nic(Nic),
    WithoutHypervisor,
    Cores(u32),
    Yielding(u32),
    Memory(u64),
    KernelModule(String),
    LinuxFile(String, u32, Vec<u8>),
    WithoutModule(String),
    ManifestBlob(Vec<u8>),
    HypervisorWords(String),
    MachineArgument(String),
    Symbols(PathBuf),
    Witness,
}

/// The system whose file would have this text: TOML, or what
/// [`crate::partitions`] and [`crate::with_linux`] compose.
#[must_use]
pub fn system(text: impl Into<String>) -> System {
    System::new(What::Text(text.into()))
}

/// The system file at `path`; a relative one counts from the working
/// directory, which for `cargo test` is the package's folder.
#[must_use]
pub fn system_file(path: impl Into<PathBuf>) -> System {
    System::new(What::File(path.into()))
}

/// Linux alone, straight from GRUB, without Cloister: for comparison.
#[must_use]
pub fn bare() -> System {
    bare_with("")
}

/// The same, with these words added to the kernel command line.
#[must_use]
pub fn bare_with(words: &str) -> System {
    System::new(What::Bare(words.into()))
}

impl System {
    /// Wall time that a run may take unless [`System::deadline`] says more.
    const DEADLINE: Duration = Duration::from_secs(60);

    fn new(what: What) -> Self {
        Self {
            what,
            programs: Vec::new(),
            configure: Vec::new(),
            deadline: Self::DEADLINE,
        }
    }

    fn with(mut self, setting: Setting) -> Self {
        self.configure.push(setting);
        self
    }

    /// On which machine. Default: QEMU.
    #[must_use]
    pub fn machine(self, machine: MachineKind) -> Self {
        self.with(Setting::Machine(machine))
    }

    /// How QEMU runs it. Default: KVM where it can nest, else TCG.
    #[must_use]
    pub fn accel(self, accel: Accel) -> Self {
        self.with(Setting::Accel(accel))
    }

    /// Puts an IOMMU into it: QEMU only. Default: none.
    #[must_use]
    pub fn iommu(self, iommu: Iommu) -> Self {
        self.with(Setting::Iommu(iommu))
    }

    /// Cores of the machine. Default: as many as the system names, in QEMU at
    /// least 4.
    #[must_use]
    pub fn cores(self, cores: u32) -> Self {
        self.with(Setting::Cores(cores))
    }

    /// Core `core` lets the others run first where the host has fewer processors
    /// than the machine: for partitions that only compute ([`xtask::Run::yielding`]).
    /// QEMU only.
    #[must_use]
    pub fn yielding(self, core: u32) -> Self {
        self.with(Setting::Yielding(core))
    }

    /// Bytes of memory of the machine. Default: enough, at least 1 GiB.
    #[must_use]
    pub fn memory(self, bytes: u64) -> Self {
        self.with(Setting::Memory(bytes))
    }

    /// Wall time, in seconds, after which the machine is stopped and the
    /// outcome is `timeout`. Default: 60.
    #[must_use]
    pub fn deadline(mut self, seconds: u64) -> Self {
        self.deadline = Duration::from_secs(seconds);
        self
    }

    /// The ELF file that `name` stands for where the system says
    /// `program = "name"`, for programs outside Cloister's repository.
    #[must_use]
    pub fn program(mut self, name: &str, elf: impl Into<PathBuf>) -> Self {
        self.programs.push((name.into(), elf.into()));
        self
    }

    /// What makes QEMU's time pass. Default: the host's time.
    #[must_use]
    pub fn clock(self, clock: Clock) -> Self {
        self.with(Setting::Clock(clock))
    }

    /// Adds a network card: see [`net::Cable`](crate::net::Cable) for its other end. The
    /// first is 00:10.0 in QEMU, 00:02.0 on Bochs, the next one device higher.
    #[must_use]
    pub fn nic(self, nic: Nic) -> Self {
        self.with(Setting::Nic(nic))
    }

    /// Starts the system's one program on the bare machine, without Cloister,
    /// for comparison.
    #[must_use]
    pub fn without_hypervisor(self) -> Self {
        self.with(Setting::WithoutHypervisor)
    }

    /// Adds a kernel module to Linux's initramfs, for `modprobe`.
    #[must_use]
    pub fn kernel_module(self, name: &str) -> Self {
        self.with(Setting::KernelModule(name.into()))
    }

    /// Adds a file to Linux's initramfs (no leading slash; permission bits).
    #[must_use]
    pub fn linux_file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.with(Setting::LinuxFile(path.into(), mode, content.into()))
    }

    /// Leaves a module that the manifest names out of the image.
    #[must_use]
    pub fn without_module(self, name: &str) -> Self {
        self.with(Setting::WithoutModule(name.into()))
    }

    /// Puts these bytes into the image instead of the compiled manifest.
    #[must_use]
    pub fn manifest_blob(self, bytes: Vec<u8>) -> Self {
        self.with(Setting::ManifestBlob(bytes))
    }

    /// Adds words to the hypervisor's own command line, such as
    /// `fault=stack` (`hypervisor/src/arch/provoke.rs`).
    #[must_use]
    pub fn hypervisor_words(self, words: &str) -> Self {
        self.with(Setting::HypervisorWords(words.into()))
    }

    /// Adds a command line argument of QEMU, or a line of Bochs' bochsrc.
    #[must_use]
    pub fn machine_argument(self, argument: &str) -> Self {
        self.with(Setting::MachineArgument(argument.into()))
    }

    /// Names addresses in Linux's kernel by `file`: what /proc/kallsyms shows
    /// root, or a System.map; of a kernel booted with `nokaslr`.
    #[must_use]
    pub fn symbols(self, file: impl Into<PathBuf>) -> Self {
        self.with(Setting::Symbols(file.into()))
    }

    /// Lets the machine itself write down every VM exit, for
    /// [`Ended::testimony`]. Under QEMU only with [`Accel::Tcg`].
    #[must_use]
    pub fn witness(self) -> Self {
        self.with(Setting::Witness)
    }

    /// Boots, runs `command` in Linux with `sh -c`, powers off.
    ///
    /// # Errors
    /// As [`System::start`]. A bad end is no error: ask [`Ended::completed`].
    pub fn run(self, command: &str) -> Result<Ended> {
        self.boot(Some(command))?.finish()
    }

    /// Boots and waits for the end: all partitions over and no Linux, or a
    /// Linux that powers off by itself.
    ///
    /// # Errors
    /// As [`System::start`]. A bad end is no error: ask [`Ended::completed`].
    pub fn run_to_end(self) -> Result<Ended> {
        self.boot(None)?.finish()
    }

    /// Boots, and waits until the hypervisor says that it cannot start.
    ///
    /// # Errors
    /// As [`System::start`]; or it does not say so.
    pub fn run_refused(self) -> Result<Ended> {
        self.boot(None)?.finish_refused()
    }

    /// Boots; Linux gives a shell.
    ///
    /// # Errors
    /// The system is wrong, something does not build, a tool is missing, or
    /// the machine does not start.
    pub fn start(self) -> Result<Running> {
        self.boot(None)
    }

    /// [`System::start`], with a command that Linux runs before it powers off.
    ///
    /// # Errors
    /// As [`System::start`].
    pub fn start_with(self, command: &str) -> Result<Running> {
        self.boot(Some(command))
    }

    fn boot(self, command: Option<&str>) -> Result<Running> {
        let mut folder = None;
        let mut run = match &self.what {
            What::Bare(words) => Run::bare_with(words),
            What::Text(text) if self.programs.is_empty() => Run::toml(text),
            What::Text(text) => {
                let made = tempfile::tempdir()?;
                let file = made.path().join("system.toml");
                std::fs::write(&file, text)?;
                copy_programs(&self.programs, made.path())?;
                folder = Some(made);
                Run::file(file)
            }
            What::File(file) => {
                let file = std::path::absolute(file)?;
                let beside = file.parent().unwrap_or(Path::new("/"));
                copy_programs(&self.programs, beside)?;
                Run::file(file)
            }
        };
        for setting in self.configure {
            run = apply(run, setting);
        }
        run = run.timeout(self.deadline);
        if let Some(command) = command {
            run = run.run_command(command);
        }
        let live = run.start()?;
        drop::<Option<TempDir>>(folder);
        Ok(Running::new(live))
    }
}

fn copy_programs(programs: &[(String, PathBuf)], folder: &Path) -> Result<()> {
    for (name, elf) in programs {
        let to = folder.join(name);
        std::fs::copy(elf, &to)
            .with_context(|| format!("cannot copy {} to {}", elf.display(), to.display()))?;
    }
    Ok(())
}

fn apply(run: Run, setting: Setting) -> Run {
    match setting {
        Setting::Machine(machine) => run.machine(machine),
        Setting::Accel(accel) => run.accel(accel),
        Setting::Iommu(iommu) => run.iommu(iommu),
        Setting::Clock(clock) => run.clock(clock),
        Setting::Nic(nic) => run.nic(nic),
        Setting::WithoutHypervisor => run.without_hypervisor(),
        Setting::Cores(cores) => run.cpus(cores),
        Setting::Yielding(core) => run.yielding(core),
        Setting::Memory(bytes) => run.memory(bytes),
        Setting::KernelModule(name) => run.kernel_modules([name]),
        Setting::LinuxFile(path, mode, content) => run.linux_file(&path, mode, &content),
        Setting::WithoutModule(name) => run.without_module(&name),
        Setting::ManifestBlob(bytes) => run.manifest_blob(bytes),
        Setting::HypervisorWords(words) => run.hypervisor_words(&words),
        Setting::MachineArgument(argument) => run.machine_argument(argument),
        Setting::Symbols(file) => run.symbols(file),
        Setting::Witness => run.witness(true),
    }
}
