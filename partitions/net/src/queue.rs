//! A split virtqueue (Virtual I/O Device 1.2, §2.7). Nothing in it is trusted
//! that the device writes: its index, the IDs and the lengths.

use core::sync::atomic::{Ordering, fence};

use cloister_runtime::dma::{self, DmaMemory};

/// A descriptor's flag: the device writes to the buffer.
const WRITE: u16 = 2;
/// Flag of the available ring: no interrupts, please.
const NO_INTERRUPT: u16 = 1;
/// Flag of the used ring: no notification is needed.
const NO_NOTIFY: u16 = 1;
/// No buffer is in a descriptor.
const NONE: u16 = u16::MAX;

/// Bytes of a descriptor, of an entry of the used ring, of a ring's header.
const DESCRIPTOR: usize = 16;
const USED: usize = 8;
const HEADER: usize = 4;

/// One queue, for buffers of one descriptor each.
#[derive(Debug)]
pub(crate) struct Queue {
    memory: DmaMemory,
    /// Entries, a power of two.
    size: u16,
    /// Where the available and the used ring start.
    available_at: usize,
    used_at: usize,
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
        let available_at = entries * DESCRIPTOR;
        let used_at = (available_at + HEADER + entries * 2 + 2).next_multiple_of(4);
        let mut memory = DmaMemory::allocate(used_at + HEADER + entries * USED + 2)?;
        let descriptors = dma::numbers(entries, 0)?;
        let flags = if device_writes { WRITE } else { 0 };
        for (number, descriptor) in (0..).zip(&mut *descriptors) {
            *descriptor = number;
            memory.write(usize::from(number) * DESCRIPTOR + 12, flags);
        }
        memory.write(available_at, NO_INTERRUPT);
        Some(Self {
            memory,
            size,
            available_at,
            used_at,
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
        [0, self.available_at, self.used_at].map(|at| self.memory.address() + at as u64)
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
        let at = usize::from(descriptor) * DESCRIPTOR;
        self.memory.write(at, address);
        self.memory.write(at + 8, length);
        let slot = usize::from(self.available & (self.size - 1));
        self.memory
            .write(self.available_at + HEADER + slot * 2, descriptor);
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
        self.memory.write(self.available_at + 2, self.available);
        self.published = self.available;
        // The index before a look at the flags (§2.7.13.4.1).
        fence(Ordering::SeqCst);
        self.memory.read::<u16>(self.used_at) & NO_NOTIFY == 0
    }

    /// The next buffer that the device has done with, and how many bytes it
    /// says it wrote.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<(u16, u32)> {
        loop {
            if self.used == self.used_end {
                let end = self.memory.read::<u16>(self.used_at + 2);
                let ahead = end.wrapping_sub(self.used);
                if ahead == 0 {
                    return None;
                }
                if ahead > self.size {
                    self.bad += 1;
                    return None;
                }
                self.used_end = end;
                // The index before the entries (§2.7.14).
                fence(Ordering::Acquire);
            }
            let slot = usize::from(self.used & (self.size - 1));
            let at = self.used_at + HEADER + slot * USED;
            self.used = self.used.wrapping_add(1);
            let descriptor = self.memory.read::<u32>(at);
            let length = self.memory.read::<u32>(at + 4);
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
        let index = queue.memory.read::<u16>(queue.used_at + 2);
        for (number, &(id, length)) in (index..).zip(entries) {
            let at = queue.used_at + HEADER + usize::from(number % queue.size) * USED;
            queue.memory.write(at, id);
            queue.memory.write(at + 4, length);
        }
        let end = index.wrapping_add(u16::try_from(entries.len()).unwrap());
        queue.memory.write(queue.used_at + 2, end);
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
        queue
            .memory
            .read(queue.available_at + HEADER + usize::from(index) * 2)
    }

    #[test]
    fn a_device_that_lies_gets_nowhere() {
        let mut queue = Queue::new(4, true).unwrap();
        queue.push(7, 0, 0);
        queue.publish();
        let id = u32::from(queue.memory.read::<u16>(queue.available_at + HEADER));
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
        queue
            .memory
            .write(queue.used_at + 2, queue.used.wrapping_add(5));
        assert_eq!((queue.pop(), queue.bad()), (None, 5));
    }

    #[test]
    fn a_device_that_wants_no_notification() {
        let mut queue = Queue::new(8, false).unwrap();
        queue.memory.write(queue.used_at, NO_NOTIFY);
        queue.push(0, 0, 0);
        assert!(!queue.publish());
    }
}
