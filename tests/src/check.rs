//! Checks on a partition, a violation, and Linux. Each returns itself, or an
//! error that shows consoles and report.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};

use anyhow::{Context, Result};
use cloister_abi::{LinuxState, PartitionState};
use xtask::report::{Linux, Partition, Violation};

use crate::ended::Ended;

/// Checks on one partition.
#[derive(Clone, Copy, Debug)]
pub struct PartitionCheck<'a> {
    ended: &'a Ended,
    partition: &'a Partition,
}

impl<'a> PartitionCheck<'a> {
    pub(crate) fn new(ended: &'a Ended, partition: &'a Partition) -> Self {
        Self { ended, partition }
    }

    /// Its part of the report.
    #[must_use]
    pub fn report(&self) -> &'a Partition {
        self.partition
    }

    /// Fails with `message` unless `holds`.
    ///
    /// # Errors
    /// It does not.
    pub fn check(self, holds: bool, message: impl Display) -> Result<Self> {
        let message = format!("partition {}: {message}", self.partition.name);
        self.ended.ensure(holds, message).map(|()| self)
    }

    fn equal<T: PartialEq + Debug>(self, what: &str, got: T, expected: T) -> Result<Self> {
        let message = format!("{what} {got:?}, expected {expected:?}");
        self.check(got == expected, message)
    }

    /// It is in this state.
    ///
    /// # Errors
    /// It is in another.
    pub fn state(self, expected: PartitionState) -> Result<Self> {
        self.equal("state", self.partition.state, expected)
    }

    /// All its cores called `finish`; of their codes this is the highest.
    ///
    /// # Errors
    /// It did not finish, or with another code.
    pub fn finished(self, code: u64) -> Result<Self> {
        self.state(PartitionState::Finished)?.equal(
            "exit code",
            self.partition.exit_code,
            Some(code),
        )
    }

    /// It failed by its own fault, with all of `words` in the reason.
    ///
    /// # Errors
    /// It did not, or for another reason.
    pub fn failed(self, words: &[&str]) -> Result<Self> {
        let this = self.state(PartitionState::Failed)?;
        let detail = &this.partition.detail;
        let missing = words.iter().find(|word| !detail.contains(**word));
        let message = format!("detail {detail:?} lacks {:?}", missing.unwrap_or(&""));
        this.check(missing.is_none(), message)
    }

    /// VM exits since it was quiet, not counting `set_dataplane`.
    ///
    /// # Errors
    /// It had another number of them; or it was never quiet, so that the
    /// number says nothing.
    pub fn since_quiesce(self, expected: u64) -> Result<Self> {
        let this = self.was_quiet()?;
        let got = this.partition.exits.since_quiesce;
        this.equal("exits since quiesce", got, expected)
    }

    /// Interrupts since it was quiet.
    ///
    /// # Errors
    /// It had another number of them; or it was never quiet.
    pub fn interrupts(self, expected: u64) -> Result<Self> {
        let this = self.was_quiet()?;
        let got = this.partition.interrupts_since_quiesce;
        this.equal("interrupts since quiesce", got, expected)
    }

    fn was_quiet(self) -> Result<Self> {
        let cores = &self.ended.report().cores;
        let never = self.partition.cpus.iter().find(|&&number| {
            !cores
                .iter()
                .any(|core| core.core == number && core.quiesce_count > 0)
        });
        let message = format!("core {} was never quiet", never.unwrap_or(&0));
        self.check(never.is_none(), message)
    }

    /// The flags that all its cores had last, in value order.
    ///
    /// # Errors
    /// They had others.
    pub fn dataplane(self, expected: &[&str]) -> Result<Self> {
        let got: Vec<&str> = self
            .partition
            .dataplane
            .iter()
            .map(String::as_str)
            .collect();
        self.equal("dataplane", got.as_slice(), expected)
    }

    /// Exits for `reason` of all its cores since they first ran.
    ///
    /// # Errors
    /// It had another number of them.
    pub fn exits_of(self, reason: &str, expected: u64) -> Result<Self> {
        let got = self.partition.exits.of(reason);
        self.equal(&format!("{reason} exits"), got, expected)
    }

    /// All exits of all its cores, by reason: these and no others.
    ///
    /// # Errors
    /// It had others.
    pub fn exits_exactly(self, expected: &[(&str, u64)]) -> Result<Self> {
        let expected: BTreeMap<String, u64> = expected
            .iter()
            .map(|&(reason, count)| (reason.to_owned(), count))
            .collect();
        let total = expected.values().sum();
        self.equal(
            "exits by reason",
            &self.partition.exits.by_reason,
            &expected,
        )?
        .equal("exits", self.partition.exits.total, total)
    }

    /// It printed a line that has `text`.
    ///
    /// # Errors
    /// It did not.
    pub fn says(self, text: &str) -> Result<Self> {
        let found = self.lines_with(text) > 0;
        self.check(found, format!("printed no line with {text:?}"))
    }

    /// How many of its lines have `text`.
    #[must_use]
    pub fn lines_with(&self, text: &str) -> usize {
        let console = self.partition.console.iter();
        console.filter(|line| line.contains(text)).count()
    }

    /// The number behind the last `key=` on its console.
    ///
    /// # Errors
    /// There is none.
    pub fn value(&self, key: &str) -> Result<u64> {
        let word = |line: &String| {
            line.split_whitespace()
                .find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
        };
        let name = &self.partition.name;
        self.partition
            .console
            .iter()
            .rev()
            .find_map(word)
            .with_context(|| {
                self.ended
                    .failure(format!("partition {name}: printed no {key}=NUMBER"))
            })
    }

    /// It was restarted so often.
    ///
    /// # Errors
    /// It was restarted more or less often.
    pub fn restarts(self, expected: u32) -> Result<Self> {
        self.equal("restarts", self.partition.restarts, expected)
    }

    /// It broke STRICT so often.
    ///
    /// # Errors
    /// It did more or less often.
    pub fn violations(self, expected: usize) -> Result<Self> {
        self.equal("violations", self.partition.violations.len(), expected)
    }

    /// Checks on its last breach of STRICT, which is for `reason`.
    ///
    /// # Errors
    /// There is none, or for another reason.
    pub fn violation(self, reason: &str) -> Result<ViolationCheck<'a>> {
        let got = self.partition.violation.as_ref();
        let this = self.equal("violation", got.map(|v| v.reason.as_str()), Some(reason))?;
        let violation = got.context("no violation")?;
        Ok(ViolationCheck {
            of: this,
            violation,
        })
    }
}

/// Checks on a breach of STRICT.
#[derive(Clone, Copy, Debug)]
pub struct ViolationCheck<'a> {
    of: PartitionCheck<'a>,
    violation: &'a Violation,
}

impl<'a> ViolationCheck<'a> {
    /// Its part of the report.
    #[must_use]
    pub fn report(&self) -> &'a Violation {
        self.violation
    }

    /// Fails with `message` unless `holds`.
    ///
    /// # Errors
    /// It does not.
    pub fn check(self, holds: bool, message: impl Display) -> Result<Self> {
        let message = format!("violation {}: {message}", self.violation.reason);
        self.of.check(holds, message).map(|_| self)
    }

    /// Its detail has `text`.
    ///
    /// # Errors
    /// It has not.
    pub fn detail(self, text: &str) -> Result<Self> {
        let detail = &self.violation.detail;
        self.check(
            detail.contains(text),
            format!("detail {detail:?} lacks {text:?}"),
        )
    }

    /// RIP is the first frame of the backtrace, and one of the innermost
    /// `frames` functions has `function` in its name.
    ///
    /// # Errors
    /// That is not so.
    pub fn in_function(self, function: &str, frames: usize) -> Result<Self> {
        let first = self.violation.backtrace.first();
        let this = self.check(
            first == Some(&self.violation.rip),
            format!(
                "the backtrace begins with {first:?}, rip is {}",
                self.violation.rip
            ),
        )?;
        let symbols = &self.violation.symbols;
        let found = symbols.iter().take(frames).any(|s| s.contains(function));
        this.check(
            found,
            format!("no {function} in the innermost {frames} of {symbols:#?}"),
        )
    }

    /// General register `number` in encoding order (0 RAX, 1 RCX, 2 RDX).
    ///
    /// # Errors
    /// It has another value.
    pub fn register(self, number: usize, expected: u64) -> Result<Self> {
        let got = self.violation.registers.get(number).map(|hex| hex.0);
        self.check(
            got == Some(expected),
            format!("register {number} is {got:x?}, expected {expected:#x}"),
        )
    }
}

/// Checks on Linux.
#[derive(Clone, Copy, Debug)]
pub struct LinuxCheck<'a> {
    ended: &'a Ended,
    linux: &'a Linux,
}

impl<'a> LinuxCheck<'a> {
    pub(crate) fn new(ended: &'a Ended, linux: &'a Linux) -> Self {
        Self { ended, linux }
    }

    /// Its part of the report.
    #[must_use]
    pub fn report(&self) -> &'a Linux {
        self.linux
    }

    /// The command ended with this status.
    ///
    /// # Errors
    /// It ended with another, or did not end.
    pub fn run_status(self, expected: i32) -> Result<Self> {
        let got = self.linux.run_status;
        let message = format!("run_status {got:?}, expected {expected}");
        self.check(got == Some(expected), message)
    }

    /// Its last state.
    ///
    /// # Errors
    /// It is in another.
    pub fn state(self, expected: LinuxState) -> Result<Self> {
        let got = self.linux.state;
        let message = format!("state {}, expected {}", got.name(), expected.name());
        self.check(got == expected, message)
    }

    /// Its console has `text`.
    ///
    /// # Errors
    /// It has not.
    pub fn says(self, text: &str) -> Result<Self> {
        let found = self.ended.linux_console().contains(text);
        self.check(found, format!("its console lacks {text:?}"))
    }

    /// Its console has no line with `text`.
    ///
    /// # Errors
    /// It has.
    pub fn does_not_say(self, text: &str) -> Result<Self> {
        let line = self
            .ended
            .linux_console()
            .lines()
            .find(|line| line.contains(text));
        let message = format!("it said {:?}", line.unwrap_or_default());
        self.check(line.is_none(), message)
    }

    /// Fails with `message` unless `holds`.
    ///
    /// # Errors
    /// It does not.
    pub fn check(self, holds: bool, message: impl Display) -> Result<Self> {
        self.ended
            .ensure(holds, format!("linux: {message}"))
            .map(|()| self)
    }
}

#[cfg(test)]
mod tests;
