//! Measures how long its loop is kept from running, as `spin` does, and sends
//! that through a channel while it goes on; obeys the commands that come back.
//! Neither costs an exit, so it stays in STRICT mode.
//!
//! | argument | meaning | without it |
//! |---|---|---|
//! | `channel=NAME` | the channel | `telemetry` |
//! | `rate=N` | one report every N rounds | 1,000,000 |
//! | `rounds=N` | end after N rounds | 0: never |
//! | `flags=A+B` | dataplane flags, by name, or `none` | quiesce, strict and populate |
//!
//! A report is the text `n=1 rounds=1000000 longest=40 exits=0 interrupts=0
//! dropped=0`: reports so far, rounds, the longest gap between two readings of
//! the TSC since the last report, exits and interrupts since it was quiet, and
//! reports for which the channel had no room. [`command::Command`] lists what
//! can be sent to it; each is answered by `ok TEXT` or `error TEXT`. A report for
//! which there is no room is dropped; an answer waits, and the next command with
//! it.
//!
//! Exit codes: 0 done, 1 the dataplane mode or the channel was refused, 2 bad
//! arguments.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use core::sync::atomic::Ordering::Relaxed;

use cloister_runtime::channel::{self, Channel, SendError};
use cloister_runtime::cpu::rdtsc;
use cloister_runtime::{Dataplane, Partition, args, entry, measure, println, set_dataplane};
use program_telemetry::command::Command;
use program_telemetry::line::{LONGEST, Line};

entry!(main);

fn main(partition: &Partition) -> u64 {
    let numbers = partition
        .number("rate", 1_000_000)
        .and_then(|rate| Ok((rate.max(1), partition.number("rounds", 0)?)));
    let all = Dataplane::QUIESCE | Dataplane::STRICT | Dataplane::POPULATE;
    let flags = partition.arg("flags").map_or(Some(all), args::flags);
    let ((rate, rounds), flags) = match (numbers, flags) {
        (Ok(numbers), Some(flags)) => (numbers, flags),
        (Err(error), _) => {
            println!("telemetry: args: {error}");
            return 2;
        }
        (_, None) => {
            println!("telemetry: args: flags are names joined by +, or none");
            return 2;
        }
    };
    let name = partition.arg("channel").unwrap_or("telemetry");
    let channel = match channel::open(partition, name) {
        Ok(channel) => channel,
        Err(error) => {
            println!("telemetry: channel {name}: {error}");
            return 1;
        }
    };
    if !flags.is_empty()
        && let Err(error) = set_dataplane(flags)
    {
        println!("telemetry: set_dataplane({flags:?}): {error}");
        return 1;
    }
    println!("telemetry: talks to {}", channel.info.peer());
    let mut telemetry = Telemetry {
        partition,
        channel,
        rate,
        sent: 0,
        dropped: 0,
        answer: None,
        commands: 0,
        corrupt: 0,
    };
    let done = telemetry.run(rounds);
    let counters = partition.own_counters();
    println!(
        "telemetry: done rounds={done} sent={} dropped={} commands={} corrupt={} since_quiesce={}",
        telemetry.sent,
        telemetry.dropped,
        telemetry.commands,
        telemetry.corrupt,
        counters.since_quiesce.load(Relaxed),
    );
    0
}

struct Telemetry<'a> {
    partition: &'a Partition,
    channel: Channel,
    /// Rounds between two reports.
    rate: u64,
    /// Messages.
    sent: u64,
    /// Reports for which there was no room.
    dropped: u64,
    /// An answer for which there was no room yet.
    answer: Option<Line>,
    /// Commands obeyed.
    commands: u64,
    /// How often the other end wrote nonsense.
    corrupt: u64,
}

impl Telemetry<'_> {
    /// The loop: `limit` rounds, or without end for 0; returns how many.
    fn run(&mut self, limit: u64) -> u64 {
        let (mut reports, mut longest, mut left) = (0_u64, 0, self.rate);
        let mut last = rdtsc();
        let (mut round, mut stopping) = (0_u64, false);
        while limit == 0 || round < limit {
            round += 1;
            let now = rdtsc();
            longest = longest.max(now.wrapping_sub(last));
            last = now;
            if let Some(answer) = self.answer.take() {
                if !self.send(&answer) {
                    self.answer = Some(answer);
                }
                last = rdtsc();
            } else if stopping {
                return round;
            } else if !self.channel.receiver.is_empty() {
                match self.obey() {
                    Some(Command::Stop) => stopping = true,
                    Some(Command::Rate(_)) => left = self.rate,
                    _ => {}
                }
                last = rdtsc();
            }
            left = left.saturating_sub(1);
            if left == 0 {
                left = self.rate;
                reports += 1;
                let counters = self.partition.own_counters();
                let dropped = self.dropped;
                let line = Line::new(format_args!(
                    "n={reports} rounds={round} longest={longest} exits={} interrupts={} dropped={dropped}",
                    counters.since_quiesce.load(Relaxed),
                    counters.interrupts_since_quiesce.load(Relaxed),
                ));
                if !self.send(&line) {
                    self.dropped += 1;
                }
                longest = 0;
                last = rdtsc();
            }
        }
        round
    }

    /// Does what the next message says, and answers.
    fn obey(&mut self) -> Option<Command> {
        let mut buffer = [0; LONGEST];
        let taken = self.channel.receiver.receive_with(|message| {
            let bytes = message.copy_to(&mut buffer);
            (Command::parse(bytes), bytes.len())
        });
        let (command, length) = match taken {
            Ok(message) => message?,
            Err(_) => {
                self.corrupt += 1;
                return None;
            }
        };
        let text = buffer.get(..length).unwrap_or(&[]);
        let text = core::str::from_utf8(text).unwrap_or("no text");
        let Some(command) = command else {
            self.answer = Some(Line::new(format_args!(
                "error \"{text}\" is no command: rate=N, stop, cpuid"
            )));
            return None;
        };
        match command {
            Command::Rate(rate) => self.rate = rate,
            Command::Cpuid => _ = measure::cpuid(0),
            Command::Stop => {}
        }
        self.commands += 1;
        self.answer = Some(Line::new(format_args!("ok {}", text.trim())));
        Some(command)
    }

    /// Sends a line if there is room, and says whether: it never waits.
    fn send(&mut self, line: &Line) -> bool {
        let sent = self.channel.sender.send(line.bytes());
        self.sent += u64::from(sent.is_ok());
        self.corrupt += u64::from(matches!(sent, Err(SendError::Corrupt(_))));
        sent.is_ok()
    }
}
