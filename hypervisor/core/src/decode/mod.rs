//! What an instruction that touched device memory does.
//!
//! Only what drivers use on registers is understood: MOV in all its forms,
//! MOVZX, MOVSX, MOVNTI, XCHG and STOS. The address is not computed: the
//! nested page fault names it.

mod encoding;
mod fast;
mod general;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

/// The most bytes an instruction has (Intel SDM vol. 2, "Instruction Format").
pub const MAX_LENGTH: usize = 15;

/// Code size of the guest: CS.L and CS.D.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 16-bit code.
    Bits16,
    /// 32-bit code.
    Bits32,
    /// 64-bit code.
    Bits64,
}

/// A write of a value to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Store {
    /// Length of the instruction in bytes, 1 to 15.
    pub length: u8,
    /// Bytes written: 1, 2, 4 or 8.
    pub width: u8,
    /// The value; bits above `width` are 0.
    pub value: u64,
}

/// A read of memory into a general-purpose register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Length of the instruction in bytes, 1 to 15.
    pub length: u8,
    /// Bytes read: 1, 2, 4 or 8.
    pub width: u8,
    /// Register that is written, by its encoding, 0 to 15.
    pub register: u8,
    /// Bytes of the register that the instruction names: 1, 2, 4 or 8.
    pub register_width: u8,
    /// AH, CH, DH, BH: bits 15:8 of `register` are written.
    pub high_byte: bool,
    /// MOVSX: the value is sign-extended to `register_width`.
    pub sign_extend: bool,
}

impl Load {
    /// The register after the instruction, when it was `old` and the memory
    /// held `value` (Intel SDM vol. 1, "General-Purpose Registers in 64-Bit
    /// Mode": a 32-bit result is zero-extended, narrower ones are merged).
    #[must_use]
    pub const fn result(&self, old: u64, value: u64) -> u64 {
        let mut value = value & mask(self.width);
        if self.sign_extend && value > mask(self.width) >> 1 {
            value |= !mask(self.width);
        }
        if self.high_byte {
            return (old & !0xff00) | ((value & 0xff) << 8);
        }
        let keep = if self.register_width >= 4 {
            0
        } else {
            !mask(self.register_width)
        };
        (old & keep) | (value & mask(self.register_width))
    }
}

/// One STOS, or one round of a repeated one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringStore {
    /// The write.
    pub store: Store,
    /// With a REP prefix: nothing is written when the count register is 0, and
    /// the instruction is done only when it has become 0.
    pub repeat: bool,
    /// Bytes of the index and count registers (DI and CX) in use: 2, 4 or 8.
    pub address_width: u8,
}

/// What an instruction does with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// MOV to memory, MOVNTI.
    Store(Store),
    /// MOV, MOVZX, MOVSX from memory.
    Load(Load),
    /// XCHG: the register gets what the memory held before the store.
    Exchange(Store, Load),
    /// STOS. The index register moves by the width, down if RFLAGS.DF is set.
    StoreString(StringStore),
}

/// Why an instruction was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// It is longer than the bytes given.
    Truncated,
    /// It is no instruction.
    Invalid,
    /// It is an instruction, but none of those understood here.
    Unsupported,
}

/// What the instruction in `bytes` does with memory, `gpr` being the registers
/// before it (by their encoding: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 …).
///
/// # Errors
/// [`DecodeError`], whatever the bytes are.
#[inline]
pub fn access(bytes: &[u8], mode: Mode, gpr: &[u64; 16]) -> Result<Access, DecodeError> {
    if mode == Mode::Bits64
        && let Some(store) = fast::store(bytes, gpr)
    {
        return Ok(Access::Store(store));
    }
    general::access(bytes, mode, gpr)
}

/// As [`access`], for a caller that knows it was a plain write.
///
/// # Errors
/// [`DecodeError`]; XCHG and STOS, which do more than write, are
/// [`DecodeError::Unsupported`].
#[inline]
pub fn store(bytes: &[u8], mode: Mode, gpr: &[u64; 16]) -> Result<Store, DecodeError> {
    match access(bytes, mode, gpr)? {
        Access::Store(store) => Ok(store),
        _ => Err(DecodeError::Unsupported),
    }
}

/// Length in bytes, 1 to 15, of the instruction that starts `bytes`, whatever
/// it does; `None` when it is invalid or longer than `bytes`.
///
/// It knows all that the processor can fetch but AMD's withdrawn XOP. Bytes
/// that no processor executes may be given a length too.
#[must_use]
pub fn length(bytes: &[u8], mode: Mode) -> Option<u8> {
    general::length(bytes, mode)
}

/// Mask of the lowest `width` bytes.
const fn mask(width: u8) -> u64 {
    match width {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}
