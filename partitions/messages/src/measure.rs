//! What a message costs: both ends on one core, through a block of the
//! program's own memory, so that nothing but the two calls is counted. What is
//! printed are time-stamp counts, which are instructions where the line
//! `clock` has the same number twice (QEMU with icount, Bochs; one CPU).

use core::hint::black_box;
use core::sync::atomic::AtomicU64;

use cloister_runtime::channel::{End, Receiver, Sender, format, open_block};
use cloister_runtime::cpu::rdtsc;
use cloister_runtime::{measure, println};

/// 64 KiB.
const WORDS: usize = 8192;
/// Messages that are sent, and then received, in one stretch. The longest fill
/// half of the ring.
const STRETCH: u64 = 16;
const STRETCHES: u64 = 64;
const COUNT: u64 = STRETCH * STRETCHES;
/// Iterations of the loop that finds the counter's unit.
const LOOP: u32 = 1_000_000;
/// Lengths, bytes.
const LENGTHS: [usize; 3] = [16, 64, 1024];

static BLOCK: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

/// Prints a line for each length; returns the exit code.
pub(crate) fn all() -> u64 {
    println!(
        "messages: clock instructions={} cycles={}",
        measure::loop_instructions(LOOP),
        measure::counted_loop(LOOP)
    );
    format(&BLOCK);
    let first = open_block(&BLOCK, End::First);
    let second = open_block(&BLOCK, End::Second);
    let (Ok((mut sender, _)), Ok((_, mut receiver))) = (first, second) else {
        println!("messages: the block does not open");
        return 3;
    };
    // The first rounds touch memory for the first time.
    for length in LENGTHS {
        stretches(&mut sender, &mut receiver, length);
    }
    for length in LENGTHS {
        let (send, receive) = stretches(&mut sender, &mut receiver, length);
        let through = one_by_one(&mut sender, &mut receiver, length);
        println!("messages: cost bytes={length} send={send} receive={receive} through={through}");
    }
    println!("messages: cost look={}", looks(&receiver));
    0
}

/// Cycles of a send and of a receive, the loop around them included.
fn stretches(sender: &mut Sender<'_>, receiver: &mut Receiver<'_>, length: usize) -> (u64, u64) {
    let (message, mut buffer) = ([0x5a; 1024], [0; 1024]);
    let message = message.get(..length).unwrap_or(&message);
    let (mut sending, mut receiving) = (0, 0);
    for _ in 0..STRETCHES {
        let start = rdtsc();
        for _ in 0..STRETCH {
            let _ = black_box(sender.send(black_box(message)));
        }
        let middle = rdtsc();
        for _ in 0..STRETCH {
            let _ = black_box(receiver.receive(black_box(&mut buffer)));
        }
        sending += middle - start;
        receiving += rdtsc() - middle;
    }
    (sending / COUNT, receiving / COUNT)
}

/// Cycles from a send to the message's arrival, one message at a time.
fn one_by_one(sender: &mut Sender<'_>, receiver: &mut Receiver<'_>, length: usize) -> u64 {
    let (message, mut buffer) = ([0x5a; 1024], [0; 1024]);
    let message = message.get(..length).unwrap_or(&message);
    let start = rdtsc();
    for _ in 0..COUNT {
        let _ = black_box(sender.send(black_box(message)));
        let _ = black_box(receiver.receive(black_box(&mut buffer)));
    }
    (rdtsc() - start) / COUNT
}

/// Cycles of a look that finds nothing.
fn looks(receiver: &Receiver<'_>) -> u64 {
    let start = rdtsc();
    for _ in 0..COUNT {
        let _ = black_box(receiver.is_empty());
    }
    (rdtsc() - start) / COUNT
}
