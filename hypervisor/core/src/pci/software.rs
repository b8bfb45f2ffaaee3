//! The configuration space of a function that exists in software alone (PCI
//! Local Bus Specification 3.0, chapter 6): a type 0 header, memory BARs, no
//! capabilities, no interrupt.

use super::BARS;

/// Offsets in the header.
const COMMAND: usize = 0x04;
const HEADER_BARS: usize = 0x10;
const HEADER_TYPE: usize = 0x0c;
const INTERRUPT_LINE: usize = 0x3c;
/// Memory space enable.
const MEMORY: u32 = 1 << 1;
/// Bits of the command register that can be set: memory space, bus master
/// (without effect), INTx disable.
const COMMAND_MASK: u32 = MEMORY | 1 << 2 | 1 << 10;
/// 256 bytes of registers.
const REGISTERS: usize = 64;

/// Who the function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Vendor ID, of the subsystem as well.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// Class, subclass and programming interface.
    pub class: u32,
    /// Revision ID.
    pub revision: u8,
    /// The device has further functions.
    pub multifunction: bool,
}

/// The function's registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    registers: [u32; REGISTERS],
    writable: [u32; REGISTERS],
}

impl Function {
    /// A function with 32-bit memory BARs of these sizes in bytes: powers of
    /// two of at least 16, or 0 for none. Nothing is decoded yet.
    #[must_use]
    pub fn new(identity: &Identity, sizes: &[u32; BARS]) -> Self {
        let mut registers = [0; REGISTERS];
        let mut writable = [0; REGISTERS];
        registers[0] = u32::from(identity.vendor) | u32::from(identity.device) << 16;
        registers[2] = identity.class << 8 | u32::from(identity.revision);
        registers[HEADER_TYPE / 4] = u32::from(identity.multifunction) << 23;
        registers[0x2c / 4] = u32::from(identity.vendor) | u32::from(identity.subsystem) << 16;
        writable[COMMAND / 4] = COMMAND_MASK;
        writable[INTERRUPT_LINE / 4] = 0xff;
        let bars = writable.iter_mut().skip(HEADER_BARS / 4);
        for (mask, size) in bars.zip(sizes) {
            *mask = match size.checked_sub(1) {
                Some(low) => !low & !0xf,
                None => 0,
            };
        }
        Self {
            registers,
            writable,
        }
    }

    /// The `width` (1, 2 or 4) bytes at `offset`. What lies past the 256 bytes
    /// reads as 0 in a PCI Express function without extended capabilities; an
    /// access across a register's end reads as ones.
    #[must_use]
    pub fn read(&self, offset: u16, width: u8) -> u32 {
        let (register, shift, mask) = match place(offset, width) {
            Some(place) => place,
            None => return u32::MAX,
        };
        let value = self.registers.get(register).copied().unwrap_or(0);
        (value >> shift) & mask
    }

    /// Writes the low `width` bytes of `value` at `offset`. Bits that cannot
    /// be written stay.
    pub fn write(&mut self, offset: u16, width: u8, value: u32) {
        let Some((register, shift, mask)) = place(offset, width) else {
            return;
        };
        let Some(writable) = self.writable.get(register) else {
            return;
        };
        let mask = (mask << shift) & writable;
        if let Some(old) = self.registers.get_mut(register) {
            *old = (*old & !mask) | ((value << shift) & mask);
        }
    }

    /// Where BAR `index` decodes: `None` while memory space is off, while it
    /// holds no address, and for a BAR that does not exist.
    #[must_use]
    pub fn window(&self, index: usize) -> Option<u32> {
        let register = HEADER_BARS / 4 + index;
        let mask = *self.writable.get(register).filter(|_| index < BARS)?;
        let address = self.registers.get(register)? & mask;
        let on = self.registers.get(COMMAND / 4)? & MEMORY != 0;
        // All ones is what sizing writes; it never is an address, for the last
        // page below 4 GiB is the firmware's.
        (on && address != 0 && address != mask).then_some(address)
    }

    /// All registers, as they are read.
    #[must_use]
    pub fn registers(&self) -> &[u32; REGISTERS] {
        &self.registers
    }
}

/// Register, shift and mask of an access that stays inside one register.
fn place(offset: u16, width: u8) -> Option<(usize, u32, u32)> {
    let mask = match width {
        1 => 0xff,
        2 => 0xffff,
        4 => u32::MAX,
        _ => return None,
    };
    let within = offset % 4;
    (within + u16::from(width) <= 4).then(|| (usize::from(offset / 4), u32::from(within) * 8, mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity {
        vendor: 0x1af4,
        device: 0x10f5,
        subsystem: 0x434c,
        class: 0xff_0000,
        revision: 1,
        multifunction: false,
    };

    fn function() -> Function {
        Function::new(&IDENTITY, &[4096, 0, 2 << 20, 0, 1 << 20, 0])
    }

    #[test]
    fn says_who_it_is_at_any_width() {
        let function = function();
        assert_eq!(function.read(0, 4), 0x10f5_1af4);
        assert_eq!(function.read(2, 2), 0x10f5);
        assert_eq!(function.read(1, 1), 0x1a);
        assert_eq!(function.read(8, 4), 0xff00_0001);
        assert_eq!(function.read(0x2e, 2), 0x434c);
        assert_eq!(function.read(0x0e, 1), 0, "type 0, one function");
        let several = Identity {
            multifunction: true,
            ..IDENTITY
        };
        assert_eq!(Function::new(&several, &[0; BARS]).read(0x0e, 1), 0x80);
        assert_eq!(function.read(0x100, 4), 0, "no extended capability");
        assert_eq!(function.read(3, 2), 0xffff_ffff, "across registers");
    }

    #[test]
    fn bars_are_sized_as_the_specification_says() {
        let mut function = function();
        for (offset, size) in [(0x10, 4096), (0x18, 2 << 20), (0x20, 1 << 20), (0x14, 0)] {
            function.write(offset, 4, u32::MAX);
            let mask = function.read(offset, 4);
            assert_eq!((!mask).wrapping_add(1), if size == 0 { 0 } else { size });
        }
    }

    #[test]
    fn a_bar_decodes_only_when_told_to() {
        let mut function = function();
        function.write(0x10, 4, 0xfebf_1234);
        assert_eq!(function.read(0x10, 4), 0xfebf_1000);
        assert_eq!(function.window(0), None);
        function.write(4, 2, 0xffff);
        assert_eq!(function.read(4, 2), 0x406);
        assert_eq!(function.window(0), Some(0xfebf_1000));
        assert_eq!(function.window(2), None, "no address yet");
        assert_eq!(function.window(1), None, "no such BAR");
        function.write(0x10, 4, u32::MAX);
        assert_eq!(function.window(0), None, "being sized");
    }

    #[test]
    fn nothing_else_can_be_written() {
        let mut function = function();
        let before = function.clone();
        for offset in 0..=u16::MAX {
            if !matches!(offset, 4..8 | 0x10..0x28 | 0x3c) {
                function.write(offset, 1, 0xff);
            }
        }
        assert_eq!(function, before);
        function.write(0x3c, 1, 11);
        assert_eq!(function.read(0x3c, 4), 11);
    }
}
