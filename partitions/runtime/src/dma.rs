//! Memory that devices read and write.
//!
//! It is taken from what the program's image leaves free and never given back.
//! A device may write to it at any time, so every access is volatile and no
//! value in it is trusted: what is read is a copy, to be checked.

use core::marker::PhantomData;
use core::ptr::NonNull;

/// Numbers in memory for devices, zero at first, from a multiple of 4 KiB on.
#[derive(Debug)]
pub struct Dma<T> {
    start: NonNull<T>,
    count: usize,
    owns: PhantomData<T>,
}

// SAFETY: it owns its memory.
unsafe impl<T: Plain> Send for Dma<T> {}

impl<T: Plain> Dma<T> {
    /// Takes memory for `count` numbers; `None` where so much is not left.
    #[must_use]
    pub fn allocate(count: usize) -> Option<Self> {
        Some(Self {
            start: take(count.checked_mul(size_of::<T>())?)?.cast(),
            count,
            owns: PhantomData,
        })
    }

    /// Its guest-physical address, a multiple of 4 KiB.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.start.addr().get() as u64
    }

    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Reads number `index`, which the device may have written.
    ///
    /// # Panics
    /// There is no such number.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, index: usize) -> T {
        assert!(index < self.count, "outside of a device's memory");
        // SAFETY: within, as just seen; any bits are a `T`.
        unsafe { self.start.add(index).read_volatile() }
    }

    /// Writes number `index`, where the device may see it at once.
    ///
    /// # Panics
    /// As [`Dma::get`].
    #[inline(always)]
    pub fn set(&mut self, index: usize, value: T) {
        assert!(index < self.count, "outside of a device's memory");
        // SAFETY: within, as just seen.
        unsafe { self.start.add(index).write_volatile(value) }
    }

    /// All of them, for buffers that only one side uses at a time: a driver
    /// must not look at those that it has given to the device.
    ///
    /// A device that breaks this rule changes numbers while the program looks
    /// at them. What the program makes of them must not depend on reading the
    /// same twice; they have no wrong values.
    #[inline(always)]
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: it owns the memory, borrowed mutably here; of the device
        // see above.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.count) }
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
    let memory = std::vec![0_u64; length.div_ceil(8).max(1)].leak();
    memory.first_mut().map(|first| NonNull::from(first).cast())
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
