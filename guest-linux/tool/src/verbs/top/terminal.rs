//! The terminal: taken, and given back as it was, however this ends.

use std::io::{self, Stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{self, Hide, MoveTo, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    self, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{Frame, Terminal};
use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::low_level::emulate_default_handler;

/// What a terminal has that does not tell its size.
const COLUMNS: u16 = 80;
const ROWS: u16 = 24;

/// The terminal while the screen is shown.
pub(super) struct Session {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    /// The signal that asked for the end, or 0.
    signal: Arc<AtomicUsize>,
}

impl Session {
    /// Takes the terminal.
    ///
    /// # Errors
    /// It is none, or gone.
    pub(super) fn new() -> Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        for number in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            let value = usize::try_from(number)?;
            signal_hook::flag::register_usize(number, Arc::clone(&signal), value)?;
        }
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            report(panic);
        }));
        take().inspect_err(|_| restore())?;
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout()));
        let mut session = Self {
            terminal: terminal.inspect_err(|_| restore())?,
            signal,
        };
        // A serial line has no size.
        if terminal::size().is_ok_and(|(columns, rows)| columns == 0 || rows == 0) {
            session.measure()?;
        }
        Ok(session)
    }

    /// Draws the screen, at the size that the terminal has now.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> Result<()> {
        self.terminal.draw(draw).context("cannot draw")?;
        Ok(())
    }

    /// Whether a signal asks for the end.
    pub(super) fn ended(&self) -> bool {
        self.signal.load(Ordering::Relaxed) != 0
    }

    /// Gives the terminal back, and lets the signal do what it does.
    pub(super) fn finish(self) -> Result<()> {
        let signal = self.signal.load(Ordering::Relaxed);
        drop(self);
        if let Ok(signal @ 1..) = i32::try_from(signal) {
            emulate_default_handler(signal)?;
        }
        Ok(())
    }

    /// Gives the terminal to the shell until this process is told to go on.
    pub(super) fn suspend(&mut self) -> Result<()> {
        restore();
        emulate_default_handler(SIGTSTP)?;
        take()?;
        self.terminal.clear()?;
        Ok(())
    }

    /// Asks the terminal for its size where the line does not know it, by the
    /// place at which the cursor cannot go any further, and tells the line.
    pub(super) fn measure(&mut self) -> Result<()> {
        execute!(io::stdout(), MoveTo(u16::MAX / 2, u16::MAX / 2))?;
        let (columns, rows) = match cursor::position() {
            Ok((column, row)) => (column.saturating_add(1), row.saturating_add(1)),
            Err(_) => (COLUMNS, ROWS),
        };
        let now = tcgetwinsize(io::stdout())?;
        if (now.ws_col, now.ws_row) != (columns, rows) {
            let size = Winsize {
                ws_col: columns,
                ws_row: rows,
                ..now
            };
            tcsetwinsize(io::stdout(), size)?;
        }
        self.terminal.autoresize()?;
        self.terminal.clear()?;
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        restore();
    }
}

fn take() -> Result<()> {
    enable_raw_mode().context("cannot set the terminal up")?;
    execute!(io::stdout(), EnterAlternateScreen, Hide).context("cannot set the terminal up")
}

/// As it was. A terminal that is gone needs nothing.
fn restore() {
    let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}
