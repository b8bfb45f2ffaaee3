//! Both ends of a channel on one thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use cloister_abi::channel::{FORMAT, HEADS, RINGS, TAILS, ring_words};
use cloister_channel::{Corrupt, End, OpenError, ReceiveError, SendError, format, open};
use proptest::collection::vec;
use proptest::prelude::*;

fn block(bytes: usize) -> Vec<AtomicU64> {
    let block: Vec<_> = (0..bytes / 8).map(|_| AtomicU64::new(0)).collect();
    format(&block);
    block
}

fn set(block: &[AtomicU64], offset: usize, value: u64) {
    block[offset / 8].store(value, Ordering::Relaxed);
}

#[test]
fn both_directions_at_once() {
    let block = block(4096);
    let (mut to_second, mut from_second) = open(&block, End::First).unwrap();
    let (mut to_first, mut from_first) = open(&block, End::Second).unwrap();
    to_second.send(b"question").unwrap();
    to_first.send(b"").unwrap();
    to_first.send(b"answer 1").unwrap();
    let mut buffer = [0; 16];
    assert_eq!(from_first.receive(&mut buffer), Ok(Some(&b"question"[..])));
    assert!(from_first.is_empty() && !from_second.is_empty());
    assert_eq!(from_second.receive(&mut buffer), Ok(Some(&b""[..])));
    assert_eq!(from_second.receive(&mut buffer), Ok(Some(&b"answer 1"[..])));
    assert_eq!(from_second.receive(&mut buffer), Ok(None));
}

#[test]
fn the_longest_message_fills_the_ring() {
    let block = block(4096);
    let (mut sender, _) = open(&block, End::First).unwrap();
    let (_, mut receiver) = open(&block, End::Second).unwrap();
    assert_eq!(sender.longest(), (ring_words(512) - 1) * 8);
    let longest = vec![7; sender.longest()];
    let mut buffer = vec![0; longest.len()];
    for _ in 0..3 {
        sender.send(&longest).unwrap();
        assert_eq!(sender.send(b""), Err(SendError::Full));
        assert_eq!(receiver.receive(&mut buffer), Ok(Some(longest.as_slice())));
    }
    let longer = vec![7; sender.longest() + 1];
    assert_eq!(sender.send(&longer), Err(SendError::TooLong));
    assert_eq!(receiver.receive(&mut buffer), Ok(None));
}

#[test]
fn a_message_too_long_for_the_buffer_waits() {
    let block = block(4096);
    let (mut sender, _) = open(&block, End::First).unwrap();
    let (_, mut receiver) = open(&block, End::Second).unwrap();
    sender.send(b"nine byte").unwrap();
    let mut short = [0; 8];
    for _ in 0..2 {
        assert_eq!(receiver.receive(&mut short), Err(ReceiveError::TooLong(9)));
    }
    let words = receiver.receive_with(|message| {
        assert_eq!((message.len(), message.is_empty()), (9, false));
        assert_eq!(message.copy_to(&mut short), b"nine byt");
        message.words().count()
    });
    assert_eq!(words, Ok(Some(2)));
    assert_eq!(receiver.receive(&mut short), Ok(None));
}

/// An end that is opened again goes on where it was, on both sides.
#[test]
fn an_end_goes_on_where_it_was() {
    let block = block(4096);
    let (_, mut receiver) = open(&block, End::Second).unwrap();
    let mut buffer = [0; 8];
    for number in 0..1000_u64 {
        let (mut sender, _) = open(&block, End::First).unwrap();
        sender.send(&number.to_le_bytes()).unwrap();
        if number % 3 == 2 {
            for expected in number - 2..=number {
                let got = receiver.receive(&mut buffer).unwrap().unwrap();
                assert_eq!(got, expected.to_le_bytes());
            }
            receiver = open(&block, End::Second).unwrap().1;
        }
    }
}

#[test]
fn what_is_no_channel_is_not_opened() {
    let error = |block: &[AtomicU64]| open(block, End::First).map(|_| ()).unwrap_err();
    assert_eq!(error(&[]), OpenError::TooSmall);
    assert_eq!(error(&block(RINGS + 24)), OpenError::TooSmall);
    let good = block(4096);
    assert_eq!(error(&good[..511]), OpenError::Header);
    for (offset, value) in [(0, 0), (8, FORMAT + 1), (16, 8192)] {
        let bad = block(4096);
        set(&bad, offset, value);
        assert_eq!(error(&bad), OpenError::Header, "{offset}");
    }
}

/// Positions that the other end cannot have, and lengths that it cannot have
/// sent.
#[test]
fn nonsense_is_told_and_left_behind() {
    let block = block(4096);
    let (mut sender, _) = open(&block, End::First).unwrap();
    let (_, mut receiver) = open(&block, End::Second).unwrap();
    let mut buffer = [0; 64];
    let length = ring_words(512) as u64;

    for tail in [length + 1, u64::MAX, 1 << 63] {
        set(&block, TAILS[0], tail);
        let error = ReceiveError::Corrupt(Corrupt::Position);
        assert_eq!(receiver.receive(&mut buffer), Err(error), "{tail}");
        // The receiver believes it once, and waits for what comes after.
        assert_eq!(receiver.receive(&mut buffer), Ok(None));
        receiver = {
            set(&block, TAILS[0], 0);
            set(&block, HEADS[0], 0);
            open(&block, End::Second).unwrap().1
        };
    }

    for claimed in [9, 64, length * 8, u64::MAX, 1 << 32] {
        sender.send(b"8 bytes!").unwrap();
        let (tail, head) = (TAILS[0] / 8, HEADS[0] / 8);
        let at = block[head].load(Ordering::Relaxed) % length;
        set(&block, RINGS + usize::try_from(at).unwrap() * 8, claimed);
        let error = ReceiveError::Corrupt(Corrupt::Length);
        assert_eq!(receiver.receive(&mut buffer), Err(error), "{claimed}");
        let position = |word: usize| block[word].load(Ordering::Relaxed);
        assert_eq!(position(head), position(tail));
        sender.send(b"good").unwrap();
        assert_eq!(receiver.receive(&mut buffer), Ok(Some(&b"good"[..])));
    }

    let head = block[HEADS[0] / 8].load(Ordering::Relaxed);
    set(&block, HEADS[0], head.wrapping_add(length * 2));
    let error = loop {
        if let Err(error) = sender.send(b"more") {
            break error;
        }
    };
    assert_eq!(error, SendError::Corrupt(Corrupt::Position));
    set(&block, HEADS[0], head);
    assert_eq!(sender.send(&[0; 2000]), Err(SendError::TooLong));
    let mut received = 0;
    while receiver.receive(&mut buffer).unwrap().is_some() {
        received += 1;
    }
    assert!(received > 0);
    sender.send(b"again").unwrap();
}

/// Ends that open a block with positions that contradict each other agree on
/// an empty ring.
#[test]
fn nonsense_found_at_the_opening_is_dropped() {
    for (tail, head) in [(5, u64::MAX / 2), (u64::MAX, 3), (1 << 40, 7)] {
        let block = block(4096);
        set(&block, TAILS[0], tail);
        set(&block, HEADS[0], head);
        let (mut sender, _) = open(&block, End::First).unwrap();
        let (_, mut receiver) = open(&block, End::Second).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(receiver.receive(&mut buffer), Ok(None));
        sender.send(b"first").unwrap();
        assert_eq!(receiver.receive(&mut buffer), Ok(Some(&b"first"[..])));
    }
}

/// The count of words wraps after 2^64, in a ring whose length does not divide
/// that.
#[test]
fn positions_wrap() {
    let block = block(4096);
    let start = u64::MAX - 20;
    set(&block, TAILS[0], start);
    set(&block, HEADS[0], start);
    let (mut sender, _) = open(&block, End::First).unwrap();
    let (_, mut receiver) = open(&block, End::Second).unwrap();
    let mut buffer = [0; 8];
    for number in 0..1000_u64 {
        sender.send(&number.to_le_bytes()).unwrap();
        let got = receiver.receive(&mut buffer).unwrap();
        assert_eq!(got, Some(&number.to_le_bytes()[..]));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>),
    Receive,
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        vec(any::<u8>(), 0..400).prop_map(Step::Send),
        Just(Step::Receive),
        Just(Step::Read),
    ]
}

proptest! {
    /// The ring is a queue.
    #[test]
    fn a_queue(size in 0..3_u32, steps in vec(step(), 0..300)) {
        let block = block(4096 << size);
        let (mut sender, _) = open(&block, End::Second).unwrap();
        let (_, mut receiver) = open(&block, End::First).unwrap();
        let mut queue = VecDeque::new();
        let words = |message: &Vec<u8>| 1 + message.len().div_ceil(8);
        let mut buffer = [0; 400];
        for step in steps {
            match step {
                Step::Send(message) => {
                    let used: usize = queue.iter().map(words).sum();
                    let fits = used + words(&message) <= ring_words(block.len());
                    prop_assert_eq!(sender.send(&message).is_ok(), fits);
                    if fits {
                        queue.push_back(message);
                    }
                }
                Step::Receive => {
                    let got = receiver.receive(&mut buffer).unwrap().map(<[u8]>::to_vec);
                    prop_assert_eq!(got, queue.pop_front());
                }
                Step::Read => {
                    let got = receiver.receive_with(|message| {
                        let bytes = message.words().flat_map(u64::to_le_bytes);
                        bytes.take(message.len()).collect::<Vec<_>>()
                    });
                    prop_assert_eq!(got.unwrap(), queue.pop_front());
                }
            }
            prop_assert_eq!(receiver.is_empty(), queue.is_empty());
        }
    }
}
