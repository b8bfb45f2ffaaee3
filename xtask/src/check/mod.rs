//! `check`: system files, who imports whom, and what source folders may not
//! contain.

mod crates;
mod sources;

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::system::System;
use crate::{build, paths};

/// Everything: the system files of partitions/, and the workspace's rules.
/// One complaint a string; none when all is well.
///
/// # Errors
/// The workspace cannot be read.
pub fn everything() -> Result<Vec<String>> {
    let mut complaints = system_files(&own_system_files()?);
    complaints.extend(crates::complaints(&build::metadata(true)?));
    let sources = sources::complaints(&paths::root())?;
    if sources
        .iter()
        .any(|complaint| complaint.contains(": unsafe"))
    {
        complaints.push(format!(
            "unsafe may stand only in {}",
            sources::UNSAFE_FOLDERS.join(", ")
        ));
    }
    complaints.extend(sources);
    Ok(complaints)
}

/// Validates system files; also that the modules they name exist. Warnings
/// are printed; they are no complaints.
#[must_use]
pub fn system_files(files: &[PathBuf]) -> Vec<String> {
    files
        .iter()
        .filter_map(|file| System::File(file.clone()).load().err())
        .map(|error| format!("{error:#}"))
        .collect()
}

fn own_system_files() -> Result<Vec<PathBuf>> {
    let folder = paths::root().join("partitions");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml") && path.is_file())
        .filter(|path| path.file_name().is_some_and(|name| name != "Cargo.toml"))
        .collect();
    files.sort();
    Ok(files)
}
