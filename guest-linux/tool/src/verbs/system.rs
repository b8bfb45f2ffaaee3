//! `check` and `compile`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use cloister_manifest::Loaded;

use crate::output;

fn load(file: &Path) -> Result<Loaded> {
    let loaded = cloister_manifest::load(file).map_err(|errors| anyhow!("{errors}"))?;
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    Ok(loaded)
}

/// `cloister check FILE`.
pub(super) fn check(file: &Path, json: bool) -> Result<()> {
    let loaded = load(file)?;
    let partitions = loaded.manifest.partitions.len();
    if json {
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        return output::json(&serde_json::json!({
            "file": file, "partitions": partitions, "warnings": warnings,
        }));
    }
    output::text(&format!(
        "{}: right, {partitions} partitions\n",
        file.display()
    ))
}

/// `cloister compile FILE -o MANIFEST`.
pub(super) fn compile(file: &Path, to: &Path, json: bool) -> Result<()> {
    let manifest = cloister_manifest::encode(&load(file)?.manifest);
    fs::write(to, &manifest).with_context(|| format!("cannot write {}", to.display()))?;
    if json {
        return output::json(&serde_json::json!({ "file": to, "bytes": manifest.len() }));
    }
    output::text(&format!("{}: {} bytes\n", to.display(), manifest.len()))
}
