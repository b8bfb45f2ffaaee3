//! A machine that runs: its consoles, its end.

use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use cloister_abi::record::Record;
use guest_linux::{RUN_STATUS, USER_SPACE};
use tempfile::TempDir;

use super::{Console, Finished, tail};
use crate::machine::{Child, Event, Port};
use crate::report::{Ending, Fold, Outcome};
use crate::stream::{Lines, Piece, Splitter};
use crate::symbols::Symbols;

/// Who is shown a run's consoles while it runs.
pub trait Screen {
    /// Linux printed; bytes for a terminal as they are.
    fn linux(&mut self, bytes: &[u8]);
    /// The hypervisor printed a line.
    fn hypervisor(&mut self, line: &str);
    /// A partition printed a line.
    fn partition(&mut self, name: &str, line: &str);
}

/// What Linux prints before it stops for good.
const LINUX_PANIC: &str = "Kernel panic - not syncing";
/// How long a machine in which nothing can happen any more is watched.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// A machine that runs. Dropping it stops it.
pub struct Live {
    child: Child,
    fold: Fold,
    screen: Option<Box<dyn Screen>>,
    started: Instant,
    deadline: Instant,
    grace: Duration,
    hypervisor_elf: Option<PathBuf>,
    linux: Stream,
    hypervisor: Stream,
    hypervisor_lines: Lines,
    /// Partitions' consoles: name, text, how far `wait_for` got.
    partitions: Vec<(String, String, usize)>,
    /// The first moment at which nothing could happen any more.
    over_since: Option<Instant>,
    ending: Option<Ending>,
    _image: TempDir,
}

#[derive(Default)]
struct Stream {
    splitter: Splitter,
    bytes: Vec<u8>,
    /// How far `wait_for` got.
    cursor: usize,
}

impl Live {
    pub(super) fn new(
        child: Child,
        fold: Fold,
        timeout: Duration,
        grace: Duration,
        hypervisor_elf: Option<PathBuf>,
        image: TempDir,
    ) -> Self {
        let started = Instant::now();
        Self {
            child,
            fold,
            screen: None,
            started,
            deadline: started + timeout,
            grace,
            hypervisor_elf,
            linux: Stream::default(),
            hypervisor: Stream::default(),
            hypervisor_lines: Lines::default(),
            partitions: Vec::new(),
            over_since: None,
            ending: None,
            _image: image,
        }
    }

    /// Shows everything to `screen` from now on.
    pub fn show(&mut self, screen: Box<dyn Screen>) {
        self.screen = Some(screen);
    }

    /// For a thread that reads the keyboard or waits for signals.
    #[must_use]
    pub fn sender(&self) -> Sender<Event> {
        self.child.sender()
    }

    /// Wall time since the machine was started.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// What `console` printed so far.
    #[must_use]
    pub fn console(&self, console: &Console) -> String {
        match console {
            Console::Linux => String::from_utf8_lossy(&self.linux.bytes).into_owned(),
            Console::Hypervisor => String::from_utf8_lossy(&self.hypervisor.bytes).into_owned(),
            Console::Partition(name) => self
                .partitions
                .iter()
                .find(|(n, _, _)| n == name)
                .map(|(_, text, _)| text.clone())
                .unwrap_or_default(),
        }
    }

    /// Sends bytes to Linux's console, as if typed.
    ///
    /// # Errors
    /// The machine has ended.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.child.send(Port::Linux, bytes)
    }

    /// Waits until `console` prints `pattern` (plain text) after what the last
    /// `wait_for` on it found. A shell echoes what is sent to it: wait for
    /// something that is not in the command.
    ///
    /// # Errors
    /// It does not within `patience`, or the run ends before; the message has
    /// the end of each console.
    pub fn wait_for(&mut self, console: Console, pattern: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            if self.find(&console, pattern) {
                return Ok(());
            }
            let over = self.ending.is_some();
            if over || Instant::now() >= deadline {
                let why = match &self.ending {
                    Some(ending) => format!("the run ended ({ending:?})"),
                    None => format!("not within {} s", patience.as_secs()),
                };
                bail!(
                    "waiting for {pattern:?} on {console:?}: {why}\n{}",
                    self.tails()
                );
            }
            self.step(deadline);
        }
    }

    /// Lets the machine run for `time`, or until it ends.
    pub fn run_for(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while self.ending.is_none() && Instant::now() < deadline {
            self.step(deadline);
        }
    }

    /// Waits for the end of the run: the machine ends, the hypervisor says
    /// that nothing follows, or the time is up.
    ///
    /// # Errors
    /// The outside witness failed. A bad outcome is no error: it is in the
    /// report.
    pub fn finish(mut self) -> Result<Finished> {
        while self.ending.is_none() {
            self.step(self.deadline);
        }
        let seconds = self.started.elapsed();
        self.child.kill();
        while let Some(event @ Event::Output(..)) = self.child.next_event(Duration::ZERO) {
            self.take(event);
        }
        if let Some(rest) = self.hypervisor_lines.finish() {
            self.hypervisor_line(&rest);
        }
        let mut hypervisor_console = String::from_utf8_lossy(&self.hypervisor.bytes).into_owned();
        let report = self
            .fold
            .finish(self.ending.unwrap_or(Ending::Over), seconds);
        if report.outcome == Outcome::HypervisorPanic
            && let Some(names) = resolve(self.hypervisor_elf.as_ref(), &hypervisor_console)
        {
            if let Some(screen) = &mut self.screen {
                names.lines().for_each(|line| screen.hypervisor(line));
            }
            hypervisor_console.push_str(&names);
        }
        Ok(Finished {
            report,
            linux_console: String::from_utf8_lossy(&self.linux.bytes).into_owned(),
            hypervisor_console,
            machine_log: self.child.complaints(),
            testimony: self.child.testimony()?,
        })
    }

    /// Takes what happens next, until `deadline` at most, and notices an end.
    fn step(&mut self, deadline: Instant) {
        let now = Instant::now();
        let until = deadline.min(self.deadline);
        let slice = until
            .saturating_duration_since(now)
            .min(Duration::from_millis(100));
        if let Some(event) = self.child.next_event(slice) {
            self.take(event);
        }
        if self.ending.is_some() {
            return;
        }
        let now = Instant::now();
        let over = if self.fold.failed() {
            Some((Duration::ZERO, Ending::Over))
        } else if self.fold.ended() {
            Some((self.grace, Ending::Over))
        } else if self.fold.stuck() {
            Some((LAST_WORDS, Ending::NothingLeft))
        } else {
            None
        };
        if let Some((grace, ending)) = over {
            let since = *self.over_since.get_or_insert(now);
            if now.duration_since(since) >= grace {
                self.ending = Some(ending);
            }
        } else if now >= self.deadline {
            let limit = self.deadline.duration_since(self.started).as_secs();
            self.ending = Some(Ending::TimeUp(limit));
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Output(Port::Linux, bytes) => self.linux_output(&bytes),
            Event::Output(Port::Hypervisor, bytes) => self.hypervisor_output(&bytes),
            // An error means that the machine has ended; that comes next.
            Event::Keys(bytes) => drop(self.send(&bytes)),
            Event::Quit(why) => {
                self.ending.get_or_insert(Ending::Quit(why));
            }
            Event::Exited => {
                self.ending.get_or_insert(Ending::Over);
            }
        }
    }

    fn linux_output(&mut self, bytes: &[u8]) {
        for piece in self.linux.splitter.push(bytes) {
            match piece {
                Piece::Plain(bytes) => {
                    // The text may be cut anywhere: look at what is new and a
                    // bit of what was there.
                    let seam = self.linux.bytes.len().saturating_sub(LINUX_PANIC.len());
                    self.linux.bytes.extend_from_slice(&bytes);
                    let new = self.linux.bytes.get(seam..).unwrap_or_default();
                    if find(new, LINUX_PANIC.as_bytes()).is_some() {
                        self.fold.linux_panicked();
                    }
                    if let Some(screen) = &mut self.screen {
                        screen.linux(&bytes);
                    }
                }
                Piece::Marked(line) => {
                    let status = line
                        .strip_prefix(RUN_STATUS)
                        .and_then(|rest| rest.trim().parse().ok());
                    if let Some(status) = status {
                        self.fold.run_status(status);
                    } else if line == USER_SPACE {
                        self.fold.user_space(self.started.elapsed());
                    }
                }
            }
        }
    }

    fn hypervisor_output(&mut self, bytes: &[u8]) {
        for piece in self.hypervisor.splitter.push(bytes) {
            match piece {
                Piece::Plain(bytes) => {
                    for line in self.hypervisor_lines.push(&bytes) {
                        self.hypervisor_line(&line);
                    }
                }
                Piece::Marked(line) => match serde_json::from_str::<Record<String>>(&line) {
                    Ok(record) => {
                        for (name, line) in self.fold.record(record) {
                            self.partition_line(&name, &line);
                        }
                    }
                    Err(error) => {
                        self.hypervisor_line(&format!("unreadable record ({error}): {line}"));
                    }
                },
            }
        }
    }

    fn hypervisor_line(&mut self, line: &str) {
        self.hypervisor.bytes.extend_from_slice(line.as_bytes());
        self.hypervisor.bytes.push(b'\n');
        if let Some(screen) = &mut self.screen {
            screen.hypervisor(line);
        }
    }

    fn partition_line(&mut self, name: &str, line: &str) {
        if !self.partitions.iter().any(|(n, _, _)| n == name) {
            self.partitions.push((name.to_owned(), String::new(), 0));
        }
        for (_, text, _) in self.partitions.iter_mut().filter(|(n, _, _)| n == name) {
            text.push_str(line);
            text.push('\n');
        }
        if let Some(screen) = &mut self.screen {
            screen.partition(name, line);
        }
    }

    /// Moves the console's cursor behind `pattern` if it is there.
    fn find(&mut self, console: &Console, pattern: &str) -> bool {
        let (bytes, cursor) = match console {
            Console::Linux => (self.linux.bytes.as_slice(), &mut self.linux.cursor),
            Console::Hypervisor => (
                self.hypervisor.bytes.as_slice(),
                &mut self.hypervisor.cursor,
            ),
            Console::Partition(name) => {
                match self.partitions.iter_mut().find(|(n, _, _)| n == name) {
                    Some((_, text, cursor)) => (text.as_bytes(), cursor),
                    None => return false,
                }
            }
        };
        let unseen = bytes.get(*cursor..).unwrap_or_default();
        match find(unseen, pattern.as_bytes()) {
            Some(at) => {
                *cursor += at + pattern.len();
                true
            }
            None => false,
        }
    }

    /// The last lines of each console so far, for messages.
    #[must_use]
    pub fn tails(&self) -> String {
        let mut text = String::new();
        for (name, console) in [
            ("linux", self.console(&Console::Linux)),
            ("hypervisor", self.console(&Console::Hypervisor)),
        ] {
            tail(&mut text, name, &console.lines().collect::<Vec<_>>(), 20);
        }
        for (name, console, _) in &self.partitions {
            tail(&mut text, name, &console.lines().collect::<Vec<_>>(), 20);
        }
        text
    }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    if pattern.is_empty() {
        return Some(0);
    }
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}

/// The functions that the hypervisor's last words name by address.
fn resolve(elf: Option<&PathBuf>, console: &str) -> Option<String> {
    let symbols = Symbols::read(elf?).ok()?;
    let mut names = String::new();
    let lines: Vec<&str> = console.lines().collect();
    let from = lines.len().saturating_sub(60);
    for line in lines.get(from..).unwrap_or_default() {
        if let Some(found) = symbols.annotate(line) {
            names.push_str(&found);
            names.push('\n');
        }
    }
    (!names.is_empty()).then_some(names)
}
