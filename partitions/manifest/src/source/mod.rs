//! Reading a system file: TOML to a validated [`Manifest`], every error with
//! its line.

mod report;
mod schema;
mod table;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub use report::{Diagnostic, Errors};
use report::{Lines, Report};

use crate::model::Manifest;
use crate::problem::{Problem, Severity};
use crate::validate::problems;

/// A system file that is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What it says.
    pub manifest: Manifest,
    /// Where it is, as it was named.
    pub path: PathBuf,
    /// What is perhaps not as wanted.
    pub warnings: Vec<Diagnostic>,
    lines: Lines,
}

impl Loaded {
    /// Adds file and line to a problem that was found later: against a
    /// machine, or when a module's file was looked for.
    #[must_use]
    pub fn diagnose(&self, problem: &Problem) -> Diagnostic {
        self.lines.diagnose(problem)
    }
}

/// Reads and validates the system file at `path`.
///
/// # Errors
/// All that is wrong in it, each with its line, key, and what would be right.
pub fn load(path: &Path) -> Result<Loaded, Errors> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        Errors(vec![Diagnostic {
            file: path.to_owned(),
            line: None,
            severity: Severity::Error,
            key: String::new(),
            message: format!("{error}; name a system file that can be read, as UTF-8 TOML"),
        }])
    })?;
    parse(path, &text)
}

/// Like [`load`], with the file's content at hand. `path` is for messages.
///
/// # Errors
/// As [`load`].
pub fn parse(path: &Path, text: &str) -> Result<Loaded, Errors> {
    let mut report = Report::new(path, text);
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let line = error.span().map_or(1, |span| report.lines.at(span.start));
        let message = error.message().replace('\n', "; ");
        report.error("", line, format!("TOML syntax: {message}"));
    }
    if !errors.is_empty() {
        return Err(report.into_errors());
    }
    let manifest = schema::manifest(&mut report, root.get_ref());
    problems(&manifest, &mut |problem| report.problem(&problem));
    if !report.errors.is_empty() {
        return Err(report.into_errors());
    }
    let Report {
        lines,
        mut warnings,
        ..
    } = report;
    warnings.sort_by_key(|warning| warning.line);
    Ok(Loaded {
        manifest,
        path: path.to_owned(),
        warnings,
        lines,
    })
}
