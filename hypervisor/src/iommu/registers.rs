//! An IOMMU's registers, and the memory that it reads and writes by itself.

use core::arch::asm;

use crate::arch::memory::{FramePool, PAGE};
use crate::arch::{cpu, paging};

/// How long hardware may take over anything, TSC cycles: seconds.
const PATIENCE: u64 = 4_000_000_000;

/// Waits until `done`, and says whether it came to that in time.
pub(super) fn wait(mut done: impl FnMut() -> bool) -> bool {
    let start = cpu::tsc();
    while !done() {
        if cpu::tsc().wrapping_sub(start) > PATIENCE {
            return done();
        }
        cpu::pause();
    }
    true
}

/// The registers of one unit.
#[derive(Debug)]
pub(super) struct Registers {
    base: u64,
}

impl Registers {
    /// Those at `base`. `None`: no device's memory that the hypervisor can
    /// reach.
    pub(super) fn new(base: u64) -> Option<Self> {
        (base.is_multiple_of(PAGE) && paging::is_device(base)).then_some(Self { base })
    }

    /// Where they are.
    pub(super) const fn base(&self) -> u64 {
        self.base
    }

    pub(super) fn read32(&self, offset: u64) -> u32 {
        // SAFETY: a register of the unit, in uncached memory.
        unsafe { ((self.base + offset) as *const u32).read_volatile() }
    }

    pub(super) fn read64(&self, offset: u64) -> u64 {
        // SAFETY: as above.
        unsafe { ((self.base + offset) as *const u64).read_volatile() }
    }

    /// # Safety
    /// The effect (tables in force, commands run) keeps every device within
    /// its owner's memory.
    pub(super) unsafe fn write32(&self, offset: u64, value: u32) {
        // SAFETY: as above, and the caller's.
        unsafe { ((self.base + offset) as *mut u32).write_volatile(value) };
    }

    /// # Safety
    /// As [`Self::write32`].
    pub(super) unsafe fn write64(&self, offset: u64, value: u64) {
        // SAFETY: as above, and the caller's.
        unsafe { ((self.base + offset) as *mut u64).write_volatile(value) };
    }
}

/// Writes the cache line at `address` back to memory, for a unit that does not
/// look into caches.
pub(super) fn write_back(address: u64) {
    // SAFETY: writing a cache line back changes nothing that software sees.
    unsafe { asm!("clflush [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

/// Zeroed memory of the hypervisor that a unit reads or writes, for good.
#[derive(Debug)]
pub(super) struct Memory {
    address: u64,
    bytes: u64,
    coherent: bool,
}

impl Memory {
    /// `pages` pages, aligned to their size. `coherent`: the unit looks into
    /// caches.
    pub(super) fn new(pool: &FramePool, pages: u64, coherent: bool) -> Option<Self> {
        let bytes = pages * PAGE;
        let frame = pool.pages(pages, bytes.next_power_of_two())?;
        let memory = Self {
            address: frame.address(),
            bytes,
            coherent,
        };
        if !coherent {
            (0..bytes)
                .step_by(64)
                .for_each(|at| write_back(memory.address + at));
        }
        Some(memory)
    }

    /// Physical address.
    pub(super) const fn address(&self) -> u64 {
        self.address
    }

    /// Bytes.
    pub(super) const fn len(&self) -> u64 {
        self.bytes
    }

    /// The address of `size` bytes, aligned to their size, at `offset`.
    fn at(&self, offset: u64, size: u64) -> Option<u64> {
        let fits = offset.is_multiple_of(size) && offset.checked_add(size)? <= self.bytes;
        fits.then_some(self.address + offset)
    }

    fn written(&self, address: u64) {
        if !self.coherent {
            write_back(address);
        }
    }

    /// The word at `offset`, a multiple of 8; 0 past the end.
    pub(super) fn read(&self, offset: u64) -> u64 {
        self.at(offset, 8).map_or(0, |address| {
            self.written(address);
            // SAFETY: inside our memory; volatile, for the unit writes it.
            unsafe { (address as *const u64).read_volatile() }
        })
    }

    /// Writes 32 bits at `offset`, a multiple of 4; nothing past the end.
    pub(super) fn write32(&self, offset: u64, value: u32) {
        if let Some(address) = self.at(offset, 4) {
            // SAFETY: inside our memory, to which there is no reference.
            unsafe { (address as *mut u32).write_volatile(value) };
            self.written(address);
        }
    }

    /// Writes the word at `offset`, a multiple of 8; nothing past the end.
    pub(super) fn write(&self, offset: u64, value: u64) {
        if let Some(address) = self.at(offset, 8) {
            // SAFETY: as above.
            unsafe { (address as *mut u64).write_volatile(value) };
            self.written(address);
        }
    }

    /// Writes two words at `offset`, a multiple of 16, at once: a unit that
    /// reads them meanwhile sees the old ones or the new ones.
    pub(super) fn write_pair(&self, offset: u64, [low, high]: [u64; 2]) {
        let Some(address) = self.at(offset, 16) else {
            return;
        };
        let old = (self.read(offset), self.read(offset + 8));
        // SAFETY: inside our memory, aligned; nobody but the holder of this
        // writes it, so that the comparison holds at the first go. RBX is put
        // back.
        unsafe {
            asm!(
                "xchg {low}, rbx",
                "lock cmpxchg16b [{address}]",
                "mov rbx, {low}",
                low = inout(reg) low => _,
                address = in(reg) address,
                inout("rax") old.0 => _,
                inout("rdx") old.1 => _,
                in("rcx") high,
                options(nostack),
            );
        }
        self.written(address);
    }
}
