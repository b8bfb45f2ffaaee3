//! External interrupts. They are off until [`enable`].
//!
//! Each one is counted, and given to the handler of its vector if there is
//! one. A partition sees interrupts only if the system file routes a device at
//! it or gives it a local APIC (`apic = true`), which is then told when one is
//! done. NMIs count as vector 2.

use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::idt::VECTORS;
use crate::provoke;
use crate::start;

/// A handler: gets the vector. Runs with interrupts off, on the stack of what
/// it interrupted.
pub type Handler = fn(vector: u8);

static COUNTS: [AtomicU64; VECTORS] = [const { AtomicU64::new(0) }; VECTORS];
static HANDLERS: [AtomicPtr<()>; VECTORS] = [const { AtomicPtr::new(ptr::null_mut()) }; VECTORS];

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

/// Tells the local APIC, if the partition has one (Intel SDM vol. 3, "EOI
/// Register" and table "Local APIC Register Address Map Supported by x2APIC").
/// In xAPIC mode that is an exit: the hypervisor checks every write to the
/// APIC's page.
fn end_of_interrupt() {
    const X2APIC_EOI: u32 = 0x80b;
    match start::apic_mode() {
        1 => {
            // The loader mapped the page: it cannot fault.
            let _ = provoke::write_apic_eoi();
        }
        // SAFETY: ends the interrupt in service.
        2 => unsafe { crate::cpu::wrmsr(X2APIC_EOI, 0) },
        _ => {}
    }
}
