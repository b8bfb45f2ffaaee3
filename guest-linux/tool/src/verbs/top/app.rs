//! What the screen shows and what keys do to it.

use std::time::{Duration, Instant};

use anyhow::Result;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::widgets::TableState;

use crate::device::Device;
use crate::snapshot::Machine;
use crate::verbs::top::reading::{Line, Reading, compare};
use crate::verbs::top::screen;
use crate::verbs::top::terminal::Session;

/// Bounds of the interval.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
/// How soon a signal is noticed.
const NAP: Duration = Duration::from_millis(100);
/// Bytes at the end of a partition's console that are looked at.
const CONSOLE_TAIL: usize = 4096;

/// By what the lines are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Core,
    Owner,
    Exits,
    SinceQuiesce,
}

impl Sort {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Owner => "owner",
            Self::Exits => "exits/s",
            Self::SinceQuiesce => "since quiesce",
        }
    }

    const fn next(self) -> Self {
        match self {
            Self::Core => Self::Owner,
            Self::Owner => Self::Exits,
            Self::Exits => Self::SinceQuiesce,
            Self::SinceQuiesce => Self::Core,
        }
    }
}

/// What a key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    GoOn,
    Quit,
    /// Leave the terminal to the shell until it says go on.
    Suspend,
    /// Ask a serial terminal for its size.
    Measure,
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct App {
    pub(super) machine: Machine,
    pub(super) reading: Reading,
    pub(super) interval: Duration,
    pub(super) sort: Sort,
    pub(super) reverse: bool,
    /// Details of the selected core's owner are shown.
    pub(super) details: bool,
    /// The core that is selected, wherever sorting puts it.
    pub(super) selected: u32,
    /// The selected partition's console, its end.
    pub(super) console: String,
    pub(super) table: TableState,
}

impl App {
    pub(super) fn new(machine: Machine, interval: Duration) -> Self {
        let selected = machine
            .partitions
            .first()
            .and_then(|partition| partition.cpus.first());
        Self {
            reading: compare(&machine, &machine, 1.0),
            selected: selected.copied().unwrap_or(0),
            machine,
            interval: interval.clamp(SHORTEST, LONGEST),
            sort: Sort::Core,
            reverse: false,
            details: true,
            console: String::new(),
            table: TableState::new(),
        }
    }

    /// Takes a new snapshot.
    pub(super) fn advance(&mut self, now: Machine, seconds: f64) {
        self.reading = compare(&self.machine, &now, seconds);
        self.machine = now;
    }

    /// The lines in their order.
    pub(super) fn lines(&self) -> Vec<&Line> {
        let mut lines: Vec<&Line> = self.reading.cores.iter().collect();
        match self.sort {
            Sort::Core => {}
            Sort::Owner => lines.sort_by_key(|line| (line.owner.is_none(), line.owner.clone())),
            Sort::Exits => {
                lines.sort_by(|a, b| b.exits_per_second.total_cmp(&a.exits_per_second));
            }
            Sort::SinceQuiesce => {
                lines.sort_by_key(|line| std::cmp::Reverse(line.since_quiesce));
            }
        }
        if self.reverse {
            lines.reverse();
        }
        lines
    }

    fn step(&mut self, by: isize) {
        let lines = self.lines();
        let at = lines.iter().position(|line| line.core == self.selected);
        let to = at.unwrap_or(0).saturating_add_signed(by);
        let line = lines.get(to.min(lines.len().saturating_sub(1)));
        if let Some(core) = line.map(|line| line.core) {
            self.selected = core;
        }
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Then {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return Then::Quit,
            KeyCode::Char('z') if control => return Then::Suspend,
            KeyCode::Char('l') if control => return Then::Measure,
            KeyCode::Char('q') | KeyCode::Esc => return Then::Quit,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Char('k') | KeyCode::Up => self.step(-1),
            KeyCode::Char('j') | KeyCode::Down => self.step(1),
            KeyCode::Home => self.step(isize::MIN),
            KeyCode::End => self.step(isize::MAX),
            KeyCode::Enter | KeyCode::Char(' ') => self.details = !self.details,
            KeyCode::Char('+') => self.interval = (self.interval * 2).min(LONGEST),
            KeyCode::Char('-') => self.interval = (self.interval / 2).max(SHORTEST),
            _ => {}
        }
        Then::GoOn
    }

    fn read_console(&mut self, device: &Device) -> Result<()> {
        let mut bytes = Vec::new();
        let owner = self.machine.partitions.iter();
        let mut owner = owner.filter(|partition| partition.cpus.contains(&self.selected));
        if let Some(partition) = owner.next() {
            device.console(partition.index, 0, &mut bytes)?;
        }
        let tail = bytes.len().saturating_sub(CONSOLE_TAIL);
        self.console = String::from_utf8_lossy(bytes.get(tail..).unwrap_or(&[])).into_owned();
        Ok(())
    }
}

/// Shows the screen until the user has seen enough.
pub(super) fn run(device: &Device, interval: Duration) -> Result<()> {
    let mut app = App::new(device.machine()?, interval);
    let mut session = Session::new()?;
    let mut taken = Instant::now();
    // The first rates come soon.
    let mut due = taken + SHORTEST.min(app.interval);
    loop {
        app.read_console(device)?;
        session.draw(|frame| screen::draw(frame, &mut app))?;
        loop {
            if session.ended() {
                return session.finish();
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let now = device.machine()?;
                app.advance(now, taken.elapsed().as_secs_f64());
                taken = Instant::now();
                due = taken + app.interval;
                break;
            }
            if !event::poll(left.min(NAP))? {
                continue;
            }
            let then = match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => app.key(key),
                Event::Resize(..) => Then::GoOn,
                _ => continue,
            };
            match then {
                Then::GoOn => {}
                Then::Quit => return Ok(()),
                Then::Suspend => session.suspend()?,
                Then::Measure => session.measure()?,
            }
            due = due.min(Instant::now() + app.interval);
            break;
        }
    }
}
