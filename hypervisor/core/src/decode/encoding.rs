//! The parts of an instruction and its length (Intel SDM vol. 2, "Instruction
//! Format", "Opcode Map"; AMD APM vol. 3, "Instruction Encoding").

use super::{DecodeError, MAX_LENGTH, Mode};

/// Which opcode table the opcode is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Map {
    /// One byte.
    One,
    /// 0F.
    Two,
    /// 0F 38.
    Three38,
    /// 0F 3A.
    Three3a,
    /// Behind a VEX or EVEX prefix.
    Vector(u8),
}

/// An instruction taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoding<'a> {
    pub(super) map: Map,
    pub(super) opcode: u8,
    /// The ModR/M byte, 0 if there is none.
    pub(super) modrm: u8,
    /// The REX prefix, 0 if there is none.
    pub(super) rex: u8,
    /// F0.
    pub(super) lock: bool,
    /// F2 or F3.
    pub(super) repeat: bool,
    /// 66.
    pub(super) size66: bool,
    /// Bytes of an operand that is not a byte: 2, 4 or 8.
    pub(super) operand: u8,
    /// Bytes of an address: 2, 4 or 8.
    pub(super) address: u8,
    /// Immediate or absolute address at the end, little-endian.
    pub(super) immediate: &'a [u8],
    pub(super) length: u8,
}

/// Bytes still to be read.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Result<u8, DecodeError> {
        self.bytes.get(self.at).copied().ok_or(self.end())
    }
    fn next(&mut self) -> Result<u8, DecodeError> {
        let byte = self.peek()?;
        self.at += 1;
        Ok(byte)
    }
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let taken = self.bytes.get(self.at..self.at + count).ok_or(self.end())?;
        self.at += count;
        Ok(taken)
    }
    /// Why there is no further byte.
    fn end(&self) -> DecodeError {
        if self.bytes.len() < MAX_LENGTH {
            DecodeError::Truncated
        } else {
            DecodeError::Invalid
        }
    }
}

/// What follows an opcode.
#[derive(Clone, Copy)]
struct Tail {
    modrm: bool,
    immediate: usize,
}

const NONE: Tail = Tail {
    modrm: false,
    immediate: 0,
};
const MODRM: Tail = Tail {
    modrm: true,
    immediate: 0,
};
const MODRM_IMM8: Tail = Tail {
    modrm: true,
    immediate: 1,
};

const fn imm(immediate: usize) -> Tail {
    Tail {
        modrm: false,
        immediate,
    }
}

/// Takes an instruction apart. An encoding that no processor defines gets the
/// length that its neighbours in the opcode map have, or is invalid.
pub(super) fn parse(bytes: &[u8], mode: Mode) -> Result<Encoding<'_>, DecodeError> {
    let mut r = Reader {
        bytes: bytes.get(..MAX_LENGTH).unwrap_or(bytes),
        at: 0,
    };
    let (mut rex, mut size66, mut size67, mut lock, mut rep) = (0, false, false, false, 0);
    let mut opcode = loop {
        let byte = r.next()?;
        match byte {
            0x66 => size66 = true,
            0x67 => size67 = true,
            0xf0 => lock = true,
            0xf2 | 0xf3 => rep = byte,
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 => {}
            0x40..=0x4f if mode == Mode::Bits64 => {
                rex = byte;
                continue;
            }
            _ => break byte,
        }
        // A REX prefix counts only right before the opcode.
        rex = 0;
    };
    let address = match (mode, size67) {
        (Mode::Bits64, false) => 8,
        (Mode::Bits16, false) | (Mode::Bits32, true) => 2,
        _ => 4,
    };
    let operand = match (mode, size66) {
        (Mode::Bits64, _) if rex & 8 != 0 => 8,
        (Mode::Bits16, false) | (Mode::Bits32 | Mode::Bits64, true) => 2,
        _ => 4,
    };

    let mut map = Map::One;
    // Outside 64-bit mode these are LDS, LES and BOUND, which have no register
    // form.
    let vector =
        matches!(opcode, 0xc4 | 0xc5 | 0x62) && (mode == Mode::Bits64 || r.peek()? >= 0xc0);
    if vector {
        if rex != 0 || lock || size66 || rep != 0 {
            return Err(DecodeError::Invalid);
        }
        let payload = r.take(match opcode {
            0xc5 => 1,
            0xc4 => 2,
            _ => 3,
        })?;
        let mask = if opcode == 0x62 { 7 } else { 0x1f };
        let number = if opcode == 0xc5 {
            1
        } else {
            payload.first().map_or(0, |b| b & mask)
        };
        map = Map::Vector(number);
        opcode = r.next()?;
    } else if opcode == 0x0f {
        map = Map::Two;
        opcode = r.next()?;
        if matches!(opcode, 0x38 | 0x3a) {
            map = if opcode == 0x38 {
                Map::Three38
            } else {
                Map::Three3a
            };
            opcode = r.next()?;
        }
    }

    // "z" operands are never wider than four bytes.
    let wide = usize::from(operand.min(4));
    let mut tail = match map {
        Map::One => one_byte(
            opcode,
            mode,
            wide,
            usize::from(operand),
            usize::from(address),
        )?,
        Map::Two => two_byte(opcode, mode, wide)?,
        Map::Three38 => MODRM,
        Map::Three3a => MODRM_IMM8,
        Map::Vector(number) => vector_map(number, opcode)?,
    };
    let mut modrm = 0;
    if tail.modrm {
        modrm = r.next()?;
        match (map, opcode, (modrm >> 3) & 7) {
            // TEST r/m, imm.
            (Map::One, 0xf6, 0 | 1) => tail.immediate = 1,
            (Map::One, 0xf7, 0 | 1) => tail.immediate = wide,
            // XOP shares its first byte with POP r/m.
            (Map::One, 0x8f, 1..=7) => return Err(DecodeError::Unsupported),
            // EXTRQ and INSERTQ share theirs with VMREAD.
            (Map::Two, 0x78, _) if size66 || rep == 0xf2 => tail.immediate = 2,
            _ => {}
        }
        // Moves to and from control and debug registers ignore the mode field.
        if !(map == Map::Two && matches!(opcode, 0x20..=0x23)) {
            let extra = addressing(&r, modrm, address)?;
            r.take(extra)?;
        }
    }
    let immediate = r.take(tail.immediate)?;
    let length = u8::try_from(r.at).map_err(|_| DecodeError::Invalid)?;
    let repeat = rep != 0;
    Ok(Encoding {
        map,
        opcode,
        modrm,
        rex,
        lock,
        repeat,
        size66,
        operand,
        address,
        immediate,
        length,
    })
}

/// Bytes of SIB and displacement behind a ModR/M byte.
fn addressing(r: &Reader<'_>, modrm: u8, address: u8) -> Result<usize, DecodeError> {
    let (mode, rm) = (modrm >> 6, modrm & 7);
    if mode == 3 {
        return Ok(0);
    }
    if address == 2 {
        return Ok(match (mode, rm) {
            (0, 6) | (2, _) => 2,
            (1, _) => 1,
            _ => 0,
        });
    }
    let (sib, base) = if rm == 4 { (1, r.peek()? & 7) } else { (0, rm) };
    Ok(sib
        + match (mode, base) {
            (0, 5) | (2, _) => 4,
            (1, _) => 1,
            _ => 0,
        })
}

fn one_byte(
    opcode: u8,
    mode: Mode,
    wide: usize,
    operand: usize,
    address: usize,
) -> Result<Tail, DecodeError> {
    let long = mode == Mode::Bits64;
    Ok(match opcode {
        0x06 | 0x07 | 0x0e | 0x16 | 0x17 | 0x1e | 0x1f | 0x27 | 0x2f | 0x37 | 0x3f | 0x60
        | 0x61 | 0x82 | 0x9a | 0xce | 0xd4 | 0xd5 | 0xd6 | 0xea
            if long =>
        {
            return Err(DecodeError::Invalid);
        }
        0x00..=0x3f => match opcode & 7 {
            0..=3 => MODRM,
            4 => imm(1),
            5 => imm(wide),
            _ => NONE,
        },
        0x62
        | 0x63
        | 0x84..=0x8f
        | 0xc4
        | 0xc5
        | 0xd0..=0xd3
        | 0xd8..=0xdf
        | 0xf6
        | 0xf7
        | 0xfe
        | 0xff => MODRM,
        0x6b | 0x80 | 0x82 | 0x83 | 0xc0 | 0xc1 | 0xc6 => MODRM_IMM8,
        0x69 | 0x81 | 0xc7 => Tail {
            modrm: true,
            immediate: wide,
        },
        0x6a | 0x70..=0x7f | 0xa8 | 0xb0..=0xb7 | 0xcd | 0xd4 | 0xd5 | 0xe0..=0xe7 | 0xeb => imm(1),
        0x68 | 0xa9 => imm(wide),
        // Near branches have 32-bit displacements in 64-bit mode.
        0xe8 | 0xe9 => imm(if long { 4 } else { wide }),
        0x9a | 0xea => imm(wide + 2),
        0xa0..=0xa3 => imm(address),
        0xb8..=0xbf => imm(operand),
        0xc2 | 0xca => imm(2),
        0xc8 => imm(3),
        _ => NONE,
    })
}

fn two_byte(opcode: u8, mode: Mode, wide: usize) -> Result<Tail, DecodeError> {
    Ok(match opcode {
        0x04 | 0x0a | 0x0c | 0x24..=0x27 | 0x36 | 0x39 | 0x3b..=0x3f | 0xa6 | 0xa7 => {
            return Err(DecodeError::Invalid);
        }
        0x05..=0x09
        | 0x0b
        | 0x0e
        | 0x30..=0x37
        | 0x77
        | 0xa0..=0xa2
        | 0xa8..=0xaa
        | 0xc8..=0xcf => NONE,
        0x80..=0x8f => imm(if mode == Mode::Bits64 { 4 } else { wide }),
        // 0F 0F is 3DNow!, whose operation is the last byte.
        0x0f | 0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => MODRM_IMM8,
        _ => MODRM,
    })
}

fn vector_map(number: u8, opcode: u8) -> Result<Tail, DecodeError> {
    match (number, opcode) {
        (1, 0x77) => Ok(NONE),
        (1, 0x70..=0x73 | 0xc2 | 0xc4..=0xc6) | (3, _) => Ok(MODRM_IMM8),
        (1 | 2 | 5 | 6, _) => Ok(MODRM),
        _ => Err(DecodeError::Invalid),
    }
}
