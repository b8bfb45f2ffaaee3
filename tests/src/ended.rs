//! A run that is over.

use anyhow::{Context, Error, Result, anyhow};
use xtask::machine::Testimony;
use xtask::report::{self, Report};
use xtask::{Finished, Outcome};

use crate::check::{LinuxCheck, PartitionCheck};

/// Last lines of each console that a failure shows.
const TAIL: usize = 25;

/// A run that is over, and the checks on it. Each returns itself, so that
/// they chain, or an error that shows consoles and report.
#[derive(Clone, Debug)]
pub struct Ended {
    run: Finished,
}

impl Ended {
    pub(crate) fn new(run: Finished) -> Self {
        Self { run }
    }

    /// The whole report.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.run.report
    }

    /// Linux's console.
    #[must_use]
    pub fn linux_console(&self) -> &str {
        &self.run.linux_console
    }

    /// The hypervisor's text for people.
    #[must_use]
    pub fn hypervisor_console(&self) -> &str {
        &self.run.hypervisor_console
    }

    /// What the outside witness saw.
    ///
    /// # Errors
    /// [`crate::System::witness`] was not asked for.
    pub fn testimony(&self) -> Result<&Testimony> {
        let testimony = self.run.testimony.as_ref();
        testimony.context("the run had no outside witness: ask System::witness")
    }

    /// `message`, with the last lines of each console and the report's table.
    #[must_use]
    pub fn failure(&self, message: impl std::fmt::Display) -> Error {
        let mut table = String::new();
        // Writing to a String does not fail.
        let _ = report::print(self.report(), &mut table);
        anyhow!("{message}\n{}{table}", self.run.tails(TAIL))
    }

    /// Fails with `message` unless `holds`.
    ///
    /// # Errors
    /// It does not.
    pub fn check(self, holds: bool, message: impl std::fmt::Display) -> Result<Self> {
        self.ensure(holds, message).map(|()| self)
    }

    /// As [`Ended::check`], for a reference.
    ///
    /// # Errors
    /// It does not.
    pub fn ensure(&self, holds: bool, message: impl std::fmt::Display) -> Result<()> {
        if holds {
            Ok(())
        } else {
            Err(self.failure(message))
        }
    }

    /// The run completed: the machine powered off or reset when all was done.
    ///
    /// # Errors
    /// The outcome is another.
    pub fn completed(self) -> Result<Self> {
        self.outcome(Outcome::Completed)
    }

    /// The run ended so.
    ///
    /// # Errors
    /// The outcome is another.
    pub fn outcome(self, expected: Outcome) -> Result<Self> {
        let report = self.report();
        let message = format!(
            "outcome {} ({}), expected {}",
            report.outcome.name(),
            report.detail,
            expected.name()
        );
        let holds = report.outcome == expected;
        self.check(holds, message)
    }

    /// The hypervisor refused to start, with a complaint that has all of
    /// `words`: on its console and as its last record.
    ///
    /// # Errors
    /// It started, or complained of something else.
    pub fn refused(self, words: &[&str]) -> Result<Self> {
        let line = self
            .hypervisor_console()
            .lines()
            .find_map(|line| line.split_once("cannot start: "))
            .map(|(_, complaint)| complaint.trim().to_owned());
        let Some(line) = line else {
            return Err(self.failure("the hypervisor did not refuse to start"));
        };
        let detail = self.report().detail.clone();
        let this = self.outcome(Outcome::HypervisorPanic)?;
        this.ensure(
            line == detail,
            format!("the last record says {detail:?}, the console {line:?}"),
        )?;
        let missing = words.iter().find(|word| !line.contains(**word));
        let message = format!("the complaint {line:?} lacks {:?}", missing.unwrap_or(&""));
        this.check(missing.is_none(), message)
    }

    /// Checks on the partition `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn partition(&self, name: &str) -> Result<PartitionCheck<'_>> {
        let partition = self.report().partition(name)?;
        Ok(PartitionCheck::new(self, partition))
    }

    /// Checks on Linux.
    ///
    /// # Errors
    /// The system has none.
    pub fn linux(&self) -> Result<LinuxCheck<'_>> {
        Ok(LinuxCheck::new(self, self.report().linux()?))
    }

    /// The rest of the last line of Linux's console that begins with `key=`.
    ///
    /// # Errors
    /// There is none.
    pub fn linux_value(&self, key: &str) -> Result<&str> {
        self.linux_console()
            .lines()
            .rev()
            .find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='))
            .with_context(|| self.failure(format!("Linux printed no line {key}=…")))
    }

    /// A control word of core `core`'s VMCB or VMCS, by its name in the
    /// manual.
    ///
    /// # Errors
    /// The hypervisor did not tell it.
    pub fn control(&self, core: u32, name: &str) -> Result<u64> {
        self.report()
            .controls
            .iter()
            .find(|control| control.core == core && control.name == name)
            .map(|control| control.value)
            .with_context(|| self.failure(format!("core {core} has no control word {name}")))
    }
}
