//! Debian's cloud kernel, as packaged.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::packages::Cache;

/// The metapackage that always depends on the current cloud kernel.
pub const METAPACKAGE: &str = "linux-image-cloud-amd64";

/// An unpacked kernel package.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The bzImage, byte for byte as packaged.
    pub vmlinuz: PathBuf,
    /// What `uname -r` says in it.
    pub release: String,
    /// Symbol addresses, where the package has them. Debian's file of that
    /// name is a note that they are in the debug package; then it is `None`.
    pub system_map: Option<PathBuf>,
    /// `lib/modules/RELEASE`.
    pub modules: PathBuf,
    /// The package's name.
    pub package: String,
}

impl Kernel {
    /// Debian's current cloud kernel, from the cache or downloaded.
    ///
    /// # Errors
    /// See [`Cache::package`]; or the package holds no `boot/vmlinuz-*`.
    pub fn fetch(cache: &Cache) -> Result<Self> {
        let package = cache.resolve(METAPACKAGE)?;
        let root = cache.package(&package)?;
        Self::unpacked(&root, &package)
    }

    /// The kernel in `root`, the unpacked package `package`.
    ///
    /// # Errors
    /// There is no `boot/vmlinuz-*` in it.
    pub fn unpacked(root: &Path, package: &str) -> Result<Self> {
        let boot = root.join("boot");
        let release = fs::read_dir(&boot)
            .with_context(|| format!("the package {package} has no boot folder"))?
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().into_string().ok())
            .find_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned))
            .with_context(|| format!("the package {package} has no boot/vmlinuz-*"))?;
        let map = boot.join(format!("System.map-{release}"));
        let system_map = fs::metadata(&map)
            .is_ok_and(|meta| meta.len() > 4096)
            .then_some(map);
        let modules = ["usr/lib/modules", "lib/modules"]
            .iter()
            .map(|dir| root.join(dir).join(&release))
            .find(|dir| dir.is_dir())
            .with_context(|| format!("the package {package} has no lib/modules/{release}"))?;
        Ok(Self {
            vmlinuz: boot.join(format!("vmlinuz-{release}")),
            release,
            system_map,
            modules,
            package: package.to_owned(),
        })
    }
}
