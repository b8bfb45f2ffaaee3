//! Frames and where their bytes are: one pool of buffers for all cards of a
//! program, so that a frame goes from one to another without a copy.

use cloister_runtime::dma::{self, Dma};
use heapless::Deque;

/// Most buffers of a pool.
pub const MAX_BUFFERS: usize = 4096;
/// Most frames of a [`Batch`].
pub const BATCH: usize = 64;

/// Room before a frame, for what a driver puts there.
pub(crate) const HEADROOM: usize = 64;
/// Room for a frame: what an e1000 is told a buffer has.
pub(crate) const ROOM: usize = 2048;
/// From one buffer to the next: cache lines.
const STRIDE: usize = HEADROOM + ROOM;

/// Frames on their way, in order.
pub type Batch = Deque<Frame, BATCH>;

/// A frame, from the destination address to the end of the payload (no frame
/// check sequence), in a buffer of a [`Pool`] that is its own. Give it to a
/// card or back to the pool, or the buffer is lost.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Frame {
    pub(crate) buffer: u16,
    length: u16,
}

impl Frame {
    /// Bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.length)
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// A buffer that came back from a device; `None` for a length that does
    /// not fit.
    pub(crate) fn received(buffer: u16, length: u32) -> Option<Self> {
        let length = u16::try_from(length).ok();
        let length = length.filter(|length| usize::from(*length) <= ROOM)?;
        Some(Self { buffer, length })
    }
}

/// Buffers.
#[derive(Debug)]
pub struct Pool {
    memory: Dma<u8>,
    /// The free ones are the first `available`.
    free: &'static mut [u16],
    available: usize,
}

impl Pool {
    /// A pool of `buffers` buffers, at most [`MAX_BUFFERS`]; `None` where the
    /// partition's memory does not suffice.
    #[must_use]
    pub fn new(buffers: usize) -> Option<Self> {
        let buffers = buffers.min(MAX_BUFFERS);
        let free = dma::numbers(buffers, 0_u16)?;
        for (number, free) in (0..).zip(&mut *free) {
            *free = number;
        }
        Some(Self {
            memory: Dma::allocate(buffers * STRIDE)?,
            available: free.len(),
            free,
        })
    }

    /// Free buffers.
    #[must_use]
    pub const fn available(&self) -> usize {
        self.available
    }

    /// A new frame of `length` bytes, whatever they are; `None` where no
    /// buffer is free, or over 2048 bytes.
    pub fn frame(&mut self, length: usize) -> Option<Frame> {
        let length = u16::try_from(length).ok().filter(|_| length <= ROOM)?;
        let buffer = self.take()?;
        Some(Frame { buffer, length })
    }

    /// Takes the frame's buffer back.
    #[inline]
    pub fn give(&mut self, frame: Frame) {
        self.put(frame.buffer);
    }

    /// The frame's bytes.
    #[inline]
    #[must_use]
    pub fn bytes_mut(&mut self, frame: &Frame) -> &mut [u8] {
        let first = start(frame.buffer);
        let bytes = self.memory.as_mut_slice();
        bytes
            .get_mut(first..first + frame.len())
            .unwrap_or_default()
    }

    /// The bytes of two frames; empty if they were the same one.
    #[must_use]
    pub fn pair_mut(&mut self, one: &Frame, other: &Frame) -> (&mut [u8], &mut [u8]) {
        let range = |frame: &Frame| start(frame.buffer)..start(frame.buffer) + frame.len();
        let bytes = self.memory.as_mut_slice();
        match bytes.get_disjoint_mut([range(one), range(other)]) {
            Ok([one, other]) => (one, other),
            Err(_) => (&mut [], &mut []),
        }
    }

    /// Shortens the frame; a greater length changes nothing.
    pub fn truncate(&self, frame: &mut Frame, length: usize) {
        frame.length = u16::try_from(length).map_or(frame.length, |l| l.min(frame.length));
    }

    /// A free buffer.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<u16> {
        self.available = self.available.checked_sub(1)?;
        self.free.get(self.available).copied()
    }

    /// Takes a buffer back. Each is out once, so there is room.
    #[inline]
    pub(crate) fn put(&mut self, buffer: u16) {
        if let Some(free) = self.free.get_mut(self.available) {
            *free = buffer;
            self.available += 1;
        }
    }

    /// Guest-physical address of the frame in a buffer.
    #[inline]
    pub(crate) fn address(&self, buffer: u16) -> u64 {
        self.memory.address() + start(buffer) as u64
    }

    /// The 12 bytes before the frame in a buffer become zeros.
    #[inline]
    pub(crate) fn clear_header(&mut self, buffer: u16) {
        let end = start(buffer);
        let bytes = self.memory.as_mut_slice();
        if let Some(header) = bytes.get_mut(end - 12..end) {
            header.fill(0);
        }
    }
}

/// Where the frame in a buffer starts.
#[inline]
fn start(buffer: u16) -> usize {
    usize::from(buffer) * STRIDE + HEADROOM
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_buffer_is_out_once() {
        let mut pool = Pool::new(3).unwrap();
        let frames: Vec<Frame> = (0..4).filter_map(|_| pool.frame(60)).collect();
        assert_eq!(frames.len(), 3);
        for (value, frame) in (1..).zip(&frames) {
            pool.bytes_mut(frame).fill(value);
        }
        for (value, frame) in (1..).zip(&frames) {
            assert_eq!(pool.bytes_mut(frame), [value; 60]);
        }
        let (one, two) = pool.pair_mut(&frames[0], &frames[2]);
        assert_eq!((one[0], two[0]), (1, 3));
        frames.into_iter().for_each(|frame| pool.give(frame));
        assert_eq!(pool.available(), 3);
    }

    #[test]
    fn lengths_are_checked() {
        let mut pool = Pool::new(1).unwrap();
        assert!(pool.frame(ROOM + 1).is_none());
        assert!(Frame::received(0, 2049).is_none());
        assert!(Frame::received(0, 65600).is_none());
        let mut frame = pool.frame(ROOM).unwrap();
        pool.truncate(&mut frame, 60);
        pool.truncate(&mut frame, 100);
        assert_eq!(frame.len(), 60);
        let same = Frame {
            buffer: 0,
            length: 9,
        };
        assert_eq!(pool.pair_mut(&frame, &same), (&mut [][..], &mut [][..]));
    }
}
