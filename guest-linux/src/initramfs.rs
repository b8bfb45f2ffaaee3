//! The initramfs: Debian's static busybox, a few kernel modules, and an init
//! that gives a shell on the console or runs one command and powers off.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::kernel::Kernel;
use crate::modules::{Modules, modules_dep};
use crate::packages::Cache;

/// Byte before each line that init prints for the host.
pub const MARK: u8 = 0x1e;
/// After [`MARK`]: init runs.
pub const USER_SPACE: &str = "cloister-user-space";
/// After [`MARK`], before a space and the exit status of the command.
pub const RUN_STATUS: &str = "cloister-run-status";

/// Modules that every initramfs has. Both are tiny: the whole initramfs goes
/// through the BIOS, which is slow on emulators.
pub const DEFAULT_MODULES: [&str; 2] = ["dummy", "msr"];

/// An initramfs being put together. See the crate's example.
#[derive(Debug)]
pub struct Initramfs {
    archive: Archive,
    directories: BTreeSet<String>,
    available: Modules,
    module_names: BTreeSet<String>,
    release: String,
    run: Option<String>,
}

impl Initramfs {
    /// Busybox, init and [`DEFAULT_MODULES`].
    ///
    /// # Errors
    /// busybox-static cannot be had (see [`Cache::package`]), or the kernel's
    /// modules cannot be read.
    pub fn new(cache: &Cache, kernel: &Kernel) -> Result<Self> {
        let package = cache.package("busybox-static")?;
        let busybox = ["usr/bin/busybox", "bin/busybox"]
            .iter()
            .map(|path| package.join(path))
            .find(|path| path.is_file())
            .context("the package busybox-static has no bin/busybox")?;
        let mut this = Self {
            archive: Archive::new(),
            directories: BTreeSet::new(),
            available: Modules::scan(&kernel.modules)?,
            module_names: DEFAULT_MODULES.map(str::to_owned).into(),
            release: kernel.release.clone(),
            run: None,
        };
        for folder in ["proc", "sys", "dev", "bin", "tmp", "run", "root"] {
            this.make_directory(folder);
        }
        // The kernel opens the console before devtmpfs is mounted.
        this.archive.character_device("dev/console", 0o600, 5, 1);
        this.archive.symlink("sbin", "bin");
        let binary = fs::read(&busybox)?;
        this.archive.file("bin/busybox", 0o755, &binary);
        this.archive.file("init", 0o755, include_bytes!("init.sh"));
        Ok(this)
    }

    /// Adds kernel modules and what they need, for `modprobe` or `insmod`.
    ///
    /// # Errors
    /// The kernel has no such module.
    pub fn modules<S: AsRef<str>>(mut self, names: &[S]) -> Result<Self> {
        for name in names {
            self.available.closure(&[name.as_ref()])?;
            self.module_names.insert(name.as_ref().to_owned());
        }
        Ok(self)
    }

    /// Adds the file `path` (no leading slash) with permission bits `mode`.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.make_parents(path);
        self.archive.file(path, mode, content);
        self
    }

    /// Lets init run `command` with `sh -c` on the console and then power
    /// off, instead of giving a shell.
    #[must_use]
    pub fn run(mut self, command: &str) -> Self {
        self.run = Some(command.to_owned());
        self
    }

    /// The bytes of the initrd.
    ///
    /// # Errors
    /// A module cannot be read.
    pub fn build(mut self) -> Result<Vec<u8>> {
        let names: Vec<&str> = self.module_names.iter().map(String::as_str).collect();
        let chosen = self.available.closure(&names)?;
        let base = format!("lib/modules/{}", self.release);
        for module in &chosen {
            let path = format!("{base}/{}", module.path.display());
            let content = fs::read(self.available.absolute(&module.path))
                .with_context(|| format!("cannot read {}", module.path.display()))?;
            self.make_parents(&path);
            self.archive.file(&path, 0o644, &content);
        }
        let dep = format!("{base}/modules.dep");
        self.make_parents(&dep);
        self.archive
            .file(&dep, 0o644, modules_dep(&chosen).as_bytes());
        let mut bytes = self.archive.finish();
        if let Some(command) = &self.run {
            bytes.extend(run_archive(command));
        }
        Ok(bytes)
    }

    fn make_parents(&mut self, path: &str) {
        let parents: Vec<String> = Path::new(path)
            .ancestors()
            .skip(1)
            .map(|parent| parent.to_string_lossy().into_owned())
            .filter(|parent| !parent.is_empty())
            .collect();
        for parent in parents.iter().rev() {
            self.make_directory(parent);
        }
    }

    fn make_directory(&mut self, path: &str) {
        if self.directories.insert(path.to_owned()) {
            self.archive.directory(path);
        }
    }
}

/// A second archive that carries the command, byte for byte: whatever quotes
/// it has, no command line has to carry them.
#[must_use]
pub fn run_archive(command: &str) -> Vec<u8> {
    let mut archive = Archive::new();
    archive.directory("cloister");
    archive.file("cloister/run", 0o644, command.as_bytes());
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_prints_what_the_host_looks_for() {
        let init = include_str!("init.sh");
        assert!(init.contains(&format!("\\{MARK:03o}{USER_SPACE}\\n")));
        assert!(init.contains(&format!("\\{MARK:03o}{RUN_STATUS} %d\\n")));
    }

    #[test]
    fn the_command_is_carried_unchanged() {
        let command = "echo \"a 'b' $c\" | cat; exit 3\n# \\ done";
        let bytes = run_archive(command);
        assert!(
            bytes
                .windows(command.len())
                .any(|w| w == command.as_bytes())
        );
        assert!(bytes.len().is_multiple_of(4));
    }
}
