//! Forwards every frame between two network cards, both ways, with its two
//! addresses swapped.
//!
//! Arguments: `flags` (dataplane flags, joined with `+`, default
//! strict+populate as far as the system file allows them), `frames` (ends
//! after so many, default 0: never), `report` (statistics after so many,
//! default 0: at the end alone), `channel` (the channel through which they are
//! sent as well), `cpuid` (executes CPUID once after so
//! many frames, default 0: never: to show that one exit is seen).
//!
//! Exit codes: 0 done, 1 the dataplane mode was refused, 2 bad arguments, 3 no
//! two cards.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_net::report::Reporter;
use cloister_net::{Batch, Card, Nic, Pool};
use cloister_runtime::cpu::{cpuid, rdtsc};
use cloister_runtime::{Dataplane, Partition, args, console, entry, println, set_dataplane};

entry!(main);

/// Two receive rings, two transmit rings, and what is in between.
const BUFFERS: usize = 1280;

/// What the arguments say.
struct Options {
    flags: Dataplane,
    frames: u64,
    cpuid: u64,
}

/// What was done so far.
#[derive(Default)]
struct Statistics {
    frames: u64,
    bytes: u64,
    drops: u64,
    /// TSC cycles of the rounds in which a frame moved.
    busy: u64,
}

fn main(partition: &Partition) -> u64 {
    let Some(options) = options(partition) else {
        return 2;
    };
    let mut reporter = match Reporter::open(partition) {
        Ok(reporter) => reporter,
        Err(error) => {
            println!("l2fwd: {error}");
            return 2;
        }
    };
    let Some((mut pool, mut cards)) = open(partition) else {
        return 3;
    };
    println!("l2fwd: ready");
    console::flush();
    if !options.flags.is_empty()
        && let Err(error) = set_dataplane(options.flags)
    {
        println!("l2fwd: set_dataplane({:?}): {error}", options.flags);
        return 1;
    }
    let statistics = forward(&options, &mut reporter, &mut pool, &mut cards);
    report(&mut reporter, &statistics, &cards);
    0
}

fn options(partition: &Partition) -> Option<Options> {
    let number = |key| {
        partition
            .number(key, 0)
            .inspect_err(|error| println!("l2fwd: {key}: {error}"))
            .ok()
    };
    let flags = match partition.arg("flags") {
        None => (Dataplane::STRICT | Dataplane::POPULATE) & partition.allowed(),
        Some(text) => args::flags(text).or_else(|| {
            println!("l2fwd: flags: `{text}` are no dataplane flags");
            None
        })?,
    };
    Some(Options {
        flags,
        frames: number("frames")?,
        cpuid: number("cpuid")?,
    })
}

/// Opens the partition's first two devices.
fn open(partition: &Partition) -> Option<(Pool, [Card; 2])> {
    let mut devices = partition.devices();
    let (Some(first), Some(second)) = (devices.next(), devices.next()) else {
        println!("l2fwd: two network cards are needed: list them under `devices`");
        return None;
    };
    let Some(mut pool) = Pool::new(BUFFERS) else {
        println!("l2fwd: too little memory: give the partition 16M");
        return None;
    };
    let mut card = |device| match cloister_net::open(device, &mut pool) {
        Ok(card) => {
            println!("l2fwd: {} at {:#x}", card.mac(), device.info().address);
            Some(card)
        }
        Err(error) => {
            println!("l2fwd: device {:#x}: {error}", device.info().address);
            None
        }
    };
    let cards = [card(first)?, card(second)?];
    Some((pool, cards))
}

/// Until as many frames were forwarded, and sent, as the arguments say.
fn forward(
    options: &Options,
    reporter: &mut Reporter,
    pool: &mut Pool,
    cards: &mut [Card; 2],
) -> Statistics {
    let mut statistics = Statistics::default();
    // With all buffers back but those that the cards receive into.
    let all = pool.available();
    loop {
        let (started, before) = (rdtsc(), statistics.frames);
        let [a, b] = &mut *cards;
        pass(a, b, pool, &mut statistics);
        pass(b, a, pool, &mut statistics);
        let frames = statistics.frames;
        if frames == before {
            if options.frames != 0 && frames >= options.frames && pool.available() == all {
                break;
            }
            core::hint::spin_loop();
            continue;
        }
        statistics.busy += rdtsc().wrapping_sub(started);
        if options.cpuid != 0 && before < options.cpuid && frames >= options.cpuid {
            let _ = cpuid(0, 0);
        }
        if reporter.due(frames) {
            report(reporter, &statistics, cards);
        }
    }
    statistics
}

/// Forwards what has come from one card to the other.
#[inline]
fn pass(from: &mut Card, to: &mut Card, pool: &mut Pool, statistics: &mut Statistics) {
    let mut batch = Batch::new();
    to.reclaim(pool);
    from.receive(pool, &mut batch);
    if batch.is_empty() {
        return;
    }
    for frame in &batch {
        swap_addresses(pool.bytes_mut(frame));
        statistics.bytes += frame.len() as u64;
    }
    statistics.frames += batch.len() as u64;
    to.transmit(pool, &mut batch);
    while let Some(frame) = batch.pop_front() {
        statistics.drops += 1;
        pool.give(frame);
    }
}

/// Destination and source (IEEE 802.3, clause 3.2.3).
#[inline]
fn swap_addresses(frame: &mut [u8]) {
    if let Some((destination, rest)) = frame.split_first_chunk_mut::<6>()
        && let Some((source, _)) = rest.split_first_chunk_mut::<6>()
    {
        core::mem::swap(destination, source);
    }
}

fn report(reporter: &mut Reporter, statistics: &Statistics, cards: &[Card; 2]) {
    let Statistics {
        frames,
        bytes,
        drops,
        busy,
    } = statistics;
    let bad: u64 = cards.iter().map(Nic::bad).sum();
    let cycles = busy.checked_div(*frames).unwrap_or(0);
    reporter.send(
        "l2fwd",
        format_args!(
            "frames={frames} bytes={bytes} drops={drops} bad={bad} cycles-per-frame={cycles}"
        ),
    );
}
