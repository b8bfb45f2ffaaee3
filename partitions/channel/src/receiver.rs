//! The side of a ring that takes messages out.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::ring::{Corrupt, Ring, WORD, get, words_for};
use crate::word::Word;

/// Why nothing was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveError {
    /// The next message has so many bytes, more than the buffer. It waits;
    /// [`Receiver::receive_with`] takes it, whatever its length.
    TooLong(usize),
    /// The other end has written nonsense. All that it had sent is dropped.
    Corrupt(Corrupt),
}

impl fmt::Display for ReceiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(length) => write!(f, "the buffer is too short for {length} bytes"),
            Self::Corrupt(what) => what.fmt(f),
        }
    }
}

impl core::error::Error for ReceiveError {}

impl From<Corrupt> for ReceiveError {
    fn from(what: Corrupt) -> Self {
        Self::Corrupt(what)
    }
}

/// A message where it is, in the block: the other end can change its bytes
/// until they are copied, but not its length.
#[derive(Debug)]
pub struct Message<'a, W = AtomicU64> {
    length: usize,
    front: &'a [W],
    back: &'a [W],
}

impl<W: Word> Message<'_, W> {
    /// Its length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Its words, each read when it is asked for. The last one may be filled
    /// up.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        let words = self.front.iter().chain(self.back);
        words.map(|word| word.load(Ordering::Relaxed))
    }

    /// Copies as much of it as fits, from its begin, and returns the copy.
    pub fn copy_to<'b>(&self, buffer: &'b mut [u8]) -> &'b [u8] {
        let length = self.length.min(buffer.len());
        let (copy, _) = buffer.split_at_mut(length);
        let first = (self.front.len() * WORD).min(length);
        let (now, later) = copy.split_at_mut(first);
        get(self.front, now);
        get(self.back, later);
        copy
    }
}

/// The side of a ring that takes messages out.
#[derive(Debug)]
pub struct Receiver<'a, W = AtomicU64> {
    ring: Ring<'a, W>,
    /// Words ever taken out.
    head: u64,
    /// Its place.
    at: usize,
    /// Words that can be taken out before the sender's position must be read
    /// again.
    ready: usize,
}

impl<'a, W: Word> Receiver<'a, W> {
    /// Goes on where the block says that this side was; where that makes no
    /// sense, with an empty ring.
    pub(crate) fn new(ring: Ring<'a, W>) -> Self {
        let head = ring.head.load(Ordering::Relaxed);
        let tail = ring.tail.load(Ordering::Acquire);
        let makes_sense = tail.wrapping_sub(head) <= ring.length();
        let mut this = Self {
            at: ring.place(head),
            ring,
            head,
            ready: 0,
        };
        if !makes_sense {
            this.drop_all();
        }
        this
    }

    /// Whether nothing is there to be received.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ready == 0 && self.ring.tail.load(Ordering::Relaxed) == self.head
    }

    /// Copies the next message into `buffer` and returns the copy; `None` if
    /// there is none.
    ///
    /// # Errors
    /// See [`ReceiveError`].
    #[inline]
    pub fn receive<'b>(&mut self, buffer: &'b mut [u8]) -> Result<Option<&'b [u8]>, ReceiveError> {
        let Some(length) = self.next()? else {
            return Ok(None);
        };
        let words = words_for(length);
        let Some(copy) = buffer.get_mut(..length) else {
            return Err(ReceiveError::TooLong(length));
        };
        match self.ring.data.get(self.at + 1..self.at + words) {
            Some(cells) => get(cells, copy),
            None => self.copy_around(copy),
        }
        self.take(words);
        Ok(Some(copy))
    }

    /// Gives the next message to `reader`, in place; it is taken out when that
    /// returns. `None` if there is none.
    ///
    /// # Errors
    /// See [`Corrupt`].
    #[inline]
    pub fn receive_with<R>(
        &mut self,
        reader: impl FnOnce(&Message<'a, W>) -> R,
    ) -> Result<Option<R>, Corrupt> {
        let Some(length) = self.next()? else {
            return Ok(None);
        };
        let result = reader(&self.message(length));
        self.take(words_for(length));
        Ok(Some(result))
    }

    /// Copies a message that goes past the end of the ring.
    #[cold]
    #[inline(never)]
    fn copy_around(&self, copy: &mut [u8]) {
        self.message(copy.len()).copy_to(copy);
    }

    /// The message of `length` bytes that comes next.
    fn message(&self, length: usize) -> Message<'a, W> {
        let (front, back) = self.ring.cells(self.at, words_for(length));
        Message {
            length,
            front: front.split_first().map_or(front, |(_, bytes)| bytes),
            back,
        }
    }

    /// Length of the message that comes next, bytes. The whole of it is ready.
    #[inline]
    fn next(&mut self) -> Result<Option<usize>, Corrupt> {
        if self.ready == 0 && !self.find_more()? {
            return Ok(None);
        }
        // Read once: the other end may change it.
        let length = self
            .ring
            .data
            .get(self.at)
            .map(|word| word.load(Ordering::Relaxed));
        match length.and_then(|length| self.bounded(length)) {
            Some(length) => Ok(Some(length)),
            None => {
                self.drop_all();
                Err(Corrupt::Length)
            }
        }
    }

    /// `length`, if a message of so many bytes can lie in what is ready.
    #[inline]
    fn bounded(&self, length: u64) -> Option<usize> {
        let length = usize::try_from(length).ok()?;
        (length <= (self.ready - 1) * WORD).then_some(length)
    }

    /// Looks how much the sender has put in. Says whether that is anything.
    #[inline]
    fn find_more(&mut self) -> Result<bool, Corrupt> {
        let tail = self.ring.tail.load(Ordering::Acquire);
        let ready = tail.wrapping_sub(self.head);
        if ready > self.ring.length() {
            self.drop_all();
            return Err(Corrupt::Position);
        }
        // At most the length of a slice.
        self.ready = usize::try_from(ready).unwrap_or(0);
        Ok(ready != 0)
    }

    /// Takes `words` words out, at most those that are ready.
    #[inline]
    fn take(&mut self, words: usize) {
        self.at = self.ring.after(self.at, words);
        self.ready = self.ready.saturating_sub(words);
        self.move_to(self.head.wrapping_add(words as u64));
    }

    /// Drops whatever the other end says it has sent.
    #[cold]
    #[inline(never)]
    fn drop_all(&mut self) {
        let tail = self.ring.tail.load(Ordering::Acquire);
        self.at = self.ring.place(tail);
        self.ready = 0;
        self.move_to(tail);
    }

    /// Gives everything before `head` back to the sender.
    #[inline]
    fn move_to(&mut self, head: u64) {
        self.head = head;
        self.ring.head.store(head, Ordering::Release);
    }
}
