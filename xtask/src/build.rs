//! Builds what goes into an image: the hypervisor and the partition programs,
//! once per process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use crate::paths;

/// The target of everything in an image.
pub const TARGET: &str = "x86_64-unknown-none";
/// The target of the tool in the initramfs: statically linked.
pub const TOOL_TARGET: &str = "x86_64-unknown-linux-musl";
/// Packages of partition programs are called so; their binary has the rest of
/// the name.
pub const PROGRAM_PREFIX: &str = "program-";

/// A partition program of this workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Program {
    package: String,
    elf: PathBuf,
}

/// Builds the hypervisor and all programs; see [`hypervisor_with`].
///
/// # Errors
/// As [`hypervisor_with`].
pub fn everything() -> Result<PathBuf> {
    let all: Vec<String> = programs()?.into_keys().collect();
    hypervisor_with(&all.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Builds the hypervisor and the programs called so, and returns the
/// hypervisor's ELF file, with all symbols. What this process has built
/// before is not looked at again.
///
/// # Errors
/// cargo fails, its own messages are on standard error; or there is no such
/// program.
pub fn hypervisor_with(names: &[&str]) -> Result<PathBuf> {
    const HYPERVISOR: &str = "hypervisor";
    packages_with(HYPERVISOR, names)?;
    Ok(release().join(HYPERVISOR))
}

/// The same for what stands in the hypervisor's place in a bare run.
///
/// # Errors
/// As [`hypervisor_with`].
pub fn bare_with(names: &[&str]) -> Result<PathBuf> {
    packages_with("cloister-bare", names)?;
    Ok(release().join("bare"))
}

fn packages_with(first: &str, names: &[&str]) -> Result<()> {
    static DONE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let known = known_programs()?;
    let mut packages = BTreeSet::from([first.to_owned()]);
    for name in names {
        let program = known
            .get(*name)
            .with_context(|| format!("no program of this workspace is called {name}"))?;
        packages.insert(program.package.clone());
    }
    let mut done = DONE.lock().map_err(|_| anyhow!("a build panicked"))?;
    if !packages.is_subset(&done) {
        let mut command = cargo();
        command.args(["build", "--quiet", "--release", "--target", TARGET]);
        for package in &packages {
            command.args(["--package", package]);
        }
        let status = command.status().context("cannot run cargo")?;
        if !status.success() {
            let names: Vec<&str> = packages.iter().map(String::as_str).collect();
            bail!("building {} failed: {status}", names.join(", "));
        }
        done.extend(packages);
    }
    Ok(())
}

/// Builds the operator's tool, statically linked, once per process.
///
/// # Errors
/// cargo fails, its own messages are on standard error; without the target,
/// `rustup target add x86_64-unknown-linux-musl` gets it.
pub fn tool() -> Result<PathBuf> {
    static DONE: Mutex<bool> = Mutex::new(false);
    let mut done = DONE.lock().map_err(|_| anyhow!("a build panicked"))?;
    if !*done {
        let mut command = cargo();
        command.args(["build", "--quiet", "--profile", "small"]);
        command.args(["--target", TOOL_TARGET, "--package", "cloister-tool"]);
        let status = command.status().context("cannot run cargo")?;
        if !status.success() {
            bail!(
                "building the tool \"cloister\" failed: {status}; without its target, \
                 `rustup target add {TOOL_TARGET}` gets it"
            );
        }
        *done = true;
    }
    Ok(paths::target().join(TOOL_TARGET).join("small/cloister"))
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
    let known = known_programs()?.iter();
    Ok(known
        .map(|(name, program)| (name.clone(), program.elf.clone()))
        .collect())
}

fn known_programs() -> Result<&'static BTreeMap<String, Program>> {
    static KNOWN: OnceLock<BTreeMap<String, Program>> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known);
    }
    let found = program_binaries(&metadata(true)?);
    Ok(KNOWN.get_or_init(|| found))
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

fn program_binaries(metadata: &Metadata) -> BTreeMap<String, Program> {
    let packages = metadata.packages.iter();
    packages
        .filter(|package| package.name.starts_with(PROGRAM_PREFIX))
        .flat_map(|package| {
            let targets = package.targets.iter();
            let binaries = targets.filter(|target| target.kind.iter().any(|kind| kind == "bin"));
            binaries.map(|target| {
                let program = Program {
                    package: package.name.clone(),
                    elf: release().join(&target.name),
                };
                (target.name.clone(), program)
            })
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
