//! What is to be booted: a system file, or Linux without Cloister.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use cloister_manifest::{Console, Manifest, ModuleKind, Problem, Size};

use crate::{build, paths};

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
                let parsed = cloister_manifest::load(path)?;
                accept(parsed, path.parent().unwrap_or(Path::new(""))).map(Some)
            }
            Self::Inline(text) => {
                let parsed = cloister_manifest::parse(Path::new("inline"), text)?;
                accept(parsed, &paths::root().join("partitions")).map(Some)
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

/// Prints the warnings and looks for the modules.
fn accept(parsed: cloister_manifest::Loaded, folder: &Path) -> Result<Loaded> {
    for warning in &parsed.warnings {
        eprintln!("{warning}");
    }
    let loaded = Loaded {
        manifest: parsed.manifest.clone(),
        folder: folder.to_owned(),
    };
    let programs = build::programs()?;
    let mut complaints = Vec::new();
    for (kind, name) in loaded.manifest.modules() {
        if let Err(error) = loaded.source(kind, name, &programs) {
            let key = key(&loaded.manifest, kind, name);
            let problem = Problem::error(format_args!("{key}"), format_args!("{error}"));
            complaints.push(parsed.diagnose(&problem).to_string());
        }
    }
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    Ok(loaded)
}

/// The key that first names a module.
fn key(manifest: &Manifest, kind: ModuleKind, name: &str) -> String {
    match kind {
        ModuleKind::Kernel => "linux.kernel".into(),
        ModuleKind::Initrd => "linux.initrd".into(),
        ModuleKind::Program => {
            let index = manifest.partitions.iter().position(|p| p.program == name);
            format!("partition[{}].program", index.unwrap_or(0))
        }
    }
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
    /// It is neither one of `programs` (those of this workspace) nor beside
    /// the system file.
    pub fn source(
        &self,
        kind: ModuleKind,
        name: &str,
        programs: &BTreeMap<String, PathBuf>,
    ) -> Result<Source> {
        let beside = self.folder.join(name);
        let exists = beside.is_file();
        match kind {
            ModuleKind::Kernel if name == KERNEL && !exists => Ok(Source::DebianKernel),
            ModuleKind::Initrd if name == INITRD && !exists => Ok(Source::OwnInitramfs),
            ModuleKind::Program => {
                let stem = name.strip_suffix(".elf").unwrap_or(name);
                match programs.get(stem) {
                    Some(elf) => Ok(Source::Program(elf.clone())),
                    None if exists => Ok(Source::Program(beside)),
                    None => {
                        let known: Vec<&str> = programs.keys().map(String::as_str).collect();
                        bail!(
                            "\"{name}\" is neither a program of this workspace ({}) nor \
                             the file {}; name one of them",
                            known.join(", "),
                            beside.display()
                        )
                    }
                }
            }
            _ if exists => Ok(Source::File(beside)),
            _ => bail!(
                "there is no file {}; \"{}\" stands for the one that is fetched or made for you",
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

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEM: &str = r#"
[linux]
cpus = [0]
kernel = "vmlinuz"
initrd = "initrd.img"
cmdline = "console=ttyS0"

[[partition]]
name = "a"
cpus = [5]
memory = "300M"
program = "spin.elf"
"#;

    fn inline(text: &str) -> Result<Loaded> {
        System::Inline(text.to_owned()).load().map(Option::unwrap)
    }

    #[test]
    fn sizes_of_the_machine() {
        let loaded = inline(SYSTEM).unwrap();
        assert_eq!(loaded.cpus(), 6);
        // 32 + 302 + 512 + 64 MiB, rounded up.
        assert_eq!(loaded.memory(), 1024 << 20);
        assert!(parse_size("12").is_err());
    }

    #[test]
    fn where_modules_come_from() {
        let loaded = inline(SYSTEM).unwrap();
        let programs = build::programs().unwrap();
        let source = |kind, name| loaded.source(kind, name, &programs);
        assert_eq!(
            source(ModuleKind::Kernel, "vmlinuz").unwrap(),
            Source::DebianKernel
        );
        assert_eq!(
            source(ModuleKind::Initrd, "initrd.img").unwrap(),
            Source::OwnInitramfs
        );
        let spin = source(ModuleKind::Program, "spin.elf").unwrap();
        assert!(matches!(spin, Source::Program(elf) if elf.ends_with("release/spin")));
        let file = source(ModuleKind::Initrd, "demo.toml").unwrap();
        assert!(matches!(file, Source::File(path) if path.ends_with("partitions/demo.toml")));
    }

    #[test]
    fn a_missing_module_is_told_with_its_line() {
        let text = SYSTEM.replace("spin.elf", "nothing.elf");
        let error = inline(&text).unwrap_err().to_string();
        assert!(error.contains("inline:12: partition[0].program"), "{error}");
        assert!(error.contains("exits"), "{error}");
        let text = SYSTEM.replace("\"vmlinuz\"", "\"bzImage\"");
        let error = inline(&text).unwrap_err().to_string();
        assert!(error.contains("inline:4: linux.kernel"), "{error}");
    }

    #[test]
    fn the_hypervisor_needs_a_port_of_its_own() {
        let ports = |console: &str, text: &str| {
            let text = format!("[hypervisor]\nconsole = \"{console}\"\n{text}");
            inline(&text)?.serial_ports()
        };
        let com3 = ports("com3", SYSTEM).unwrap();
        assert_eq!((com3.linux, com3.hypervisor), (0, 2));
        let alone = SYSTEM.split_at(SYSTEM.find("[[").unwrap()).1;
        assert_eq!(ports("com1", alone).unwrap().hypervisor, 0);
        assert!(ports("com1", SYSTEM).is_err());
        assert!(ports("none", SYSTEM).is_err());
    }
}
