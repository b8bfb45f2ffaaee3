//! What is to be booted: a system file, or Linux without Cloister.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cloister_manifest::{Console, Manifest, ModuleKind, Size};

use crate::paths;

/// The kernel's module name for Debian's kernel, fetched by us.
pub const KERNEL: &str = "vmlinuz";
/// The initrd's module name for the one made by us.
pub const INITRD: &str = "initrd.img";
/// Kernel command line of [`System::Bare`].
pub const BARE_COMMAND_LINE: &str = "console=ttyS0";

/// A system to boot.
#[derive(Clone, Debug)]
pub enum System {
    /// A system file.
    File(PathBuf),
    /// The text of a system file; files it names are looked for in
    /// `partitions/`.
    Inline(String),
    /// The same Linux straight from GRUB, without Cloister, with this kernel
    /// command line: for comparison.
    Bare(String),
}

/// A system file, read and validated.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Its content.
    pub manifest: Manifest,
    /// Where the files it names are.
    pub folder: PathBuf,
}

impl System {
    /// Reads and validates the system file. [`None`] for a bare system.
    ///
    /// # Errors
    /// Each with file, line, key and what would be right.
    pub fn load(&self) -> Result<Option<Loaded>> {
        match self {
            Self::File(path) => {
                let manifest = accept(cloister_manifest::load(path)?);
                let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
                Ok(Some(Loaded { manifest, folder }))
            }
            Self::Inline(text) => {
                let parsed = cloister_manifest::parse(Path::new("inline"), text)?;
                Ok(Some(Loaded {
                    manifest: accept(parsed),
                    folder: paths::root().join("partitions"),
                }))
            }
            Self::Bare(_) => Ok(None),
        }
    }

    /// A short name for messages and folders.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.file_stem().map_or_else(
                || "system".into(),
                |stem| stem.to_string_lossy().into_owned(),
            ),
            Self::Inline(_) => "inline".into(),
            Self::Bare(_) => "bare".into(),
        }
    }
}

/// Prints the warnings.
fn accept(parsed: cloister_manifest::Loaded) -> Manifest {
    for warning in &parsed.warnings {
        eprintln!("{warning}");
    }
    parsed.manifest
}

impl Loaded {
    /// Cores that the machine must have: one more than the highest named.
    #[must_use]
    pub fn cpus(&self) -> u32 {
        let linux = self.manifest.linux.iter().map(|linux| linux.cpus);
        let partitions = self.manifest.partitions.iter().map(|p| p.cpus);
        linux
            .chain(partitions)
            .filter_map(cloister_manifest::CpuSet::last)
            .max()
            .and_then(|last| u32::try_from(last + 1).ok())
            .unwrap_or(1)
    }

    /// Bytes of memory with which it surely boots: what it names, room for
    /// alignment, and 512 MiB for Linux. A multiple of 256 MiB.
    #[must_use]
    pub fn memory(&self) -> u64 {
        const MIB: u64 = 1 << 20;
        let manifest = &self.manifest;
        let partitions: u64 = manifest
            .partitions
            .iter()
            .map(|partition| partition.memory.saturating_add(2 * MIB))
            .sum();
        let channels: u64 = manifest.channels.iter().map(|channel| channel.size).sum();
        let linux = if manifest.linux.is_some() {
            512 * MIB
        } else {
            0
        };
        let total = manifest.hypervisor.memory + partitions + channels + linux + 64 * MIB;
        total.next_multiple_of(256 * MIB)
    }

    /// The serial ports (0 is COM1) of Linux's console and the hypervisor's.
    ///
    /// # Errors
    /// The hypervisor has no port of its own, so that nobody could read its
    /// records.
    pub fn serial_ports(&self) -> Result<SerialPorts> {
        let console = self.manifest.hypervisor.console;
        let hypervisor = console.tty().map(usize::from);
        match hypervisor {
            Some(0) if self.manifest.linux.is_some() => bail!(
                "hypervisor.console = \"com1\" is Linux's console too; a run that is to be \
                 reported needs another, e.g. \"com2\""
            ),
            Some(0) => Ok(SerialPorts {
                linux: 1,
                hypervisor: 0,
            }),
            Some(port) => Ok(SerialPorts {
                linux: 0,
                hypervisor: port,
            }),
            None => bail!(
                "hypervisor.console = \"{}\": a run is reported on a serial port, e.g. \"com2\"",
                Console::None.name()
            ),
        }
    }

    /// Where the file of a module comes from.
    ///
    /// # Errors
    /// It is neither a program of this workspace nor beside the system file.
    pub fn source(&self, kind: ModuleKind, name: &str) -> Result<Source> {
        let beside = self.folder.join(name);
        let exists = beside.is_file();
        match kind {
            ModuleKind::Kernel if name == KERNEL && !exists => Ok(Source::DebianKernel),
            ModuleKind::Initrd if name == INITRD && !exists => Ok(Source::OwnInitramfs),
            ModuleKind::Program => {
                let stem = name.strip_suffix(".elf").unwrap_or(name);
                let built = crate::build::everything()?;
                match built.programs.get(stem) {
                    Some(elf) => Ok(Source::Program(elf.clone())),
                    None if exists => Ok(Source::Program(beside)),
                    None => {
                        let known: Vec<&str> = built.programs.keys().map(String::as_str).collect();
                        bail!(
                            "program \"{name}\" is neither a program of this workspace ({}) \
                             nor the file {}",
                            known.join(", "),
                            beside.display()
                        )
                    }
                }
            }
            _ if exists => Ok(Source::File(beside)),
            _ => bail!(
                "the {} \"{name}\" is not at {}; \"{}\" stands for the one that is fetched or \
                 made for you",
                kind.describe(),
                beside.display(),
                if kind == ModuleKind::Kernel {
                    KERNEL
                } else {
                    INITRD
                },
            ),
        }
    }
}

/// Numbers of serial ports, 0 is COM1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialPorts {
    /// Linux's console.
    pub linux: usize,
    /// The hypervisor's console.
    pub hypervisor: usize,
}

/// Where a module's bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Debian's cloud kernel.
    DebianKernel,
    /// The initramfs made by guest-linux.
    OwnInitramfs,
    /// An ELF program with its symbols.
    Program(PathBuf),
    /// A file as it is.
    File(PathBuf),
}

/// Reads `64K`, `64M` or `2G`.
///
/// # Errors
/// It is no such size.
pub fn parse_size(text: &str) -> Result<u64> {
    Size::parse(text)
        .map(|size| size.0)
        .with_context(|| format!("\"{text}\" is no size; write e.g. 512M or 2G"))
}
