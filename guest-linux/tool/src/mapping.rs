//! BARs in this process's memory.

use std::fs::File;
use std::mem::{align_of, size_of};
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result, ensure};
use cloister_abi::CoreCounters;
use cloister_abi::channel::FunctionPage;
use cloister_abi::control::{ControlPage, PartitionStatus, StatisticsHeader};
use cloister_abi::interrupts::InterruptTable;
use cloister_abi::shared::ConsoleRing;
use cloister_abi::trace::TraceRing;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A mapped BAR.
#[derive(Debug)]
pub(crate) struct Mapping {
    address: *mut u8,
    length: usize,
    writable: bool,
}

/// Types of atomics alone: others may write them at any moment.
///
/// # Safety
/// Every field is atomic, and every value of it is valid.
pub(crate) unsafe trait Shared {}

// SAFETY: made of atomic integers.
unsafe impl Shared for ControlPage {}
// SAFETY: as above.
unsafe impl Shared for StatisticsHeader {}
// SAFETY: as above.
unsafe impl Shared for PartitionStatus {}
// SAFETY: as above.
unsafe impl Shared for CoreCounters {}
// SAFETY: as above.
unsafe impl Shared for ConsoleRing {}
// SAFETY: as above.
unsafe impl Shared for TraceRing {}
// SAFETY: what is not atomic was written before Linux ran, and never again.
unsafe impl Shared for FunctionPage {}
// SAFETY: as above.
unsafe impl Shared for InterruptTable {}

impl Mapping {
    /// Maps the first `length` bytes of `file`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn new(file: &File, length: usize, writable: bool) -> Result<Self> {
        let rights = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            mmap(
                std::ptr::null_mut(),
                length,
                rights,
                MapFlags::SHARED,
                file,
                0,
            )
        };
        Ok(Self {
            address: address.context("cannot map it")?.cast(),
            length,
            writable,
        })
    }

    /// What is at `offset`.
    ///
    /// # Errors
    /// It does not lie in the mapping, or is misaligned.
    pub(crate) fn view<T: Shared>(&self, offset: usize) -> Result<&T> {
        self.check(offset, size_of::<T>(), align_of::<T>().min(4096))?;
        // SAFETY: inside the mapping, which lives as long as `self`, aligned,
        // and shared with others as `T` allows.
        Ok(unsafe { &*self.address.add(offset).cast::<T>() })
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// They do not fit, or the mapping is not writable.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        ensure!(self.writable, "the mapping is read-only");
        self.check(offset, bytes.len(), 1)?;
        for (index, byte) in bytes.iter().enumerate() {
            // SAFETY: inside the mapping, which is writable.
            unsafe { self.address.add(offset + index).write_volatile(*byte) };
        }
        Ok(())
    }

    /// All of it, as words that others write at any moment, and this process
    /// too.
    ///
    /// # Errors
    /// The mapping is not writable.
    pub(crate) fn words(&self) -> Result<&[AtomicU64]> {
        ensure!(self.writable, "the mapping is read-only");
        let words = self.length / size_of::<AtomicU64>();
        // SAFETY: the mapping, page-aligned, lives as long as `self`; what
        // others write there is made of words, and every value is one.
        Ok(unsafe { std::slice::from_raw_parts(self.address.cast(), words) })
    }

    fn check(&self, offset: usize, size: usize, align: usize) -> Result<()> {
        let fits = offset
            .checked_add(size)
            .is_some_and(|end| end <= self.length);
        ensure!(
            fits && offset.is_multiple_of(align),
            "the hypervisor's tables reach past their BAR (offset {offset:#x})"
        );
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody refers to it any more. A failure
        // leaves it mapped, which harms nobody.
        let _ = unsafe { munmap(self.address.cast(), self.length) };
    }
}

// SAFETY: it is shared memory, of which only atomics are seen by reference
// (`Shared`), and it belongs to no thread.
unsafe impl Send for Mapping {}
