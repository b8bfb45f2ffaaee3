//! A machine that runs.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use xtask::machine::Event;
use xtask::{Console, Live};

use crate::ended::Ended;

/// What the hypervisor prints when it refuses to start.
const CANNOT_START: &str = "cannot start: ";
/// How long it may take from there to its last record.
const LAST_RECORD: Duration = Duration::from_millis(300);

/// A machine that runs. Dropping it stops it.
pub struct Running {
    live: Live,
}

impl Running {
    pub(crate) fn new(live: Live) -> Self {
        Self { live }
    }

    /// Waits until `console` prints `text` after what the last wait on it
    /// found. A shell echoes what is typed: wait for what is not in the
    /// command.
    ///
    /// # Errors
    /// It does not within `seconds`, or the run ends before; with the last
    /// lines of each console.
    pub fn wait_for(&mut self, console: Console, text: &str, seconds: u64) -> Result<()> {
        self.live
            .wait_for(console, text, Duration::from_secs(seconds))
    }

    /// Types `line` and Enter at Linux's console.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.live.send(format!("{line}\n").as_bytes())
    }

    /// Sends bytes to Linux's console, as if typed: `b"\x03"` is Ctrl-C.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn type_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.live.send(bytes)
    }

    /// What `console` printed so far.
    #[must_use]
    pub fn console(&self, console: &Console) -> String {
        self.live.console(console)
    }

    /// Lets it run on for `milliseconds`, or until it ends.
    pub fn run_for(&mut self, milliseconds: u64) {
        self.live.run_for(Duration::from_millis(milliseconds));
    }

    /// What was done from outside, `result`; where that failed, with the last
    /// lines of each console.
    ///
    /// # Errors
    /// That of `result`.
    pub fn explain<T>(&mut self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            self.run_for(500);
            anyhow!("{error:#}\n{}", self.live.tails())
        })
    }

    /// Waits for the end, at most until the system's deadline.
    ///
    /// # Errors
    /// None at present: how it ended is in the report.
    pub fn finish(self) -> Result<Ended> {
        Ok(Ended::new(self.live.finish()?))
    }

    /// Waits until the hypervisor refuses to start.
    pub(crate) fn finish_refused(mut self) -> Result<Ended> {
        let patience = Duration::from_secs(300);
        self.live
            .wait_for(Console::Hypervisor, CANNOT_START, patience)?;
        // It halts after its last record and the machine goes on: end it.
        self.live.run_for(LAST_RECORD);
        let stop = Event::Quit("the hypervisor refused to start".into());
        if self.live.sender().send(stop).is_err() {
            bail!("the machine ended by itself");
        }
        self.finish()
    }
}
