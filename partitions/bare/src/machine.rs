//! The few instructions that are needed.

use core::arch::asm;

/// IN of one byte.
///
/// # Safety
/// Reading the port has no effect on memory.
pub(crate) unsafe fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: the caller's promise.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack)) };
    value
}

/// OUT of one byte.
///
/// # Safety
/// Writing the port has no effect on memory that is in use.
pub(crate) unsafe fn outb(port: u16, value: u8) {
    // SAFETY: the caller's promise.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack)) };
}

/// IN of four bytes.
///
/// # Safety
/// As [`inb`].
pub(crate) unsafe fn inl(port: u16) -> u32 {
    let value;
    // SAFETY: the caller's promise.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack)) };
    value
}

/// OUT of four bytes.
///
/// # Safety
/// As [`outb`].
pub(crate) unsafe fn outl(port: u16, value: u32) {
    // SAFETY: the caller's promise.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)) };
}

/// Masks every line of the two interrupt controllers that the BIOS has left
/// on (Intel 8259A data sheet, OCW1): nothing stays pending at a core that
/// takes no interrupt, as under Cloister.
pub(crate) fn mask_interrupts() {
    for port in [0x21, 0xa1] {
        // SAFETY: nobody waits for an interrupt.
        unsafe { outb(port, 0xff) };
    }
}

/// Resets the machine by the chipset's reset control register (Intel ICH9
/// data sheet §13.7.5; PIIX3 §2.2.17), which ends an emulator that does not
/// reboot; and stops where there is none.
pub(crate) fn reset() -> ! {
    const RESET_CONTROL: u16 = 0xcf9;
    // SAFETY: nothing runs any more.
    unsafe {
        outb(RESET_CONTROL, 0x02);
        outb(RESET_CONTROL, 0x06);
    }
    loop {
        // SAFETY: interrupts are off: this core stops.
        unsafe { asm!("hlt", options(nomem, nostack)) };
    }
}
