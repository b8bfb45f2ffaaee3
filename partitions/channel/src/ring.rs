//! One ring: where it is, and what both of its sides do.

use core::fmt;
use core::sync::atomic::Ordering;

use crate::word::Word;

/// Bytes of a word.
pub(crate) const WORD: usize = 8;

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
    pub(crate) const fn length(&self) -> u64 {
        self.data.len() as u64
    }

    /// Words that were put in and not taken out, as far as one can tell.
    pub(crate) fn used(&self) -> u64 {
        let head = self.head.load(Ordering::Acquire);
        let tail = self.tail.load(Ordering::Acquire);
        tail.wrapping_sub(head)
    }

    /// Place of word `count` in `data`.
    pub(crate) fn place(&self, count: u64) -> usize {
        // Less than the length of a slice.
        usize::try_from(count % self.length()).unwrap_or(0)
    }

    /// `words` words from place `at` on, at most the whole ring: up to its end,
    /// and what comes after it.
    pub(crate) fn cells(&self, at: usize, words: usize) -> (&'a [W], &'a [W]) {
        let (start, rest) = self.data.split_at_checked(at).unwrap_or((&[], self.data));
        match rest.get(..words) {
            Some(front) => (front, &[]),
            None => (rest, start.get(..words - rest.len()).unwrap_or(&[])),
        }
    }

    /// The place `words` after `at`; both are less than or equal to the length.
    pub(crate) const fn after(&self, at: usize, words: usize) -> usize {
        let next = at + words;
        if next >= self.data.len() {
            next - self.data.len()
        } else {
            next
        }
    }
}

/// The words that a message of `length` bytes takes.
pub(crate) const fn words_for(length: usize) -> usize {
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

/// Writes `bytes` into the first of `cells`, the last word filled up with
/// zeros. What does not fit is left out.
#[inline]
pub(crate) fn put<W: Word>(cells: &[W], bytes: &[u8]) {
    let (whole, rest) = bytes.as_chunks::<WORD>();
    for (cell, chunk) in cells.iter().zip(whole) {
        cell.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
    }
    if !rest.is_empty() {
        put_rest(cells.get(whole.len()), rest);
    }
}

#[inline(never)]
fn put_rest<W: Word>(cell: Option<&W>, bytes: &[u8]) {
    let add = |word, byte: &u8| word << 8 | u64::from(*byte);
    if let Some(cell) = cell {
        cell.store(bytes.iter().rev().fold(0, add), Ordering::Relaxed);
    }
}

/// Fills `bytes` from the first of `cells`.
#[inline]
pub(crate) fn get<W: Word>(cells: &[W], bytes: &mut [u8]) {
    let (whole, rest) = bytes.as_chunks_mut::<WORD>();
    for (cell, chunk) in cells.iter().zip(whole.iter_mut()) {
        *chunk = cell.load(Ordering::Relaxed).to_le_bytes();
    }
    if !rest.is_empty() {
        get_rest(cells.get(whole.len()), rest);
    }
}

#[inline(never)]
fn get_rest<W: Word>(cell: Option<&W>, bytes: &mut [u8]) {
    if let Some(cell) = cell {
        let word = cell.load(Ordering::Relaxed).to_le_bytes();
        for (to, from) in bytes.iter_mut().zip(word) {
            *to = from;
        }
    }
}
