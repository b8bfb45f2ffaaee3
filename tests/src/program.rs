//! Partition programs from elsewhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use xtask::build::TARGET;

/// Code at fixed addresses below 2 GiB, frame pointers for backtraces: what
/// Cloister's own `.cargo/config.toml` says for this target.
const RUSTFLAGS: &str = "-C relocation-model=static -C force-frame-pointers=yes \
     -C link-arg=-zmax-page-size=4096 -C link-arg=-znognustack";

/// Builds `binary`, a partition program, with cargo in `folder` and returns
/// its ELF file.
///
/// # Errors
/// cargo fails; its own messages are on standard error.
pub fn build_program(folder: impl AsRef<Path>, binary: &str) -> Result<PathBuf> {
    let folder = folder.as_ref();
    let target = std::path::absolute(xtask::paths::target().join("programs"))?;
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(folder)
        .args([
            "build",
            "--quiet",
            "--release",
            "--target",
            TARGET,
            "--bin",
            binary,
        ])
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", RUSTFLAGS)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("building {binary} in {} failed: {status}", folder.display());
    }
    Ok(target.join(TARGET).join("release").join(binary))
}
