//! One end of a channel, for tests: `send` and `receive` numbered messages,
//! `scribble` over the block, or `suffer` that. Or `measure` what a message
//! costs, without a channel ([`measure`]).
//!
//! | argument | meaning | without it |
//! |---|---|---|
//! | `send`, `receive`, `scribble`, `suffer`, `measure` | what to do | required |
//! | `channel=NAME` | the channel | `ring` |
//! | `messages=N` | how many | 1000 |
//! | `longest=N` | bytes of the longest message; their lengths go from 8 up to this, and begin again | 100 |
//! | `flags=A+B` | dataplane flags, by name, or `none` | quiesce, strict and populate |
//! | `cpuid` | execute that instruction at the end, which exits | |
//!
//! Byte `k` of message `n` is the low byte of `n + k`, but for the first eight,
//! which are `n`. A receiver that was restarted goes on with the number at
//! which it stopped.
//!
//! Exit codes: 0 done, 1 dataplane mode or channel refused, 2 bad arguments, 3
//! a message was not what it had to be.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

mod measure;

use core::hint::spin_loop;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use cloister_runtime::channel::{self, Channel, ReceiveError, SendError};
use cloister_runtime::measure::cpuid;
use cloister_runtime::{Dataplane, Partition, args, entry, println, set_dataplane};

entry!(main);

/// Longest message.
const LONGEST: usize = 2048;
/// A word of the block that no ring uses: the scribbler leaves it alone, and
/// writes [`DONE`] there at its end.
const DONE_WORD: usize = 8;
const DONE: u64 = u64::from_le_bytes(*b"scribbld");

struct Task {
    messages: u64,
    longest: usize,
}

fn main(partition: &Partition) -> u64 {
    let all = Dataplane::QUIESCE | Dataplane::STRICT | Dataplane::POPULATE;
    let flags = partition.arg("flags").map_or(Some(all), args::flags);
    let numbers = partition
        .number("messages", 1000)
        .and_then(|messages| Ok((messages, partition.number("longest", 100)?)));
    let (Some(flags), Ok((messages, longest))) = (flags, numbers) else {
        println!("messages: args: bad flags or number");
        return 2;
    };
    if !flags.is_empty()
        && let Err(error) = set_dataplane(flags)
    {
        println!("messages: set_dataplane({flags:?}): {error}");
        return 1;
    }
    if partition.arg("measure").is_some() {
        return measure::all();
    }
    let longest = usize::try_from(longest).unwrap_or(0).clamp(8, LONGEST);
    let task = Task { messages, longest };
    let name = partition.arg("channel").unwrap_or("ring");
    let mut channel = match channel::open(partition, name) {
        Ok(channel) => channel,
        Err(error) => {
            println!("messages: channel {name}: {error}");
            return 1;
        }
    };
    if let Err(error) = channel::open(partition, name) {
        println!("messages: a second time: {error}");
    }
    let (peer, size) = (channel.info.peer(), channel.info.size());
    println!("messages: {name} to {peer}, {size} bytes");
    let asked = |role| partition.arg(role).is_some();
    let code = if asked("send") {
        task.send(&mut channel)
    } else if asked("receive") {
        let first = u64::from(partition.restarts()).saturating_mul(task.messages);
        task.receive(&mut channel, first)
    } else if asked("scribble") {
        task.scribble(&mut channel)
    } else if asked("suffer") {
        task.suffer(&mut channel)
    } else {
        println!("messages: args: send, receive, scribble or suffer");
        2
    };
    if asked("cpuid") {
        let _ = cpuid(0);
    }
    let counters = partition.own_counters();
    println!(
        "messages: peer_starts={} since_quiesce={}",
        channel.info.peer_starts(),
        counters.since_quiesce.load(Relaxed)
    );
    code
}

impl Task {
    /// Message `number`.
    fn message<'a>(&self, number: u64, buffer: &'a mut [u8; LONGEST]) -> &'a [u8] {
        let span = self.longest as u64 - 7;
        let length = usize::try_from(8 + number % span).unwrap_or(8);
        let message = buffer.get_mut(..length).unwrap_or(&mut []);
        for (place, byte) in (number..).zip(message.iter_mut()) {
            [*byte, ..] = place.to_le_bytes();
        }
        for (byte, digit) in message.iter_mut().zip(number.to_le_bytes()) {
            *byte = digit;
        }
        message
    }

    fn send(&self, channel: &mut Channel) -> u64 {
        let mut buffer = [0; LONGEST];
        let mut waits = 0_u64;
        for number in 0..self.messages {
            let message = self.message(number, &mut buffer);
            loop {
                match channel.sender.send(message) {
                    Ok(()) => break,
                    Err(SendError::Full) => {
                        waits += 1;
                        spin_loop();
                    }
                    Err(error) => {
                        println!("messages: message {number}: {error}");
                        return 3;
                    }
                }
            }
        }
        println!("messages: sent={} waits={waits}", self.messages);
        0
    }

    fn receive(&self, channel: &mut Channel, first: u64) -> u64 {
        let (mut expected, mut buffer) = ([0; LONGEST], [0; LONGEST]);
        for number in first..first.saturating_add(self.messages) {
            let expected = self.message(number, &mut expected);
            let same = loop {
                match channel.receiver.receive(&mut buffer) {
                    Ok(Some(message)) => break message == expected,
                    Ok(None) => spin_loop(),
                    Err(error) => {
                        println!("messages: message {number}: {error}");
                        return 3;
                    }
                }
            };
            if !same {
                println!("messages: message {number} is another");
                return 3;
            }
        }
        println!("messages: received={} from {first}", self.messages);
        0
    }

    /// Waits until the other end has opened the channel, and then writes
    /// nonsense all over the block, so many times.
    fn scribble(&self, channel: &mut Channel) -> u64 {
        while channel.receiver.is_empty() {
            spin_loop();
        }
        let block = channel.info.block();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..self.messages {
            for (index, word) in block.iter().enumerate() {
                if index == DONE_WORD {
                    continue;
                }
                // xorshift64 (Marsaglia, "Xorshift RNGs").
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Small numbers get further than large ones.
                let word_now = word.load(Relaxed);
                word.store(word_now.wrapping_add(state >> (state % 64)), Relaxed);
            }
        }
        if let Some(word) = block.get(DONE_WORD) {
            word.store(DONE, Release);
        }
        println!("messages: scribbled={}", self.messages);
        0
    }

    /// Sends and receives until the scribbler is done.
    fn suffer(&self, channel: &mut Channel) -> u64 {
        let mut buffer = [0; LONGEST];
        let (mut received, mut damaged, mut refused) = (0_u64, 0_u64, 0_u64);
        let done = channel.info.block().get(DONE_WORD);
        while done.is_some_and(|word| word.load(Acquire) != DONE) {
            match channel.sender.send(b"are you there?") {
                Ok(()) | Err(SendError::Full | SendError::TooLong) => {}
                Err(SendError::Corrupt(_)) => refused += 1,
            }
            match channel.receiver.receive(&mut buffer) {
                Ok(None) => {}
                Ok(Some(_)) => received += 1,
                Err(ReceiveError::TooLong(_)) => {
                    received += 1;
                    let _ = channel
                        .receiver
                        .receive_with(|message| message.words().count());
                }
                Err(ReceiveError::Corrupt(_)) => damaged += 1,
            }
        }
        println!("messages: suffered received={received} damaged={damaged} refused={refused}");
        0
    }
}
