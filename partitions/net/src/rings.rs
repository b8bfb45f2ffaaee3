//! An e1000's two rings of legacy descriptors (Intel PCI/PCI-X Family of
//! Gigabit Ethernet Controllers Software Developer's Manual, §3.2.3 and
//! §3.3.3; 82574 data sheet, §7.1.5 and §7.2.10). Nothing in them is trusted
//! that the device writes: status, errors, length.

use core::sync::atomic::{Ordering, fence};

use cloister_runtime::dma::{self, Dma};

use crate::MIN_FRAME;
use crate::pool::{Frame, ROOM};

/// Fields of a descriptor's second word: length, a sender's command, status, a
/// receiver's errors. The first is the buffer's address.
const COMMAND_SHIFT: u32 = 24;
const STATUS_SHIFT: u32 = 32;
const ERRORS_SHIFT: u32 = 40;
/// Status: the device has done with it; the frame ends here.
const DONE: u64 = 1 << STATUS_SHIFT;
const END: u64 = 2 << STATUS_SHIFT;
/// Command: the frame ends here, add the check sequence, report the status.
const SEND: u64 = (1 | 2 | 8) << COMMAND_SHIFT;

/// A ring, of a power of two of descriptors of which one stays empty.
#[derive(Debug)]
struct Ring {
    /// Two words for each descriptor.
    words: Dma<u64>,
    buffers: &'static mut [u16],
    /// Next descriptor to be given to the device, and to come back from it.
    tail: usize,
    clean: usize,
}

impl Ring {
    fn new(size: u16) -> Option<Self> {
        Some(Self {
            words: Dma::allocate(usize::from(size) * 2)?,
            buffers: dma::numbers(usize::from(size), 0)?,
            tail: 0,
            clean: 0,
        })
    }

    #[inline]
    fn next(&self, index: usize) -> usize {
        (index + 1) & (self.buffers.len() - 1)
    }

    /// Whether the device could get another descriptor.
    #[inline]
    fn has_room(&self) -> bool {
        self.next(self.tail) != self.clean
    }

    /// Guest-physical address and bytes.
    fn place(&self) -> (u64, usize) {
        (self.words.address(), self.words.len() * size_of::<u64>())
    }

    /// Writes the descriptor at the tail and moves that.
    #[inline]
    fn push(&mut self, buffer: u16, address: u64, second: u64) {
        self.words.set(self.tail * 2, address);
        self.words.set(self.tail * 2 + 1, second);
        if let Some(place) = self.buffers.get_mut(self.tail) {
            *place = buffer;
        }
        self.tail = self.next(self.tail);
    }

    /// The next descriptor to come back, if it has: its buffer and its second
    /// word.
    #[inline]
    fn pop(&mut self) -> Option<(u16, u64)> {
        if self.clean == self.tail {
            return None;
        }
        let second = self.words.get(self.clean * 2 + 1);
        if second & DONE == 0 {
            return None;
        }
        // The descriptor before what is in the buffer.
        fence(Ordering::Acquire);
        let buffer = self.buffers.get(self.clean).copied()?;
        self.clean = self.next(self.clean);
        Some((buffer, second))
    }
}

/// What a receive ring gives back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A frame.
    Frame(Frame),
    /// A buffer with none that makes sense.
    Bad(u16),
}

/// The receive ring.
#[derive(Debug)]
pub(crate) struct ReceiveRing(Ring);

impl ReceiveRing {
    /// `size` descriptors, a power of two, at least 8; `None` where memory does
    /// not suffice.
    pub(crate) fn new(size: u16) -> Option<Self> {
        Ring::new(size).map(Self)
    }

    /// Guest-physical address and bytes.
    pub(crate) fn place(&self) -> (u64, usize) {
        self.0.place()
    }

    /// Whether there is room for another buffer.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.0.has_room()
    }

    /// Adds a buffer; there must be room. The device may use it when it is told
    /// of [`ReceiveRing::tail`].
    #[inline]
    pub(crate) fn push(&mut self, buffer: u16, address: u64) {
        self.0.push(buffer, address, 0);
    }

    /// Value of the device's tail register.
    #[inline]
    pub(crate) const fn tail(&self) -> usize {
        self.0.tail
    }

    /// What has arrived next.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Received> {
        let (buffer, second) = self.0.pop()?;
        let [a, b, ..] = second.to_le_bytes();
        let length = u32::from(u16::from_le_bytes([a, b]));
        let errors = second >> ERRORS_SHIFT & 0xff;
        let frame = (second & END != 0 && errors == 0 && length >= MIN_FRAME)
            .then(|| Frame::received(buffer, length))
            .flatten();
        Some(frame.map_or(Received::Bad(buffer), Received::Frame))
    }
}

/// The transmit ring.
#[derive(Debug)]
pub(crate) struct TransmitRing(Ring);

impl TransmitRing {
    /// See [`ReceiveRing::new`].
    pub(crate) fn new(size: u16) -> Option<Self> {
        Ring::new(size).map(Self)
    }

    /// See [`ReceiveRing::place`].
    pub(crate) fn place(&self) -> (u64, usize) {
        self.0.place()
    }

    /// Whether there is room for another frame.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.0.has_room()
    }

    /// Adds a frame, which the device finds at `address`; there must be room.
    /// The device sends it when it is told of [`TransmitRing::tail`].
    #[inline]
    pub(crate) fn push(&mut self, frame: &Frame, address: u64) {
        let length = frame.len().min(ROOM) as u64;
        self.0.push(frame.buffer, address, SEND | length);
    }

    /// Value of the device's tail register.
    #[inline]
    pub(crate) const fn tail(&self) -> usize {
        self.0.tail
    }

    /// The next buffer whose frame is sent.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<u16> {
        self.0.pop().map(|(buffer, _)| buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The device's side: writes the descriptor at `index`.
    fn complete(ring: &mut Ring, index: usize, length: u16, status: u64, errors: u8) {
        let second = u64::from(errors) << ERRORS_SHIFT | status | u64::from(length);
        ring.words.set(index * 2 + 1, second);
    }

    #[test]
    fn frames_arrive_in_order() {
        let mut ring = ReceiveRing::new(8).unwrap();
        for buffer in 0..7 {
            assert!(ring.has_room());
            ring.push(buffer, 0x1000);
        }
        assert!(!ring.has_room());
        assert_eq!((ring.tail(), ring.pop()), (7, None));
        complete(&mut ring.0, 0, 60, DONE | END, 0);
        complete(&mut ring.0, 1, 1514, DONE | END, 0);
        for (buffer, length) in [(0, 60), (1, 1514)] {
            let frame = Frame::received(buffer, length).unwrap();
            assert_eq!(ring.pop(), Some(Received::Frame(frame)));
        }
        assert_eq!(ring.pop(), None);
        ring.push(9, 0x1000);
        assert_eq!((ring.tail(), ring.has_room()), (0, true));
    }

    #[test]
    fn what_makes_no_sense_is_a_bad_buffer() {
        let mut ring = ReceiveRing::new(8).unwrap();
        let cases = [
            (13, DONE | END, 0),
            (2049, DONE | END, 0),
            (u16::MAX, DONE | END, 0),
            (60, DONE, 0),
            (60, DONE | END, 1),
        ];
        for (index, (length, status, errors)) in cases.into_iter().enumerate() {
            ring.push(3, 0);
            complete(&mut ring.0, index, length, status, errors);
            assert_eq!(ring.pop(), Some(Received::Bad(3)));
        }
        // A descriptor that it was not given.
        complete(&mut ring.0, 5, 60, DONE | END, 0);
        assert_eq!(ring.pop(), None);
    }

    #[test]
    fn a_sent_buffer_comes_back_once() {
        let mut ring = TransmitRing::new(8).unwrap();
        let frame = Frame::received(5, 60).unwrap();
        ring.push(&frame, 0xabc0);
        assert_eq!(ring.0.words.get(0), 0xabc0);
        assert_eq!(ring.0.words.get(1), 0x0b00_003c);
        assert_eq!(ring.pop(), None);
        complete(&mut ring.0, 0, 60, DONE, 0);
        assert_eq!((ring.pop(), ring.pop()), (Some(5), None));
    }
}
