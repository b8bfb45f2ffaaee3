//! The sleep types, found in AML without an interpreter.
//!
//! `\_Sx` is a package of integers of which the first two are the values of
//! SLP_TYP for PM1a and PM1b (ACPI 6.5 §7.4.2); its encoding is that of
//! ACPI 6.5 §20.2.

use super::seal;
use crate::bytes;

const NAME_OP: u8 = 0x08;
const ROOT_CHAR: u8 = b'\\';
const PACKAGE_OP: u8 = 0x12;
const ZERO_OP: u8 = 0x00;
const ONE_OP: u8 = 0x01;
const ONES_OP: u8 = 0xff;
const BYTE_PREFIX: u8 = 0x0a;
const WORD_PREFIX: u8 = 0x0b;
const DWORD_PREFIX: u8 = 0x0c;
const QWORD_PREFIX: u8 = 0x0e;

/// SLP_TYPa and SLP_TYPb for S5, soft off. See [`sleep_type`].
#[must_use]
pub fn sleep_type_s5(aml: &[u8]) -> Option<(u8, u8)> {
    sleep_type(aml, 5)
}

/// SLP_TYPa and SLP_TYPb, each 0 to 7, for sleep state `state` (1 to 5), from
/// the DSDT or an SSDT `aml`. `None` if it does not define the state in the
/// plain form `Name (\_Sx, Package () { … })`.
#[must_use]
pub fn sleep_type(aml: &[u8], state: u8) -> Option<(u8, u8)> {
    let digit = char::from_digit(u32::from(state), 10)?;
    let name = [b'_', b'S', u8::try_from(digit).ok()?, b'_'];
    (0..aml.len()).find_map(|at| package_at(aml.get(at..)?, &name))
}

/// Hides the sleep states S1 to S4 in the DSDT or an SSDT `table`, header
/// included: the objects get other names, and the checksum is made right again.
/// An operating system then does not offer them. Returns how many there were.
pub fn hide_sleep_states(table: &mut [u8]) -> usize {
    const HIDDEN: u8 = b'X';
    let mut hidden = 0;
    for state in b'1'..=b'4' {
        for at in 0..table.len() {
            let rest = table.get(at..).unwrap_or(&[]);
            if package_at(rest, &[b'_', b'S', state, b'_']).is_none() {
                continue;
            }
            let name = at + 1 + usize::from(rest.get(1) == Some(&ROOT_CHAR));
            if let Some(first) = table.get_mut(name) {
                *first = HIDDEN;
                hidden += 1;
            }
        }
    }
    if hidden > 0 {
        seal(table);
    }
    hidden
}

/// The first two elements of the package, if `aml` starts with the definition
/// of `name` as one.
fn package_at(aml: &[u8], name: &[u8]) -> Option<(u8, u8)> {
    let rest = aml.strip_prefix(&[NAME_OP])?;
    let rest = rest.strip_prefix(&[ROOT_CHAR]).unwrap_or(rest);
    let rest = rest.strip_prefix(name)?.strip_prefix(&[PACKAGE_OP])?;
    let (length, encoded) = package_length(rest)?;
    let package = rest.get(encoded..length)?;
    let (count, elements) = package.split_first()?;
    if *count < 1 {
        return None;
    }
    let (first, used) = integer(elements)?;
    // A package of one integer holds both values: PM1b's in bits 15:8.
    let second = if *count == 1 {
        (first >> 8) & 0xff
    } else {
        integer(elements.get(used..)?)?.0
    };
    Some((slp_typ(first & 0xff)?, slp_typ(second)?))
}

/// A value of the three-bit field SLP_TYP.
fn slp_typ(value: u64) -> Option<u8> {
    u8::try_from(value).ok().filter(|value| *value < 8)
}

/// PkgLength (ACPI 6.5 §20.2.4): the length, itself included, and the bytes
/// that it takes.
fn package_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let lead = bytes::u8_at(bytes, 0)?;
    let extra = usize::from(lead >> 6);
    if extra == 0 {
        return Some((usize::from(lead & 0x3f), 1));
    }
    let tail = bytes.get(1..=extra)?;
    let length = tail
        .iter()
        .rev()
        .fold(0, |high, byte| (high << 8) | usize::from(*byte));
    Some(((length << 4) | usize::from(lead & 0xf), 1 + extra))
}

/// An integer and the bytes that its encoding takes (ACPI 6.5 §20.2.3).
fn integer(bytes: &[u8]) -> Option<(u64, usize)> {
    match bytes::u8_at(bytes, 0)? {
        ZERO_OP => Some((0, 1)),
        ONE_OP => Some((1, 1)),
        ONES_OP => Some((u64::MAX, 1)),
        BYTE_PREFIX => Some((u64::from(bytes::u8_at(bytes, 1)?), 2)),
        WORD_PREFIX => Some((u64::from(bytes::u16_at(bytes, 1)?), 3)),
        DWORD_PREFIX => Some((u64::from(bytes::u32_at(bytes, 1)?), 5)),
        QWORD_PREFIX => Some((bytes::u64_at(bytes, 1)?, 9)),
        _ => None,
    }
}
