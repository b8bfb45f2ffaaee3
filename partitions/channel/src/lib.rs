//! Messages through the shared memory of a channel, for both of its ends: one
//! single-producer single-consumer ring in each direction, laid out as
//! [`cloister_abi::channel`] says.
//!
//! Sending and receiving are a bounded number of loads and stores. They cost no
//! VM exit, never wait, allocate nothing, and contain no unsafe code: the block
//! is a slice of atomic words. An end that waits calls [`Receiver::receive`] or
//! [`Receiver::is_empty`] again and again, which reads one word; nobody has to
//! be told that a message is there.
//!
//! ```
//! # use std::sync::atomic::{AtomicU64, Ordering};
//! # let block: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(0)).collect();
//! # for (word, value) in block.iter().zip(cloister_abi::channel::header(4096)) {
//! #     word.store(value, Ordering::Relaxed);
//! # }
//! use cloister_channel::{End, open};
//!
//! let (mut sender, _) = open(&block, End::First)?;
//! let (_, mut receiver) = open(&block, End::Second)?;
//! sender.send(b"rate=10")?;
//! let mut buffer = [0; 64];
//! let message = receiver.receive(&mut buffer)?;
//! assert_eq!(message, Some(&b"rate=10"[..]));
//! assert_eq!(receiver.receive(&mut buffer)?, None);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is not trusted
//!
//! The other end can write every word of the block at any moment. So an end
//! keeps its own position to itself and only writes it, checks the other's
//! each time it reads it, reads a message's length once, and copies bytes
//! instead of referring to them. Whatever the other end does, a call returns
//! after a bounded number of steps, with a message of at most the length of
//! the ring, or with [`Corrupt`]. After that the [`Receiver`] has dropped all
//! that was said to be there and goes on with what comes next; a [`Sender`]
//! sends again as soon as the other end's position makes sense.
//!
//! # Starting anew
//!
//! Positions and messages live in the block, so an end that is started again
//! goes on where it was: what it had sent can still be received, what was sent
//! to it waits, and a message that it had not finished was never there.
//! [`cloister_abi::channel::ChannelInfo::starts`] tells the other end that it
//! was started again, if that means something to it.
#![no_std]
#![forbid(unsafe_code)]

mod receiver;
mod ring;
mod sender;
mod word;

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use cloister_abi::channel::{HEADS, RINGS, TAILS, header, ring_words};

pub use receiver::{Message, ReceiveError, Receiver};
pub use ring::Corrupt;
pub use sender::{SendError, Sender};
pub use word::Word;

use ring::Ring;

/// Which end of a channel: its place under `between` in the system file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The first.
    First,
    /// The second.
    Second,
}

impl End {
    /// The end with this number in [`cloister_abi::channel::ChannelInfo::end`].
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::First),
            1 => Some(Self::Second),
            _ => None,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// Why a block could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// It is too small for two rings.
    TooSmall,
    /// Its header is not what the hypervisor wrote: it is no channel, or the
    /// other end has written over it.
    Header,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooSmall => "the block is too small for two rings",
            Self::Header => "the block does not begin with a channel's header",
        })
    }
}

impl core::error::Error for OpenError {}

/// Opens one end of the channel in `block`: its sender and its receiver. There
/// must be one of each at a time, wherever they run; two senders garble each
/// other's messages.
///
/// # Errors
/// See [`OpenError`].
pub fn open<W: Word>(block: &[W], end: End) -> Result<(Sender<'_, W>, Receiver<'_, W>), OpenError> {
    Ok((sender(block, end)?, receiver(block, end)?))
}

/// Opens the sender of `end` alone.
///
/// # Errors
/// See [`OpenError`].
pub fn sender<W: Word>(block: &[W], end: End) -> Result<Sender<'_, W>, OpenError> {
    Ok(Sender::new(rings(block)?.of(end)))
}

/// Opens the receiver of `end` alone.
///
/// # Errors
/// See [`OpenError`].
pub fn receiver<W: Word>(block: &[W], end: End) -> Result<Receiver<'_, W>, OpenError> {
    Ok(Receiver::new(rings(block)?.of(end.other())))
}

/// Words that wait for `end` to receive them, as its receiver would find them;
/// for one who only looks. What is read is of two moments, and not trusted.
///
/// # Errors
/// See [`OpenError`].
pub fn waiting<W: Word>(block: &[W], end: End) -> Result<u64, OpenError> {
    Ok(rings(block)?.of(end.other()).used())
}

/// The rings through which each end sends.
struct Rings<'a, W>([Ring<'a, W>; 2]);

impl<'a, W> Rings<'a, W> {
    fn of(self, end: End) -> Ring<'a, W> {
        let [first, second] = self.0;
        match end {
            End::First => first,
            End::Second => second,
        }
    }
}

fn rings<W: Word>(block: &[W]) -> Result<Rings<'_, W>, OpenError> {
    const FIRST: usize = RINGS / 8;
    let length = ring_words(block.len());
    if length < 2 {
        return Err(OpenError::TooSmall);
    }
    let expected = header(block.len() as u64 * 8);
    let mut words = block.iter().map(|word| word.load(Ordering::Relaxed));
    if !expected.into_iter().all(|word| words.next() == Some(word)) {
        return Err(OpenError::Header);
    }
    let ring = |index: usize| {
        let word = |offsets: [usize; 2]| block.get(offsets.get(index)? / 8);
        let start = FIRST + index * length;
        Some(Ring {
            tail: word(TAILS)?,
            head: word(HEADS)?,
            data: block.get(start..start + length)?,
        })
    };
    let both = ring(0).zip(ring(1)).ok_or(OpenError::TooSmall)?;
    Ok(Rings([both.0, both.1]))
}

/// Writes the header of an empty channel, as the hypervisor does at boot: for
/// memory that is no channel of a system file. All other words must be 0.
pub fn format(block: &[AtomicU64]) {
    for (word, value) in block.iter().zip(header(block.len() as u64 * 8)) {
        word.store(value, Ordering::Relaxed);
    }
}
