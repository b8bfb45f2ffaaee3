//! Every store and load that drivers use on registers, in every mode.

use super::encoding::{Encoding, Map, parse};
use super::{Access, DecodeError, Load, Mode, Store, StringStore, mask};

pub(super) fn access(bytes: &[u8], mode: Mode, gpr: &[u64; 16]) -> Result<Access, DecodeError> {
    let instruction = parse(bytes, mode)?;
    let found = match instruction.map {
        Map::One => one_byte(&instruction, mode, gpr),
        Map::Two => two_byte(&instruction, gpr),
        _ => None,
    };
    // Of these, only XCHG may be locked.
    found
        .filter(|access| !instruction.lock || matches!(access, Access::Exchange(..)))
        .ok_or(DecodeError::Unsupported)
}

pub(super) fn length(bytes: &[u8], mode: Mode) -> Option<u8> {
    parse(bytes, mode)
        .ok()
        .map(|instruction| instruction.length)
}

/// A general-purpose register or a part of one.
#[derive(Clone, Copy)]
struct Register {
    number: u8,
    width: u8,
    high_byte: bool,
}

impl Register {
    /// RAX, or its lowest bytes.
    const fn accumulator(width: u8) -> Self {
        Self {
            number: 0,
            width,
            high_byte: false,
        }
    }

    /// The register in the ModR/M byte's middle field.
    const fn operand(i: &Encoding<'_>, width: u8) -> Self {
        let number = ((i.modrm >> 3) & 7) | ((i.rex & 4) << 1);
        if width == 1 && i.rex == 0 && number >= 4 {
            Self {
                number: number - 4,
                width,
                high_byte: true,
            }
        } else {
            Self {
                number,
                width,
                high_byte: false,
            }
        }
    }

    fn store(self, i: &Encoding<'_>, gpr: &[u64; 16]) -> Store {
        let whole = gpr.get(usize::from(self.number)).copied().unwrap_or(0);
        let value = if self.high_byte { whole >> 8 } else { whole };
        Store {
            length: i.length,
            width: self.width,
            value: value & mask(self.width),
        }
    }

    /// A load of `width` bytes into the register.
    const fn load(self, i: &Encoding<'_>, width: u8, sign_extend: bool) -> Load {
        Load {
            length: i.length,
            width,
            register: self.number,
            register_width: self.width,
            high_byte: self.high_byte,
            sign_extend,
        }
    }
}

fn one_byte(i: &Encoding<'_>, mode: Mode, gpr: &[u64; 16]) -> Option<Access> {
    // Bit 0 of these opcodes tells a byte from a wider operand.
    let width = if i.opcode & 1 == 0 { 1 } else { i.operand };
    match i.opcode {
        0xa0 | 0xa1 => {
            return Some(Access::Load(
                Register::accumulator(width).load(i, width, false),
            ));
        }
        0xa2 | 0xa3 => return Some(Access::Store(Register::accumulator(width).store(i, gpr))),
        0xaa | 0xab => {
            return Some(Access::StoreString(StringStore {
                store: Register::accumulator(width).store(i, gpr),
                repeat: i.repeat,
                address_width: i.address,
            }));
        }
        _ => {}
    }
    if i.modrm >> 6 == 3 {
        return None;
    }
    let register = Register::operand(i, width);
    match i.opcode {
        0x86 | 0x87 => Some(Access::Exchange(
            register.store(i, gpr),
            register.load(i, width, false),
        )),
        0x88 | 0x89 => Some(Access::Store(register.store(i, gpr))),
        0x8a | 0x8b => Some(Access::Load(register.load(i, width, false))),
        0xc6 | 0xc7 if (i.modrm >> 3) & 7 == 0 => {
            let value = sign_extended(i.immediate) & mask(width);
            Some(Access::Store(Store {
                length: i.length,
                width,
                value,
            }))
        }
        // MOVSXD.
        0x63 if mode == Mode::Bits64 => {
            let from = i.operand.min(4);
            Some(Access::Load(
                Register::operand(i, i.operand).load(i, from, true),
            ))
        }
        _ => None,
    }
}

fn two_byte(i: &Encoding<'_>, gpr: &[u64; 16]) -> Option<Access> {
    if i.modrm >> 6 == 3 {
        return None;
    }
    let register = Register::operand(i, i.operand);
    let width = if i.opcode & 1 == 0 { 1 } else { 2 };
    match i.opcode {
        // MOVZX, MOVSX.
        0xb6 | 0xb7 => Some(Access::Load(register.load(i, width, false))),
        0xbe | 0xbf => Some(Access::Load(register.load(i, width, true))),
        // MOVNTI has no 16-bit form, in no mode, and takes no such prefix.
        0xc3 if !i.size66 && !i.repeat => {
            let register = Register::operand(i, i.operand.max(4));
            Some(Access::Store(register.store(i, gpr)))
        }
        _ => None,
    }
}

/// A little-endian number of 1, 2 or 4 bytes.
fn sign_extended(bytes: &[u8]) -> u64 {
    let value = match *bytes {
        [a] => i64::from(i8::from_le_bytes([a])),
        [a, b] => i64::from(i16::from_le_bytes([a, b])),
        [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
        _ => 0,
    };
    value.cast_unsigned()
}
