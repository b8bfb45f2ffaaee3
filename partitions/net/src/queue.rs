//! A split virtqueue (Virtual I/O Device 1.2, §2.7). Nothing in it is trusted
//! that the device writes: its index, the IDs and the lengths.

use core::sync::atomic::{Ordering, fence};

use cloister_runtime::dma::{self, Dma};

/// A descriptor's flag, as it stands in its second word: the device writes to
/// the buffer.
const WRITE: u64 = 2 << 32;
/// Flag of the available ring: no interrupts, please.
const NO_INTERRUPT: u16 = 1;
/// Flag of the used ring: no notification is needed.
const NO_NOTIFY: u16 = 1;
/// No buffer is in a descriptor.
const NONE: u16 = u16::MAX;

/// One queue, for buffers of one descriptor each.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Two words each: address; length, flags, next.
    table: Dma<u64>,
    /// Flags, index, entries.
    available_ring: Dma<u16>,
    /// Begins in the middle of the first word, which ends with flags and
    /// index; then a word for each entry.
    used_ring: Dma<u64>,
    /// One less than the number of entries, which is a power of two.
    mask: u16,
    flags: u64,
    /// The buffer in each descriptor.
    buffers: &'static mut [u16],
    /// The free descriptors are the first `free`.
    descriptors: &'static mut [u16],
    free: usize,
    /// Our index of the available ring, and what of it the device knows.
    available: u16,
    published: u16,
    /// How far the used ring has been read, and how far it may be.
    used: u16,
    used_end: u16,
    /// Entries that made no sense.
    bad: u64,
}

impl Queue {
    /// An empty queue of `size` entries, a power of two up to 32768; `None`
    /// where memory does not suffice. `device_writes` says whether it is for
    /// buffers that the device fills.
    pub(crate) fn new(size: u16, device_writes: bool) -> Option<Self> {
        let entries = usize::from(size);
        let descriptors = dma::numbers(entries, 0)?;
        for (number, descriptor) in (0..).zip(&mut *descriptors) {
            *descriptor = number;
        }
        let mut available_ring = Dma::allocate(entries + 3)?;
        available_ring.set(0, NO_INTERRUPT);
        Some(Self {
            table: Dma::allocate(entries * 2)?,
            available_ring,
            used_ring: Dma::allocate(entries + 2)?,
            mask: size.checked_sub(1)?,
            flags: if device_writes { WRITE } else { 0 },
            buffers: dma::numbers(entries, NONE)?,
            free: descriptors.len(),
            descriptors,
            available: 0,
            published: 0,
            used: 0,
            used_end: 0,
            bad: 0,
        })
    }

    /// Guest-physical addresses of the descriptors, the available and the used
    /// ring.
    pub(crate) fn addresses(&self) -> [u64; 3] {
        [
            self.table.address(),
            self.available_ring.address(),
            self.used_ring.address() + 4,
        ]
    }

    /// Descriptors that are free.
    #[inline]
    pub(crate) const fn free(&self) -> usize {
        self.free
    }

    /// Entries of the used ring that made no sense.
    pub(crate) const fn bad(&self) -> u64 {
        self.bad
    }

    /// Puts `buffer`, which the device finds at `address`, at the end. False,
    /// and nothing is done, where no descriptor is free.
    #[inline]
    pub(crate) fn push(&mut self, buffer: u16, address: u64, length: u32) -> bool {
        let Some(last) = self.free.checked_sub(1) else {
            return false;
        };
        let Some(&descriptor) = self.descriptors.get(last) else {
            return false;
        };
        let Some(place) = self.buffers.get_mut(usize::from(descriptor)) else {
            return false;
        };
        *place = buffer;
        self.free = last;
        let at = usize::from(descriptor) * 2;
        self.table.set(at, address);
        self.table.set(at + 1, self.flags | u64::from(length));
        let slot = usize::from(self.available & self.mask);
        self.available_ring.set(2 + slot, descriptor);
        self.available = self.available.wrapping_add(1);
        true
    }

    /// Shows the device what was pushed. True where it wants to be told.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        if self.published == self.available {
            return false;
        }
        // The entries before the index (§2.7.13.3).
        fence(Ordering::Release);
        self.available_ring.set(1, self.available);
        self.published = self.available;
        // The index before a look at the flags (§2.7.13.4.1).
        fence(Ordering::SeqCst);
        self.used_header().0 & NO_NOTIFY == 0
    }

    /// Flags and index of the used ring.
    #[inline]
    fn used_header(&self) -> (u16, u16) {
        let [_, _, _, _, a, b, c, d] = self.used_ring.get(0).to_le_bytes();
        (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
    }

    /// The next buffer that the device has done with, and how many bytes it
    /// says it wrote.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<(u16, u32)> {
        loop {
            if self.used == self.used_end {
                let (_, end) = self.used_header();
                let ahead = end.wrapping_sub(self.used);
                if ahead == 0 {
                    return None;
                }
                if ahead > self.mask + 1 {
                    self.bad += 1;
                    return None;
                }
                self.used_end = end;
                // The index before the entries (§2.7.14).
                fence(Ordering::Acquire);
            }
            let slot = usize::from(self.used & self.mask);
            self.used = self.used.wrapping_add(1);
            let entry = self.used_ring.get(1 + slot);
            #[expect(clippy::cast_possible_truncation, reason = "takes halves")]
            let (descriptor, length) = (entry as u32, (entry >> 32) as u32);
            let place = usize::try_from(descriptor)
                .ok()
                .and_then(|index| self.buffers.get_mut(index))
                .filter(|place| **place != NONE);
            let (Some(place), Ok(number)) = (place, u16::try_from(descriptor)) else {
                self.bad += 1;
                continue;
            };
            let buffer = core::mem::replace(place, NONE);
            if let Some(free) = self.descriptors.get_mut(self.free) {
                *free = number;
                self.free += 1;
            }
            return Some((buffer, length));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The device's side: says of `entries` (ID, length) that it has done with
    /// them.
    fn complete(queue: &mut Queue, entries: &[(u32, u32)]) {
        let (_, index) = queue.used_header();
        for (number, &(id, length)) in (index..).zip(entries) {
            let slot = usize::from(number & queue.mask);
            let entry = u64::from(length) << 32 | u64::from(id);
            queue.used_ring.set(1 + slot, entry);
        }
        let end = index.wrapping_add(u16::try_from(entries.len()).unwrap());
        set_used(queue, 0, end);
    }

    fn set_used(queue: &mut Queue, flags: u16, index: u16) {
        let header = u64::from(index) << 48 | u64::from(flags) << 32;
        queue.used_ring.set(0, header);
    }

    #[test]
    fn buffers_go_round() {
        let mut queue = Queue::new(4, true).unwrap();
        for round in 0..10 {
            for buffer in 0..4 {
                assert!(queue.push(100 + buffer, 0x1000 * u64::from(buffer), 2060));
            }
            assert!(!queue.push(9, 0, 0), "round {round}");
            assert!(queue.publish());
            assert!(!queue.publish(), "nothing is new");
            // Out of order, which a device may do.
            let ids: Vec<u32> = (0..4)
                .map(|slot| u32::from(available(&queue, slot)))
                .collect();
            complete(
                &mut queue,
                &[(ids[2], 72), (ids[0], 73), (ids[1], 74), (ids[3], 75)],
            );
            let popped: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
            assert_eq!(popped, [(102, 72), (100, 73), (101, 74), (103, 75)]);
            assert_eq!((queue.free(), queue.bad()), (4, 0));
        }
    }

    /// The descriptor in the last round's slot.
    fn available(queue: &Queue, slot: u16) -> u16 {
        let index = queue.available.wrapping_sub(4).wrapping_add(slot) % 4;
        queue.available_ring.get(2 + usize::from(index))
    }

    #[test]
    fn a_device_that_lies_gets_nowhere() {
        let mut queue = Queue::new(4, true).unwrap();
        queue.push(7, 0, 0);
        queue.publish();
        let id = u32::from(queue.available_ring.get(2));
        // Not given to it, out of range, far out of range, right, and again.
        complete(
            &mut queue,
            &[(id ^ 1, 1), (4, 1), (u32::MAX, 1), (id, u32::MAX)],
        );
        assert_eq!(queue.pop(), Some((7, u32::MAX)));
        assert_eq!((queue.pop(), queue.bad()), (None, 3));
        complete(&mut queue, &[(id, 1)]);
        assert_eq!((queue.pop(), queue.bad()), (None, 4));
        // An index that has moved by more than there are entries.
        let index = queue.used.wrapping_add(5);
        set_used(&mut queue, 0, index);
        assert_eq!((queue.pop(), queue.bad()), (None, 5));
    }

    #[test]
    fn a_device_that_wants_no_notification() {
        let mut queue = Queue::new(8, false).unwrap();
        set_used(&mut queue, NO_NOTIFY, 0);
        queue.push(0, 0, 0);
        assert!(!queue.publish());
    }
}
