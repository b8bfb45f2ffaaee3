//! Physical memory that the hypervisor owns. It is identity-mapped: an address
//! is its own pointer.

use core::sync::atomic::{AtomicU64, Ordering};

use cloister_core::memory::Range;
use spin::{Mutex, Once};

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;

/// Zeroed pages, handed out once and never given back: everything that the
/// hypervisor allocates, it allocates while it starts.
pub(crate) struct FramePool {
    free: Mutex<Range>,
    /// Where others read how much is left.
    shown: Once<&'static AtomicU64>,
}

/// A run of zeroed pages that belongs to whoever holds this.
#[derive(Debug)]
pub(crate) struct Frame {
    address: u64,
    pages: u64,
}

impl FramePool {
    /// A pool over `range`.
    ///
    /// # Safety
    /// Nobody else uses the memory, it is mapped read-write, and it is aligned
    /// to pages.
    pub(crate) const unsafe fn new(range: Range) -> Self {
        Self {
            free: Mutex::new(range),
            shown: Once::new(),
        }
    }

    /// Bytes that have not been handed out.
    pub(crate) fn left(&self) -> u64 {
        self.free.lock().len()
    }

    /// Keeps `place` at [`Self::left`] from now on.
    pub(crate) fn show_left(&self, place: &'static AtomicU64) {
        let free = self.free.lock();
        self.shown.call_once(|| place);
        place.store(free.len(), Ordering::Relaxed);
    }

    /// One zeroed page; `None` when the pool is empty.
    pub(crate) fn page(&self) -> Option<Frame> {
        self.pages(1, PAGE)
    }

    /// `count` zeroed pages in one piece, aligned to `align` bytes (a power of
    /// two of at least a page).
    pub(crate) fn pages(&self, count: u64, align: u64) -> Option<Frame> {
        let mut free = self.free.lock();
        let start = free.start.checked_next_multiple_of(align)?;
        let end = start.checked_add(count.checked_mul(PAGE)?)?;
        if end > free.end {
            return None;
        }
        free.start = end;
        if let Some(shown) = self.shown.get() {
            shown.store(free.len(), Ordering::Relaxed);
        }
        drop(free);
        let bytes = usize::try_from(count * PAGE).ok()?;
        // SAFETY: the pool owns [start, end), which nobody has been given yet.
        unsafe { core::ptr::write_bytes(start as *mut u8, 0, bytes) };
        Some(Frame {
            address: start,
            pages: count,
        })
    }
}

impl Frame {
    /// Physical address.
    pub(crate) const fn address(&self) -> u64 {
        self.address
    }

    /// Bytes.
    pub(crate) const fn len(&self) -> u64 {
        self.pages * PAGE
    }

    /// The frame as a `T` of zeros, which lives for ever; `None` if it is too
    /// small.
    pub(crate) fn zeroed<T: Zeroable>(self) -> Option<&'static mut T> {
        // SAFETY: zeros are a valid `T`.
        self.fits::<T>().then(|| unsafe { self.leak() })
    }

    /// The frame as a `T` that lives for ever.
    ///
    /// # Safety
    /// All bytes zero is a valid `T`.
    pub(crate) unsafe fn leak<T>(self) -> &'static mut T {
        assert!(self.fits::<T>());
        // SAFETY: the frame is ours alone, large enough, aligned and zeroed,
        // which the caller says is a valid `T`.
        unsafe { &mut *(self.address as *mut T) }
    }

    /// Moves `value` into the frame, where it lives for ever; `None` if it is
    /// too small.
    pub(crate) fn place<T>(self, value: T) -> Option<&'static mut T> {
        if !self.fits::<T>() {
            return None;
        }
        let place = self.address as *mut T;
        // SAFETY: the frame is ours alone, large enough and aligned.
        unsafe {
            place.write(value);
            Some(&mut *place)
        }
    }

    fn fits<T>(&self) -> bool {
        size_of::<T>() as u64 <= self.len() && align_of::<T>() as u64 <= PAGE
    }

    /// Its bytes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        let length = usize::try_from(self.len()).unwrap_or(0);
        // SAFETY: the frame is ours alone.
        unsafe { core::slice::from_raw_parts_mut(self.address as *mut u8, length) }
    }
}

/// Types of which all bytes zero is a value.
///
/// # Safety
/// It is, and every field may be 0.
pub(crate) unsafe trait Zeroable {}

// SAFETY: made of integers and atomic integers.
unsafe impl Zeroable for cloister_abi::CoreCounters {}
// SAFETY: as above.
unsafe impl Zeroable for cloister_abi::shared::ConsoleRing {}
// SAFETY: as above.
unsafe impl Zeroable for cloister_abi::shared::PartitionInfo {}
// SAFETY: as above.
unsafe impl Zeroable for cloister_abi::device::DeviceTable {}
// SAFETY: as above.
unsafe impl Zeroable for cloister_abi::trace::TraceRing {}
// SAFETY: as above.
unsafe impl Zeroable for cloister_abi::channel::ChannelTable {}
// SAFETY: as above.
unsafe impl Zeroable for cloister_abi::channel::FunctionPage {}
// SAFETY: as above, and atomic booleans.
unsafe impl Zeroable for crate::watch::Watch {}
// SAFETY: integers, booleans, and an enum whose first variant is 0.
unsafe impl Zeroable for cloister_core::policy::cpuid::CpuidCache {}

/// A block of memory that the plan gave to one guest. The hypervisor touches
/// it only while the guest does not run.
#[derive(Debug)]
pub(crate) struct Block {
    range: Range,
}

impl Block {
    /// The block over `range`.
    ///
    /// # Safety
    /// It is RAM, mapped at its own address, and belongs to one guest or to
    /// the hypervisor; nothing that Rust refers to is in it.
    pub(crate) const unsafe fn new(range: Range) -> Self {
        Self { range }
    }

    /// Where it is.
    pub(crate) const fn range(&self) -> Range {
        self.range
    }

    /// Bytes.
    pub(crate) const fn len(&self) -> u64 {
        self.range.len()
    }

    /// Fills it with zeros.
    pub(crate) fn zero(&self) {
        let length = usize::try_from(self.len()).unwrap_or(0);
        // SAFETY: the block is RAM to which Rust has no reference.
        unsafe { core::ptr::write_bytes(self.range.start as *mut u8, 0, length) };
    }

    /// Copies `bytes` to `offset`. Says whether they fit; nothing is written
    /// otherwise.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        let end = offset.checked_add(bytes.len() as u64);
        let fits = end.is_some_and(|end| end <= self.len());
        if fits {
            let to = (self.range.start + offset) as *mut u8;
            // SAFETY: inside the block, as above.
            unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        }
        fits
    }

    /// Writes the 64-bit entry `index` of the table at `table`.
    pub(crate) fn entry(&self, table: u64, index: u64, value: u64) {
        self.write(table + index * 8, &value.to_le_bytes());
    }
}
