//! Debian packages as files: downloaded with `apt-get download`, unpacked
//! with `dpkg-deb -x` into a cache of ours. Nothing is installed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// A folder in which each package is unpacked once.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// A cache in `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder that holds the unpacked files of the Debian package `name`,
    /// downloaded if it is not there yet. Safe against other processes that
    /// do the same.
    ///
    /// # Errors
    /// The package cannot be found, downloaded or unpacked; the message holds
    /// what apt or dpkg said.
    pub fn package(&self, name: &str) -> Result<PathBuf> {
        let unpacked = self.root.join(name);
        if unpacked.is_dir() {
            return Ok(unpacked);
        }
        fs::create_dir_all(&self.root)
            .with_context(|| format!("cannot create {}", self.root.display()))?;
        let lock = File::create(self.root.join("lock"))?;
        lock.lock().context("cannot lock the package cache")?;
        if unpacked.is_dir() {
            return Ok(unpacked);
        }
        eprintln!("downloading {name} (only unpacked, not installed)");
        let work = tempfile::tempdir_in(&self.root)?;
        download(name, work.path())?;
        let deb = fs::read_dir(work.path())?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "deb"))
            .with_context(|| format!("apt-get download {name} left no .deb file"))?;
        let files = work.path().join("files");
        output(Command::new("dpkg-deb").arg("-x").args([&deb, &files]))?;
        fs::rename(&files, &unpacked)?;
        Ok(unpacked)
    }

    /// The package that the metapackage `name` stands for: the first of its
    /// dependencies. Asked once, then remembered in the cache, so that a run
    /// does not change its kernel because a newer one came out.
    ///
    /// # Errors
    /// apt does not know `name`, or it depends on nothing.
    pub fn resolve(&self, name: &str) -> Result<String> {
        let memo = self.root.join(format!("{name}.resolved"));
        if let Ok(known) = fs::read_to_string(&memo) {
            return Ok(known.trim().to_owned());
        }
        let package = first_dependency(&show(name)?)
            .with_context(|| format!("the package {name} depends on nothing"))?;
        fs::create_dir_all(&self.root)?;
        fs::write(&memo, &package)?;
        Ok(package)
    }
}

/// `apt-cache show`, after an `apt-get update` if the package is unknown.
fn show(name: &str) -> Result<String> {
    let ask = || {
        output(Command::new("apt-cache").args(["show", "--no-all-versions", name])).and_then(
            |text| {
                ensure!(!text.trim().is_empty(), "apt-cache knows no package {name}");
                Ok(text)
            },
        )
    };
    ask().or_else(|_| {
        update()?;
        ask()
    })
}

fn download(name: &str, into: &Path) -> Result<()> {
    let fetch = || {
        output(
            Command::new("apt-get")
                .args(["--quiet", "download", name])
                .current_dir(into),
        )
    };
    if fetch().is_ok() {
        return Ok(());
    }
    // The lists may name a version that the mirror has replaced meanwhile.
    update()?;
    fetch().map(drop)
}

/// Brings apt's package lists up to date.
fn update() -> Result<()> {
    eprintln!("running: apt-get update");
    output(Command::new("apt-get").args(["--quiet", "update"]))
        .map(drop)
        .context("apt's package lists are missing or old; as root, run: apt-get update")
}

/// The package that comes first in the `Depends:` field of a control text
/// (Debian Policy 7.1): `Depends: a (= 1) | b, c` gives `a`.
fn first_dependency(control: &str) -> Option<String> {
    let field = control
        .lines()
        .find_map(|line| line.strip_prefix("Depends:"))?;
    let name = field
        .split([',', '|'])
        .next()?
        .split_whitespace()
        .next()?
        .trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// Runs a command and returns its standard output.
///
/// # Errors
/// It cannot be started or fails; the message holds its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let result = command
        .output()
        .with_context(|| format!("cannot run {name} (this needs Debian or a relative of it)"))?;
    if !result.status.success() {
        bail!(
            "{name} failed ({}): {}",
            result.status,
            String::from_utf8_lossy(&result.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependency_of_a_metapackage() {
        let control = "Package: linux-image-cloud-amd64\nVersion: 6.1.1-1\n\
            Depends: linux-image-6.1.0-1-cloud-amd64 (= 6.1.1-1), other\nSize: 1\n";
        assert_eq!(
            first_dependency(control).as_deref(),
            Some("linux-image-6.1.0-1-cloud-amd64")
        );
        assert_eq!(first_dependency("Depends: a | b").as_deref(), Some("a"));
        assert_eq!(first_dependency("Package: x\n"), None);
        assert_eq!(first_dependency("Depends: \n"), None);
    }

    #[test]
    fn an_unpacked_package_is_not_fetched_again() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("no-such-package-at-all");
        fs::create_dir(&there).unwrap();
        let cache = Cache::new(dir.path());
        assert_eq!(cache.package("no-such-package-at-all").unwrap(), there);
    }
}
