//! Statistics of a program that never stops: a line now and then, on the
//! console and through a channel. Neither costs an exit.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use cloister_runtime::args::BadNumber;
use cloister_runtime::channel::{self, Channel, OpenError};
use cloister_runtime::{Partition, println};
use heapless::String;

/// Longest line, bytes.
const LINE: usize = 192;

/// Sends a line after every so many frames: the argument `report` (0, the
/// default: never), to the channel that the argument `channel` names, if it is
/// there.
#[derive(Debug)]
pub struct Reporter {
    partition: Partition,
    channel: Option<Channel>,
    every: u64,
    next: u64,
    /// Lines for which the channel had no room.
    lost: u64,
}

impl Reporter {
    /// Reads the arguments and opens the channel.
    ///
    /// # Errors
    /// See [`ReporterError`].
    pub fn open(partition: &Partition) -> Result<Self, ReporterError> {
        let every = partition
            .number("report", 0)
            .map_err(ReporterError::Number)?;
        let channel = partition
            .arg("channel")
            .map(|name| channel::open(partition, name))
            .transpose()
            .map_err(ReporterError::Channel)?;
        Ok(Self {
            partition: *partition,
            channel,
            every,
            next: every,
            lost: 0,
        })
    }

    /// Whether a line is due after `frames` frames.
    #[inline]
    pub fn due(&mut self, frames: u64) -> bool {
        let due = self.every != 0 && frames >= self.next;
        if due {
            self.next = frames.saturating_add(self.every);
        }
        due
    }

    /// Sends `statistics`, with the exits and interrupts since the core was
    /// quiet and the lines that were lost.
    pub fn send(&mut self, program: &str, statistics: fmt::Arguments<'_>) {
        let counters = self.partition.own_counters();
        let mut line = String::<LINE>::new();
        // What is longer is cut.
        let _ = fmt::write(
            &mut line,
            format_args!(
                "{statistics} exits={} interrupts={} lost={}",
                counters.since_quiesce.load(Relaxed),
                counters.interrupts_since_quiesce.load(Relaxed),
                self.lost
            ),
        );
        println!("{program}: {line}");
        if let Some(channel) = &mut self.channel
            && channel.sender.send(line.as_bytes()).is_err()
        {
            self.lost += 1;
        }
    }
}

/// Why there are no statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReporterError {
    /// The argument `report` is no number.
    Number(BadNumber<'static>),
    /// The channel cannot be opened.
    Channel(OpenError),
}

impl fmt::Display for ReporterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(error) => write!(f, "report: {error}"),
            Self::Channel(error) => write!(f, "channel: {error}"),
        }
    }
}
