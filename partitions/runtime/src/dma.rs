//! Memory that devices read and write.
//!
//! It is taken from what the program's image leaves free and never given back.
//! A device may write to it at any time, so every access is volatile and no
//! value in it is trusted: what is read is a copy, to be checked.

use core::ptr::NonNull;

/// A page-aligned piece of memory for devices, zero at first.
#[derive(Debug)]
pub struct DmaMemory {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: it owns its memory.
unsafe impl Send for DmaMemory {}

impl DmaMemory {
    /// Takes `length` bytes, whole pages; `None` where so much is not left.
    #[must_use]
    pub fn allocate(length: usize) -> Option<Self> {
        let start = take(length)?;
        Some(Self { start, length })
    }

    /// Its guest-physical address, a multiple of 4 KiB.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.start.addr().get() as u64
    }

    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Whether it has no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Reads the value at byte `at`, which the device may have written.
    ///
    /// # Panics
    /// It does not lie within, or `at` is no multiple of its size.
    #[inline(always)]
    #[must_use]
    pub fn read<T: Plain>(&self, at: usize) -> T {
        // SAFETY: within and aligned; any bits are a `T`.
        unsafe { self.place::<T>(at).read_volatile() }
    }

    /// Writes the value at byte `at`, where the device may see it at once.
    ///
    /// # Panics
    /// As [`DmaMemory::read`].
    #[inline(always)]
    pub fn write<T: Plain>(&mut self, at: usize, value: T) {
        // SAFETY: within and aligned.
        unsafe { self.place::<T>(at).write_volatile(value) }
    }

    #[inline(always)]
    fn place<T: Plain>(&self, at: usize) -> NonNull<T> {
        assert!(
            at < self.length
                && self.length - at >= size_of::<T>()
                && at.is_multiple_of(size_of::<T>()),
            "outside of a device's memory"
        );
        // SAFETY: checked above.
        unsafe { self.start.add(at).cast() }
    }

    /// Its bytes, for buffers that only one side uses at a time: a driver
    /// must not look at those that it has given to the device.
    ///
    /// A device that breaks this rule changes bytes while the program looks
    /// at them. What the program makes of them must not depend on reading the
    /// same twice; `u8` has no wrong values.
    #[inline(always)]
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: it owns the memory, borrowed mutably here; of the device
        // see above.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

/// Takes `count` numbers, each `value`, from the same memory, for the program
/// alone; `None` where so much is not left.
#[must_use]
pub fn numbers<T: Plain>(count: usize, value: T) -> Option<&'static mut [T]> {
    let start = take(count.checked_mul(size_of::<T>())?)?;
    // SAFETY: aligned to a page, nobody else's, never given back, and zeros
    // are a `T`.
    let numbers = unsafe { core::slice::from_raw_parts_mut(start.cast().as_ptr(), count) };
    numbers.fill(value);
    Some(numbers)
}

/// `length` zeroed bytes of RAM that neither the image nor an earlier call
/// has.
#[cfg(target_os = "none")]
fn take(length: usize) -> Option<NonNull<u8>> {
    use core::sync::atomic::{AtomicU64, Ordering};
    const PAGE: u64 = 4096;
    /// First address that is still free; 0 before the first allocation.
    static FREE: AtomicU64 = AtomicU64::new(0);

    let bytes = u64::try_from(length).ok()?.checked_next_multiple_of(PAGE)?;
    let first = |free: u64| free.max(crate::start::image().end.next_multiple_of(PAGE));
    let next = |free| {
        let end = first(free).checked_add(bytes)?;
        (end <= crate::start::memory()).then_some(end)
    };
    let free = FREE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    let address = usize::try_from(first(free.ok()?)).ok()?;
    let start = NonNull::new(core::ptr::with_exposed_provenance_mut::<u8>(address))?;
    // SAFETY: RAM of the partition (cloister_abi::shared) that nobody has yet.
    unsafe { start.write_bytes(0, length) };
    Some(start)
}

/// On the host, for tests of drivers: memory that is never given back.
#[cfg(not(target_os = "none"))]
fn take(length: usize) -> Option<NonNull<u8>> {
    std::vec![0_u64; length.div_ceil(8)]
        .leak()
        .first_mut()
        .map(|first| NonNull::from(first).cast())
}

/// Integers: any bits are a value.
pub trait Plain: Copy + sealed::Integer {}

impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}

mod sealed {
    pub trait Integer {}
    impl Integer for u8 {}
    impl Integer for u16 {}
    impl Integer for u32 {}
    impl Integer for u64 {}
}
