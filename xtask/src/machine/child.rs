//! The child process, its consoles' threads, and what they report.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::threads::Threads;
use super::witness::{Testimony, Witness};

/// One of the two consoles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Linux's.
    Linux,
    /// The hypervisor's.
    Hypervisor,
}

/// What happens while a machine runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A console printed.
    Output(Port, Vec<u8>),
    /// The user typed; to be sent to Linux's console.
    Keys(Vec<u8>),
    /// The user, or a signal, wants the run to end.
    Quit(String),
    /// The machine's process ended.
    Exited,
}

/// How long the last output may take after the process ended.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// A running machine. Dropping it kills it, and it dies with the thread that
/// started it (prctl(2), PR_SET_PDEATHSIG).
#[derive(Debug)]
pub struct Child {
    process: std::process::Child,
    program: &'static str,
    sender: Sender<Event>,
    events: Receiver<Event>,
    readers: Vec<JoinHandle<()>>,
    inputs: Vec<(Port, File)>,
    /// Open as long as the process lives: see `bochs`.
    held: Vec<File>,
    status: Option<ExitStatus>,
    /// Of QEMU under TCG with a thread for each core.
    threads: Option<Threads>,
    witness: Option<Witness>,
    stderr: PathBuf,
    /// Sockets, logs; removed at the end.
    _work: TempDir,
}

impl Child {
    /// Starts `program` with `arguments`; standard error goes to a file in
    /// `work`. `setpriv` makes it die with us without any unsafe code here.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn spawn(
        program: &'static str,
        work: TempDir,
        configure: impl FnOnce(&mut Command),
    ) -> Result<Self> {
        let stderr = work.path().join("stderr");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", program]);
        configure(&mut command);
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&stderr)?)
            // Ctrl-C in our terminal is for us.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let (sender, events) = channel();
        Ok(Self {
            process,
            program,
            sender,
            events,
            readers: Vec::new(),
            inputs: Vec::new(),
            held: Vec::new(),
            status: None,
            threads: None,
            witness: None,
            stderr,
            _work: work,
        })
    }

    /// Reads `port` from `file` in a thread of its own, and writes to it.
    ///
    /// # Errors
    /// The file cannot be duplicated.
    pub(crate) fn attach(&mut self, port: Port, file: File) -> Result<()> {
        let mut input = file.try_clone()?;
        self.inputs.push((port, file));
        let sender = self.sender.clone();
        self.readers.push(thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end of file, an error (EIO from a pty whose other side
            // closed) or a receiver that is gone ends the thread.
            while let Ok(count @ 1..) = input.read(&mut buffer) {
                let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                if sender.send(Event::Output(port, bytes)).is_err() {
                    break;
                }
            }
        }));
        Ok(())
    }

    /// Keeps `file` open until the process has ended.
    pub(super) fn hold(&mut self, file: File) {
        self.held.push(file);
    }

    /// Lets `reader` run in a thread of its own until the machine has ended.
    pub(super) fn read_with(&mut self, reader: impl FnOnce() + Send + 'static) {
        self.readers.push(thread::spawn(reader));
    }

    /// Learns which of the process's threads is which core.
    pub(super) fn learn(&mut self, threads: Threads) {
        self.threads = Some(threads);
    }

    /// Lets `witness` count this machine's exits.
    pub(super) fn watch(&mut self, witness: Witness) {
        self.witness = Some(witness);
    }

    /// What the outside witness saw; [`None`] if none was asked for. Complete
    /// when the machine has ended.
    ///
    /// # Errors
    /// What it wrote down is incomplete or not understood.
    pub fn testimony(&self) -> Result<Option<Testimony>> {
        let witness = self.witness.as_ref();
        let threads = self.threads.as_ref();
        witness.map(|w| w.testimony(threads)).transpose()
    }

    /// For threads that add events of their own.
    #[must_use]
    pub fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// The next event, or [`None`] after `timeout`. [`Event::Exited`] comes
    /// after all output.
    pub fn next_event(&mut self, timeout: Duration) -> Option<Event> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(threads) = &mut self.threads {
                threads.look(self.process.id());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let slice = left.min(Duration::from_millis(20));
            match self.events.recv_timeout(slice) {
                Ok(event) => return Some(event),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            if self.ended() {
                self.join_readers();
                return Some(self.events.try_recv().unwrap_or(Event::Exited));
            }
            if left.is_zero() {
                return None;
            }
        }
    }

    /// Whether the process has ended.
    pub fn ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.process.try_wait().ok().flatten();
        }
        self.status.is_some()
    }

    /// Sends bytes to a console's input.
    ///
    /// # Errors
    /// The machine has closed it.
    pub fn send(&mut self, port: Port, bytes: &[u8]) -> Result<()> {
        for (_, file) in self.inputs.iter_mut().filter(|(p, _)| *p == port) {
            file.write_all(bytes)
                .with_context(|| format!("{} no longer takes input", self.program))?;
        }
        Ok(())
    }

    /// Ends the process if it still runs. What it printed can still be
    /// received.
    pub fn kill(&mut self) {
        if !self.ended() {
            // An error says that it has ended meanwhile.
            let _ = self.process.kill();
            self.status = self.process.wait().ok();
        }
        self.join_readers();
    }

    /// What the machine's own program complained about, for error messages.
    #[must_use]
    pub fn complaints(&self) -> String {
        let text = std::fs::read_to_string(&self.stderr).unwrap_or_default();
        let status = match self.status {
            Some(status) => format!("{} ended: {status}", self.program),
            None => format!("{} runs", self.program),
        };
        match text.trim() {
            "" => status,
            text => format!("{status}; it says: {text}"),
        }
    }

    /// Waits until the consoles' last output is in the queue. That comes at
    /// once; the limit is for a console that somebody else holds open.
    fn join_readers(&mut self) {
        self.held.clear();
        let deadline = Instant::now() + LAST_OUTPUT;
        while self.readers.iter().any(|reader| !reader.is_finished()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        self.readers.clear();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn sleeping() -> Child {
        Child::spawn("sleep", tempfile::tempdir().unwrap(), |command| {
            command.arg("600");
        })
        .unwrap()
    }

    /// Name and state of a process (proc(5), `stat`); none if it is gone.
    fn state(process: u32) -> Option<(String, char)> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.split_once(") ")?;
        Some((name.into(), rest.chars().next()?))
    }

    fn wait_until(what: &str, done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed().as_secs() < 60, "{what} did not come");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn runs(process: u32) -> bool {
        state(process).is_some_and(|(name, state)| name == "sleep" && state != 'Z')
    }

    #[test]
    fn nothing_is_left_when_it_is_dropped() {
        let child = sleeping();
        let process = child.process.id();
        wait_until("the start", || runs(process));
        drop(child);
        assert_eq!(state(process), None);
    }

    /// As when we are killed: nobody has dropped anything.
    #[test]
    fn nothing_is_left_when_who_started_it_dies() {
        let process = thread::spawn(|| {
            let child = sleeping();
            let process = child.process.id();
            wait_until("the start", || runs(process));
            std::mem::forget(child);
            process
        })
        .join()
        .unwrap();
        wait_until("its end", || !runs(process));
    }
}
