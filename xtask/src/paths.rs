//! Where things are.

use std::env;
use std::path::{Path, PathBuf};

/// The top of the repository.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Cargo's build folder: `CARGO_TARGET_DIR`, else `target`.
#[must_use]
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Where images are made, each in a folder of its own.
#[must_use]
pub fn images() -> PathBuf {
    target().join("images")
}

/// The Linux side's packages, unpacked.
#[must_use]
pub fn guest_cache() -> guest_linux::Cache {
    guest_linux::Cache::new(target().join("guest-linux"))
}

/// The system that `qemu-nested` and `image` take when none is named.
#[must_use]
pub fn demo() -> PathBuf {
    root().join("partitions/demo.toml")
}

/// The system that `bochs` takes when none is named: the demo sized for a
/// machine some fifty times slower.
#[must_use]
pub fn demo_bochs() -> PathBuf {
    root().join("partitions/demo-bochs.toml")
}
