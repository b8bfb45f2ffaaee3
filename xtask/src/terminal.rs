//! The user's terminal: raw while a machine runs, restored however we end.

use std::io::{IsTerminal, Read, Write, stdin, stdout};
use std::sync::Mutex;
use std::sync::mpsc::Sender;
use std::thread;

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::machine::Event;
use crate::run::Screen;

/// Ctrl-A: begins a command to us, as in QEMU.
const ESCAPE: u8 = 1;

/// The terminal's settings before raw mode, for whoever restores it first:
/// the guard, or the panic hook (the profile aborts, so that no guard is
/// dropped).
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// While it lives, standard input is in raw mode.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Raw mode, if standard input and output are a terminal.
    ///
    /// # Errors
    /// The terminal refuses.
    pub fn enter() -> Result<Option<Self>> {
        if !stdin().is_terminal() || !stdout().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(stdin()).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        if let Ok(mut saved) = SAVED.lock() {
            *saved = Some(before);
        }
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            previous(info);
        }));
        tcsetattr(stdin(), OptionalActions::Now, &raw).context("cannot set raw mode")?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Ok(mut saved) = SAVED.lock()
        && let Some(before) = saved.take()
    {
        // Nothing is left to be done if the terminal is gone.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &before);
        let _ = writeln!(stdout());
    }
}

/// Turns SIGINT, SIGTERM, SIGHUP and SIGQUIT into an orderly end of the run.
///
/// # Errors
/// The handlers cannot be set.
pub fn watch_signals(sender: Sender<Event>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT])?;
    thread::spawn(move || {
        for signal in signals.forever() {
            let why = format!("ended by signal {signal}");
            if sender.send(Event::Quit(why)).is_err() {
                break;
            }
        }
    });
    Ok(())
}

/// Sends what is typed to Linux. Ctrl-A x ends the run; Ctrl-A Ctrl-A sends
/// one Ctrl-A. Ends with the process.
pub fn forward_keys(sender: Sender<Event>) {
    thread::spawn(move || {
        let mut keys = Keys::default();
        let mut buffer = [0; 256];
        while let Ok(count @ 1..) = stdin().read(&mut buffer) {
            for event in keys.push(buffer.get(..count).unwrap_or_default()) {
                if sender.send(event).is_err() {
                    return;
                }
            }
        }
    });
}

/// Tells commands to us from keys for Linux.
#[derive(Debug, Default)]
struct Keys {
    escaped: bool,
}

impl Keys {
    fn push(&mut self, typed: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        let mut keys = Vec::new();
        for &byte in typed {
            match (std::mem::take(&mut self.escaped), byte) {
                (false, ESCAPE) => self.escaped = true,
                (true, b'x' | b'X') => {
                    events.push(Event::Quit("ended by the user (Ctrl-A x)".into()));
                }
                (_, byte) => keys.push(byte),
            }
        }
        if !keys.is_empty() {
            events.insert(0, Event::Keys(keys));
        }
        events
    }
}

/// Shows a run on standard output: Linux raw, all other lines marked.
#[derive(Debug)]
pub struct TerminalScreen {
    colour: bool,
    raw: bool,
    /// Whether Linux's last output did not end a line.
    middle: bool,
    /// What of [`GRUB_CLEARS`] may still come.
    prologue: &'static [u8],
}

/// What GRUB sends first on COM1: it would clear the user's screen.
const GRUB_CLEARS: &[u8] = b"\x1b[H\x1b[J\x1b[1;1H";

impl TerminalScreen {
    /// `raw`: the terminal is in raw mode and needs carriage returns.
    #[must_use]
    pub fn new(raw: bool) -> Self {
        Self {
            colour: stdout().is_terminal(),
            raw,
            middle: false,
            prologue: GRUB_CLEARS,
        }
    }

    fn line(&mut self, colour: &str, mark: &str, line: &str) {
        let end = if self.raw { "\r\n" } else { "\n" };
        let start = if std::mem::take(&mut self.middle) {
            end
        } else {
            ""
        };
        let printable: String = line
            .chars()
            .map(|c| {
                if c.is_control() && c != '\t' {
                    '\u{fffd}'
                } else {
                    c
                }
            })
            .collect();
        let text = if self.colour {
            format!("{start}\x1b[{colour}m[{mark}]\x1b[0m {printable}{end}")
        } else {
            format!("{start}[{mark}] {printable}{end}")
        };
        put(text.as_bytes());
    }
}

impl Screen for TerminalScreen {
    fn linux(&mut self, bytes: &[u8]) {
        let mut bytes = bytes;
        while let (Some((first, rest)), Some((expected, later))) =
            (bytes.split_first(), self.prologue.split_first())
        {
            if first != expected {
                self.prologue = &[];
                break;
            }
            (bytes, self.prologue) = (rest, later);
        }
        if let Some(last) = bytes.last() {
            self.middle = *last != b'\n';
        }
        put(bytes);
    }

    fn hypervisor(&mut self, line: &str) {
        self.line("36", "cloister", line);
    }

    fn partition(&mut self, name: &str, line: &str) {
        self.line("33", name, line);
    }
}

/// A reader that went away (`| head`) is no reason to stop the machine.
fn put(bytes: &[u8]) {
    let mut out = stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_commands() {
        let mut keys = Keys::default();
        assert_eq!(keys.push(b"ls\x03"), [Event::Keys(b"ls\x03".to_vec())]);
        assert_eq!(keys.push(b"\x01"), []);
        assert_eq!(keys.push(b"\x01a"), [Event::Keys(b"\x01a".to_vec())]);
        let events = keys.push(b"b\x01x");
        assert!(matches!(events.as_slice(), [Event::Keys(k), Event::Quit(_)] if k == b"b"));
    }
}
