//! A 16550 UART, polled (PC16550D data sheet).

use crate::arch::cpu;

/// Base ports of COM1 to COM4.
pub(crate) const COM: [u16; 4] = [0x3f8, 0x2f8, 0x3e8, 0x2e8];

/// How often the line status is read before a byte is given up: a UART that
/// is not there reads all ones, which looks ready; one that is stuck must not
/// stop the hypervisor.
const PATIENCE: u32 = 100_000;

/// One UART.
#[derive(Clone, Copy)]
pub(crate) struct Uart {
    base: u16,
}

impl Uart {
    /// Takes the UART at `base` and sets 115200 8N1, FIFOs on, interrupts off.
    ///
    /// # Safety
    /// The ports belong to the hypervisor.
    pub(crate) unsafe fn new(base: u16) -> Self {
        const DIVISOR_LATCH: u8 = 0x80;
        const EIGHT_BITS: u8 = 0x03;
        // SAFETY: the caller gives us the ports.
        unsafe {
            cpu::outb(base + 1, 0);
            cpu::outb(base + 3, DIVISOR_LATCH);
            cpu::outb(base, 1);
            cpu::outb(base + 1, 0);
            cpu::outb(base + 3, EIGHT_BITS);
            cpu::outb(base + 2, 0x07);
            cpu::outb(base + 4, 0x03);
        }
        Self { base }
    }

    /// Sends one byte, waiting for room.
    pub(crate) fn send(&self, byte: u8) {
        const TRANSMIT_EMPTY: u8 = 0x20;
        for _ in 0..PATIENCE {
            // SAFETY: `new` was given the ports.
            if unsafe { cpu::inb(self.base + 5) } & TRANSMIT_EMPTY != 0 {
                break;
            }
            cpu::pause();
        }
        // SAFETY: as above.
        unsafe { cpu::outb(self.base, byte) };
    }

    /// Waits until all has left the wire, so that a power-off loses nothing.
    pub(crate) fn flush(&self) {
        const ALL_EMPTY: u8 = 0x40;
        for _ in 0..PATIENCE {
            // SAFETY: `new` was given the ports.
            if unsafe { cpu::inb(self.base + 5) } & ALL_EMPTY != 0 {
                return;
            }
            cpu::pause();
        }
    }
}
