//! External interrupts. They are off until [`enable`].
//!
//! Each one is counted, and given to the handler of its vector if there is
//! one. A partition sees interrupts only if the system file routes a device at
//! it or gives it a local APIC (`apic = true`); then say with [`set_eoi`] how
//! the APIC is told that one is done. NMIs count as vector 2.

use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};

use crate::idt::VECTORS;
use crate::paging::{self, MapError};
use crate::provoke;

/// A handler: gets the vector. Runs with interrupts off, on the stack of what
/// it interrupted.
pub type Handler = fn(vector: u8);

/// How the end of an interrupt is signalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Eoi {
    /// Not at all: the partition has no local APIC.
    None = 0,
    /// A write to the EOI register in the xAPIC page: one exit, because the
    /// hypervisor checks every write to that page.
    Xapic = 1,
    /// WRMSR to 0x80b.
    X2apic = 2,
}

static COUNTS: [AtomicU64; VECTORS] = [const { AtomicU64::new(0) }; VECTORS];
static HANDLERS: [AtomicPtr<()>; VECTORS] = [const { AtomicPtr::new(ptr::null_mut()) }; VECTORS];
static EOI: AtomicU8 = AtomicU8::new(Eoi::None as u8);

/// Enables external interrupts on this core.
pub fn enable() {
    crate::cpu::sti();
}

/// Disables external interrupts on this core.
pub fn disable() {
    crate::cpu::cli();
}

/// How many interrupts with `vector` all cores of the partition took.
#[must_use]
pub fn count(vector: u8) -> u64 {
    COUNTS[usize::from(vector)].load(Ordering::Relaxed)
}

/// How many interrupts all cores of the partition took.
#[must_use]
pub fn total() -> u64 {
    COUNTS.iter().map(|c| c.load(Ordering::Relaxed)).sum()
}

/// Makes `handler` run at each interrupt with `vector`, on any core. Vectors
/// 0 to 31 belong to exceptions.
///
/// # Errors
/// For a vector below 32.
pub fn set_handler(vector: u8, handler: Handler) -> Result<(), ExceptionVector> {
    if vector < 32 {
        return Err(ExceptionVector);
    }
    HANDLERS[usize::from(vector)].store(handler as *mut (), Ordering::Release);
    Ok(())
}

/// A vector below 32: it belongs to an exception, and has no handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExceptionVector;

/// Says how the end of an interrupt is signalled, on all cores.
///
/// # Errors
/// When the xAPIC page cannot be mapped.
pub fn set_eoi(eoi: Eoi) -> Result<(), MapError> {
    if eoi == Eoi::Xapic {
        paging::map_device_page(provoke::APIC_BASE)?;
    }
    EOI.store(eoi as u8, Ordering::Release);
    Ok(())
}

pub(crate) fn dispatch(vector: u64) {
    #[expect(clippy::cast_possible_truncation, reason = "the stubs push 0 to 255")]
    let vector = vector as u8;
    let index = usize::from(vector);
    COUNTS[index].fetch_add(1, Ordering::Relaxed);
    let handler = HANDLERS[index].load(Ordering::Acquire);
    if !handler.is_null() {
        // SAFETY: only set_handler stores here, and it stores a Handler.
        let handler = unsafe { mem::transmute::<*mut (), Handler>(handler) };
        handler(vector);
    }
    if vector >= 32 {
        end_of_interrupt();
    }
}

/// Intel SDM vol. 3, 10.8.5 (xAPIC) and table 10-6 (x2APIC MSRs).
fn end_of_interrupt() {
    match EOI.load(Ordering::Acquire) {
        e if e == Eoi::Xapic as u8 => {
            // A page that set_eoi mapped; a fault is impossible then.
            let _ = provoke::write_apic_eoi();
        }
        e if e == Eoi::X2apic as u8 => {
            // SAFETY: ends the interrupt in service.
            unsafe { crate::cpu::wrmsr(0x80b, 0) };
        }
        _ => {}
    }
}
