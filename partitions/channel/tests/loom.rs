//! Every interleaving of two ends that the memory model allows, on a small
//! ring (loom).

use std::sync::atomic::Ordering;

use cloister_abi::channel::{RINGS, header};
use cloister_channel::{End, SendError, Word, open};
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

/// Words of each ring: room for two messages of one word.
const RING: usize = 4;
const WORDS: usize = RINGS / 8 + 2 * RING;
/// Messages, so that the ring is full, and wraps.
const MESSAGES: u64 = 3;

/// loom's word. With `RELAXED` its stores release nothing.
struct Loom<const RELAXED: bool>(AtomicU64);

impl<const RELAXED: bool> Word for Loom<RELAXED> {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    fn store(&self, value: u64, order: Ordering) {
        let order = if RELAXED { Ordering::Relaxed } else { order };
        self.0.store(value, order);
    }
}

/// One end sends, the other receives what was sent, in order.
fn send_and_receive<const RELAXED: bool>() {
    let block: Vec<_> = (0..WORDS)
        .map(|n| header(WORDS as u64 * 8).get(n).copied().unwrap_or(0))
        .map(|value| Loom::<RELAXED>(AtomicU64::new(value)))
        .collect();
    let block = Arc::new(block);
    let other = Arc::clone(&block);
    let sending = thread::spawn(move || {
        let (mut sender, _) = open(&other, End::First).unwrap();
        for message in 0..MESSAGES {
            let bytes = (message + 0x1111).to_le_bytes();
            while let Err(error) = sender.send(&bytes) {
                assert_eq!(error, SendError::Full);
                thread::yield_now();
            }
        }
    });
    let (_, mut receiver) = open(&block, End::Second).unwrap();
    let mut buffer = [0; 8];
    for message in 0..MESSAGES {
        let got = loop {
            match receiver.receive(&mut buffer).unwrap() {
                Some(bytes) => break u64::from_le_bytes(bytes.try_into().unwrap()),
                None => thread::yield_now(),
            }
        };
        assert_eq!(got, message + 0x1111);
    }
    assert!(receiver.is_empty());
    sending.join().unwrap();
}

#[test]
fn messages_arrive_whole_and_in_order() {
    loom::model(send_and_receive::<false>);
}

/// The checker sees what it is to see: without the order of the stores a
/// message is read before it is there.
#[test]
#[should_panic(expected = "assertion")]
fn stores_that_release_nothing_are_found() {
    loom::model(send_and_receive::<true>);
}
