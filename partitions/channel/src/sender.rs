//! The side of a ring that puts messages in.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::ring::{Corrupt, Ring, WORD, put, words_for};
use crate::word::Word;

/// Why a message was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// There is no room now.
    Full,
    /// The ring is too short for it, ever: see [`Sender::longest`].
    TooLong,
    /// The other end has written nonsense; nothing was sent.
    Corrupt(Corrupt),
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the channel is full"),
            Self::TooLong => f.write_str("the message is longer than the channel"),
            Self::Corrupt(what) => what.fmt(f),
        }
    }
}

impl core::error::Error for SendError {}

/// The side of a ring that puts messages in.
#[derive(Debug)]
pub struct Sender<'a, W = AtomicU64> {
    ring: Ring<'a, W>,
    /// Words ever put in.
    tail: u64,
    /// Its place.
    at: usize,
    /// Words that can be put in before the receiver's position must be read
    /// again.
    free: usize,
}

impl<'a, W: Word> Sender<'a, W> {
    /// Goes on where the block says that this side was; where that makes no
    /// sense, with an empty ring.
    pub(crate) fn new(ring: Ring<'a, W>) -> Self {
        let head = ring.head.load(Ordering::Acquire);
        let mut tail = ring.tail.load(Ordering::Relaxed);
        if tail.wrapping_sub(head) > ring.length() {
            tail = head;
            ring.tail.store(tail, Ordering::Release);
        }
        Self {
            at: ring.place(tail),
            ring,
            tail,
            free: 0,
        }
    }

    /// Longest message, bytes.
    #[must_use]
    pub const fn longest(&self) -> usize {
        (self.ring.data.len() - 1) * WORD
    }

    /// Sends `message`: it is there for the other end when this returns `Ok`.
    ///
    /// # Errors
    /// See [`SendError`]; nothing was sent then.
    #[inline]
    pub fn send(&mut self, message: &[u8]) -> Result<(), SendError> {
        let words = words_for(message.len());
        if words > self.free {
            self.find_room(words)?;
        }
        match self.ring.data.get(self.at..self.at + words) {
            Some([length, cells @ ..]) => {
                length.store(message.len() as u64, Ordering::Relaxed);
                put(cells, message);
            }
            _ => self.put_around(message, words),
        }
        self.at = self.ring.after(self.at, words);
        self.free -= words;
        self.tail = self.tail.wrapping_add(words as u64);
        self.ring.tail.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Puts a message of `words` words in that goes past the end of the ring.
    #[cold]
    #[inline(never)]
    fn put_around(&self, message: &[u8], words: usize) {
        let (front, back) = self.ring.cells(self.at, words);
        let Some((length, front)) = front.split_first() else {
            return;
        };
        length.store(message.len() as u64, Ordering::Relaxed);
        let halves = message.split_at_checked(front.len() * WORD);
        let (now, later) = halves.unwrap_or((message, &[]));
        put(front, now);
        put(back, later);
    }

    /// Looks how much the receiver has taken out.
    #[cold]
    #[inline(never)]
    fn find_room(&mut self, words: usize) -> Result<(), SendError> {
        if words > self.ring.data.len() {
            return Err(SendError::TooLong);
        }
        let head = self.ring.head.load(Ordering::Acquire);
        let used = self.tail.wrapping_sub(head);
        self.free = self
            .ring
            .length()
            .checked_sub(used)
            .and_then(|free| usize::try_from(free).ok())
            .ok_or(SendError::Corrupt(Corrupt::Position))?;
        if words > self.free {
            return Err(SendError::Full);
        }
        Ok(())
    }
}
