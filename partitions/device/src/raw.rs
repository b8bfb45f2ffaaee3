//! Configuration space as the hardware has it: any function, any register, any
//! width.

use cloister_runtime::cpu;

/// Configuration address, first data port (PCI Local Bus Specification 3.0
/// §3.2.2.3.2).
const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;

fn select(function: u16, offset: u8) -> u16 {
    let register = 1 << 31 | u32::from(function) << 8 | u32::from(offset & !3);
    // SAFETY: selects a register and nothing else.
    unsafe { cpu::outl(ADDRESS, register) };
    DATA + u16::from(offset & 3)
}

/// What was selected last.
pub(crate) fn selected() -> u32 {
    // SAFETY: reading it back has no effect.
    unsafe { cpu::inl(ADDRESS) }
}

/// Reads `width` bytes (1, 2 or 4) at `offset` of `function` (bus << 8 |
/// device << 3 | function).
pub(crate) fn read(function: u16, offset: u8, width: u8) -> u32 {
    let port = select(function, offset);
    // SAFETY: reading configuration space has no effect on memory.
    unsafe {
        match width {
            1 => cpu::inb(port).into(),
            2 => cpu::inw(port).into(),
            _ => cpu::inl(port),
        }
    }
}

/// Writes them. No device of this program is told an address, so none of it
/// makes a device touch memory.
#[expect(clippy::cast_possible_truncation, reason = "the width says how much")]
pub(crate) fn write(function: u16, offset: u8, width: u8, value: u32) {
    let port = select(function, offset);
    // SAFETY: as above.
    unsafe {
        match width {
            1 => cpu::outb(port, value as u8),
            2 => cpu::outw(port, value as u16),
            _ => cpu::outl(port, value),
        }
    }
}
