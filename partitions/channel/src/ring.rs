//! One ring, from its two sides.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::word::Word;

/// Bytes of a word.
const WORD: usize = 8;

/// A ring in the block.
#[derive(Debug)]
pub(crate) struct Ring<'a, W> {
    /// Words ever put in; the sender's.
    pub(crate) tail: &'a W,
    /// Words ever taken out; the receiver's.
    pub(crate) head: &'a W,
    /// At least two.
    pub(crate) data: &'a [W],
}

impl<'a, W: Word> Ring<'a, W> {
    const fn length(&self) -> u64 {
        self.data.len() as u64
    }

    /// Words that were put in and not taken out, as far as one can tell.
    pub(crate) fn used(&self) -> u64 {
        let head = self.head.load(Ordering::Acquire);
        let tail = self.tail.load(Ordering::Acquire);
        tail.wrapping_sub(head)
    }

    /// Place of word `count` in `data`.
    fn place(&self, count: u64) -> usize {
        // Less than the length of a slice.
        usize::try_from(count % self.length()).unwrap_or(0)
    }

    /// `words` words from place `at` on, at most the whole ring: up to its end,
    /// and what comes after it.
    fn cells(&self, at: usize, words: usize) -> (&'a [W], &'a [W]) {
        let (start, rest) = self.data.split_at_checked(at).unwrap_or((&[], self.data));
        match rest.get(..words) {
            Some(front) => (front, &[]),
            None => (rest, start.get(..words - rest.len()).unwrap_or(&[])),
        }
    }

    /// The place `words` after `at`; both are less than or equal to the length.
    const fn after(&self, at: usize, words: usize) -> usize {
        let next = at + words;
        if next >= self.data.len() {
            next - self.data.len()
        } else {
            next
        }
    }
}

/// The words that a message of `length` bytes takes.
const fn words_for(length: usize) -> usize {
    1 + length.div_ceil(WORD)
}

/// The other end has written nonsense into the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corrupt {
    /// Its position is none that it can have.
    Position,
    /// A message is longer than what there is.
    Length,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Position => "the other end's position makes no sense",
            Self::Length => "the other end's message is longer than what it has sent",
        })
    }
}

impl core::error::Error for Corrupt {}

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
        let (front, back) = self.ring.cells(self.at, words);
        let Some((length, front)) = front.split_first() else {
            return Err(SendError::TooLong);
        };
        length.store(message.len() as u64, Ordering::Relaxed);
        let (now, later) = message
            .split_at_checked(front.len() * WORD)
            .unwrap_or((message, &[]));
        put(front, now);
        put(back, later);
        self.at = self.ring.after(self.at, words);
        self.free -= words;
        self.tail = self.tail.wrapping_add(words as u64);
        self.ring.tail.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Looks how much the receiver has taken out.
    #[cold]
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
        let Some(message) = self.next()? else {
            return Ok(None);
        };
        if message.length > buffer.len() {
            return Err(ReceiveError::TooLong(message.length));
        }
        let copy = message.copy_to(buffer);
        self.take(words_for(message.length));
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
        let Some(message) = self.next()? else {
            return Ok(None);
        };
        let result = reader(&message);
        self.take(words_for(message.length));
        Ok(Some(result))
    }

    /// The next message.
    #[inline]
    fn next(&mut self) -> Result<Option<Message<'a, W>>, Corrupt> {
        if self.ready == 0 && !self.find_more()? {
            return Ok(None);
        }
        let (front, _) = self.ring.cells(self.at, 1);
        let Some(length) = front.first() else {
            return Ok(None);
        };
        // Read once: the other end may change it.
        let length = length.load(Ordering::Relaxed);
        let Some(length) = self.bounded(length) else {
            self.drop_all();
            return Err(Corrupt::Length);
        };
        let (front, back) = self.ring.cells(self.at, words_for(length));
        let front = front.split_first().map_or(front, |(_, bytes)| bytes);
        Ok(Some(Message {
            length,
            front,
            back,
        }))
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

/// Writes `bytes` into the first of `cells`, the last word filled up with
/// zeros. What does not fit is left out.
#[inline]
fn put<W: Word>(cells: &[W], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<WORD>();
    for (cell, chunk) in cells.iter().zip(whole) {
        cell.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
    }
    if !rest.is_empty()
        && let Some(cell) = cells.get(whole.len())
    {
        let last = rest
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
        cell.store(last, Ordering::Relaxed);
    }
}

/// Fills `bytes` from the first of `cells`.
#[inline]
fn get<W: Word>(cells: &[W], bytes: &mut [u8]) {
    let (whole, rest) = bytes.as_chunks_mut::<WORD>();
    for (cell, chunk) in cells.iter().zip(whole.iter_mut()) {
        *chunk = cell.load(Ordering::Relaxed).to_le_bytes();
    }
    if !rest.is_empty()
        && let Some(cell) = cells.get(whole.len())
    {
        let last = cell.load(Ordering::Relaxed).to_le_bytes();
        for (to, from) in rest.iter_mut().zip(last) {
            *to = from;
        }
    }
}
