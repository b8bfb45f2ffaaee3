//! The two stores that Linux's `native_apic_mem_write` compiles to: MOV r to m
//! (89 /r) and MOV imm to m (C7 /0) with at most a REX prefix, in 64-bit mode.

use super::{Store, mask};

/// The store, or `None` when the instruction is another one, or incomplete.
#[inline]
pub(super) fn store(bytes: &[u8], gpr: &[u64; 16]) -> Option<Store> {
    let first = *bytes.first()?;
    let (rex, at) = if first & 0xf0 == 0x40 {
        (first, 1)
    } else {
        (0, 0)
    };
    let opcode = *bytes.get(at)?;
    let modrm = *bytes.get(at + 1)?;
    let mut length = at + 2;

    // Intel SDM vol. 2, "32-Bit Addressing Forms with the ModR/M Byte" and
    // "... with the SIB Byte". REX.B does not change which forms have a SIB
    // byte or a displacement.
    let mut base = modrm & 7;
    if base == 4 {
        base = *bytes.get(length)? & 7;
        length += 1;
    }
    length += match (modrm >> 6, base) {
        (0, 5) | (2, _) => 4,
        (0, _) => 0,
        (1, _) => 1,
        _ => return None,
    };

    let width = if rex & 8 != 0 { 8 } else { 4 };
    let register = (modrm >> 3) & 7;
    let value = match opcode {
        0x89 => {
            if length > bytes.len() {
                return None;
            }
            let register = register | ((rex & 4) << 1);
            *gpr.get(usize::from(register))?
        }
        0xc7 if register == 0 => {
            let immediate = bytes.get(length..length + 4)?.first_chunk::<4>()?;
            length += 4;
            i64::from(i32::from_le_bytes(*immediate)).cast_unsigned()
        }
        _ => return None,
    };
    Some(Store {
        length: u8::try_from(length).ok()?,
        width,
        value: value & mask(width),
    })
}
