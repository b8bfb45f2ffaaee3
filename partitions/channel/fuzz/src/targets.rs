//! What is fuzzed: an end whose peer writes whatever it likes. The target
//! panics when a promise is broken.

use std::sync::atomic::{AtomicU64, Ordering};

use cloister_abi::channel::{HEADS, RINGS, TAILS, ring_words};
use cloister_channel::{End, ReceiveError, SendError, format, open};

/// A target.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: &[(&str, Target)] = &[("peer", peer)];

/// Words of the block.
const WORDS: usize = RINGS / 8 + 64;

/// Takes numbers off the front of the input; 0 where it has ended.
fn take<const N: usize>(input: &mut &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let (front, rest) = input.split_at(N.min(input.len()));
    bytes[..front.len()].copy_from_slice(front);
    *input = rest;
    bytes
}

/// Each step is a byte that says what happens, and its numbers: the peer
/// stores a word anywhere, or this end (the first) sends, receives or is
/// opened again.
pub fn peer(mut input: &[u8]) {
    let block: Vec<_> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
    format(&block);
    let Ok((mut sender, mut receiver)) = open(&block, End::First) else {
        panic!("a fresh block");
    };
    let longest = sender.longest();
    while !input.is_empty() {
        let [step] = take(&mut input);
        if step % 6 < 2 {
            let [place] = take(&mut input);
            // Positions and lengths are what hurts: small numbers get there.
            let value = match step % 6 {
                0 => u64::from_le_bytes(take(&mut input)),
                _ => u64::from(u16::from_le_bytes(take(&mut input))),
            };
            block[usize::from(place) % WORDS].store(value, Ordering::Relaxed);
            continue;
        }
        let before: Vec<u64> = block
            .iter()
            .map(|word| word.load(Ordering::Relaxed))
            .collect();
        match step % 6 {
            2 => {
                let [length] = take(&mut input);
                let message = vec![length; usize::from(length) * 2];
                let sent = sender.send(&message);
                assert_eq!(sent == Err(SendError::TooLong), message.len() > longest);
            }
            3 => {
                let [length] = take(&mut input);
                let mut buffer = vec![0; usize::from(length)];
                match receiver.receive(&mut buffer) {
                    Ok(Some(message)) => assert!(message.len() <= usize::from(length)),
                    Ok(None) => {}
                    Err(ReceiveError::TooLong(needed)) => {
                        assert!(needed > usize::from(length) && needed <= longest);
                    }
                    Err(ReceiveError::Corrupt(_)) => assert!(receiver.is_empty()),
                }
            }
            4 => {
                let read = receiver.receive_with(|message| {
                    assert!(message.len() <= longest);
                    assert_eq!(message.words().count(), message.len().div_ceil(8));
                });
                if read.is_err() {
                    assert!(receiver.is_empty());
                }
            }
            _ => {
                if let Ok(ends) = open(&block, End::First) {
                    (sender, receiver) = ends;
                }
            }
        }
        only_its_own(&block, &before);
    }
}

/// The first end has written nothing but its own positions and its own ring.
fn only_its_own(block: &[AtomicU64], before: &[u64]) {
    let ring = RINGS / 8..RINGS / 8 + ring_words(WORDS);
    let own = [TAILS[0] / 8, HEADS[1] / 8];
    for (place, (word, before)) in block.iter().zip(before).enumerate() {
        if !ring.contains(&place) && !own.contains(&place) {
            assert_eq!(word.load(Ordering::Relaxed), *before, "word {place}");
        }
    }
}
