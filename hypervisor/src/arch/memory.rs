//! Physical memory that the hypervisor owns. It is identity-mapped: an address
//! is its own pointer.

use cloister_core::memory::Range;
use spin::Mutex;

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;

/// Zeroed pages, handed out once and never given back: everything that the
/// hypervisor allocates, it allocates while it starts.
pub(crate) struct FramePool {
    free: Mutex<Range>,
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
        }
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

    /// The frame as a `T` that lives for ever.
    ///
    /// # Safety
    /// All bytes zero is a valid `T`.
    pub(crate) unsafe fn leak<T>(self) -> &'static mut T {
        assert!(size_of::<T>() as u64 <= self.len() && align_of::<T>() as u64 <= PAGE);
        // SAFETY: the frame is ours alone, large enough, aligned and zeroed,
        // which the caller says is a valid T.
        unsafe { &mut *(self.address as *mut T) }
    }
}
