//! Builds what goes into an image: the hypervisor and the partition programs,
//! once per process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use crate::paths;

/// The target of everything in an image.
pub const TARGET: &str = "x86_64-unknown-none";
/// Packages of partition programs are called so; their binary has the rest of
/// the name.
pub const PROGRAM_PREFIX: &str = "program-";

/// ELF files with all symbols.
#[derive(Clone, Debug)]
pub struct Built {
    /// The hypervisor.
    pub hypervisor: PathBuf,
    /// The partition programs by name (`spin`).
    pub programs: BTreeMap<String, PathBuf>,
}

/// Builds hypervisor and programs. The first call does the work.
///
/// # Errors
/// cargo fails; its own messages are on standard error.
pub fn everything() -> Result<&'static Built> {
    static BUILT: OnceLock<Result<Built, String>> = OnceLock::new();
    BUILT
        .get_or_init(|| build().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| anyhow!("{error}"))
}

fn build() -> Result<Built> {
    let packages = program_binaries(&metadata(true)?);
    let mut command = cargo();
    command.args(["build", "--quiet", "--release", "--target", TARGET]);
    command.args(["--package", "hypervisor"]);
    for package in packages.keys() {
        command.args(["--package", package]);
    }
    let status = command.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("building the hypervisor and the programs failed: {status}");
    }
    Ok(Built {
        hypervisor: release().join("hypervisor"),
        programs: programs()?,
    })
}

fn release() -> PathBuf {
    paths::target().join(TARGET).join("release")
}

/// The partition programs of this workspace by name, and where their ELF
/// files are once they are built.
///
/// # Errors
/// See [`metadata`].
pub fn programs() -> Result<BTreeMap<String, PathBuf>> {
    let binaries = program_binaries(&metadata(true)?).into_values().flatten();
    Ok(binaries
        .map(|binary| (binary.clone(), release().join(binary)))
        .collect())
}

/// cargo, in the repository's top folder.
#[must_use]
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::root());
    command
}

/// What of `cargo metadata` is used here.
#[derive(Clone, Debug, Deserialize)]
pub struct Metadata {
    /// The packages of this workspace.
    pub packages: Vec<Package>,
}

/// One package of the workspace.
#[derive(Clone, Debug, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Everything it depends on, of all kinds.
    pub dependencies: Vec<Dependency>,
    targets: Vec<Target>,
}

/// One line of a dependency table.
#[derive(Clone, Debug, Deserialize)]
pub struct Dependency {
    /// Name of the package depended on.
    pub name: String,
    /// Its folder, for packages of this workspace.
    pub path: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// Asks cargo about the workspace.
///
/// # Errors
/// A Cargo.toml is wrong; the message has cargo's.
pub fn metadata(offline: bool) -> Result<Metadata> {
    let mut command = cargo();
    command.args(["metadata", "--no-deps", "--format-version", "1"]);
    if offline {
        command.arg("--offline");
    }
    let output = command.output().context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!(
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata: unexpected output")
}

/// The partition programs' packages with their binaries.
fn program_binaries(metadata: &Metadata) -> BTreeMap<String, Vec<String>> {
    metadata
        .packages
        .iter()
        .filter(|package| package.name.starts_with(PROGRAM_PREFIX))
        .map(|package| {
            let binaries = package
                .targets
                .iter()
                .filter(|target| target.kind.iter().any(|kind| kind == "bin"))
                .map(|target| target.name.clone())
                .collect();
            (package.name.clone(), binaries)
        })
        .collect()
}

/// Writes `elf` to `out` without symbols and debug information. GRUB loads
/// every section of a multiboot2 ELF file, those included.
///
/// # Errors
/// strip fails: `elf` is no ELF file.
pub fn strip(elf: &Path, out: &Path) -> Result<()> {
    let output = Command::new("strip")
        .arg("--strip-all")
        .arg("-o")
        .args([out, elf])
        .output()
        .context("cannot run strip (package binutils)")?;
    if !output.status.success() {
        bail!(
            "{} is not an ELF program: {}",
            elf.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
