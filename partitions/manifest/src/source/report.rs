//! Diagnostics of one file, and where its keys stand.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::problem::{Problem, Severity};

/// What is wrong in a system file, and where.
///
/// It is shown as `FILE:LINE: KEY: what is wrong; what would be right`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The system file, as it was named.
    pub file: PathBuf,
    /// Line, from 1. [`None`]: the file as a whole.
    pub line: Option<usize>,
    /// Whether it is an error.
    pub severity: Severity,
    /// The key concerned, e.g. `partition[1].cpus`. Empty: none.
    pub key: String,
    /// What is wrong; what would be right.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if self.severity == Severity::Warning {
            f.write_str(" warning:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.message)
    }
}

/// All that is wrong in a system file, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(pub Vec<Diagnostic>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, error) in self.0.iter().enumerate() {
            let newline = if position == 0 { "" } else { "\n" };
            write!(f, "{newline}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// The line of every key of a system file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lines {
    file: PathBuf,
    /// Offset of the first byte of each line.
    starts: Vec<usize>,
    of_key: HashMap<String, usize>,
}

impl Lines {
    pub(super) fn new(file: &Path, text: &str) -> Self {
        let newlines = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
        let starts = std::iter::once(0).chain(newlines.map(|(offset, _)| offset + 1));
        Self {
            file: file.to_owned(),
            starts: starts.collect(),
            of_key: HashMap::new(),
        }
    }

    /// Number of the line that holds the byte at `offset`, from 1.
    pub(super) fn at(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset)
    }

    pub(super) fn insert(&mut self, key: &str, line: usize) {
        self.of_key.insert(key.to_owned(), line);
    }

    /// The line of `key`, or of the nearest table or list that holds it.
    pub(super) fn of(&self, key: &str) -> usize {
        let mut key = key;
        loop {
            if let Some(&line) = self.of_key.get(key) {
                return line;
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                None => return 1,
            }
        }
    }

    pub(super) fn diagnose(&self, problem: &Problem) -> Diagnostic {
        Diagnostic {
            file: self.file.clone(),
            line: Some(self.of(&problem.key)),
            severity: problem.severity,
            key: problem.key.to_string(),
            message: problem.message.to_string(),
        }
    }
}

/// What was found so far.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) lines: Lines,
    pub(super) errors: Vec<Diagnostic>,
    pub(super) warnings: Vec<Diagnostic>,
}

impl Report {
    pub(super) fn new(file: &Path, text: &str) -> Self {
        Self {
            lines: Lines::new(file, text),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(super) fn error(&mut self, key: &str, line: usize, message: String) {
        self.errors.push(Diagnostic {
            file: self.lines.file.clone(),
            line: Some(line),
            severity: Severity::Error,
            key: key.to_owned(),
            message,
        });
    }

    /// Adds what validation found, except what only follows from an error
    /// that is told already.
    pub(super) fn problem(&mut self, problem: &Problem) {
        let diagnostic = self.lines.diagnose(problem);
        match problem.severity {
            Severity::Warning => self.warnings.push(diagnostic),
            Severity::Error if !self.follows(&problem.key) => self.errors.push(diagnostic),
            Severity::Error => {}
        }
    }

    fn follows(&self, key: &str) -> bool {
        let mut told = self.errors.iter().map(|error| error.key.as_str());
        told.any(|told| {
            let whole_table = !told.contains(['.', '[']);
            within(key, told)
                || within(told, key)
                || key == "linux.debug" && within(told, "linux.cpus")
                || key == "partition" && whole_table
                || key.ends_with("].between") && (told.ends_with("].name") || whole_table)
        })
    }

    pub(super) fn into_errors(mut self) -> Errors {
        self.errors.sort_by_key(|error| error.line);
        Errors(self.errors)
    }
}

/// Whether `key` is `outer` or lies in it.
fn within(key: &str, outer: &str) -> bool {
    key.strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}
