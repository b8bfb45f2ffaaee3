//! The same answers from the yaxpeax project's decoder, to test ours against.
//! It is no part of the image: its three modes take 400 KiB there.

use yaxpeax_x86::{long_mode, protected_mode, real_mode};

use super::{Access, DecodeError, Load, MAX_LENGTH, Mode, Store, StringStore, mask};

pub(super) fn access(bytes: &[u8], mode: Mode, gpr: &[u64; 16]) -> Result<Access, DecodeError> {
    match mode {
        Mode::Bits16 => bits16::access(bytes, gpr),
        Mode::Bits32 => bits32::access(bytes, gpr),
        Mode::Bits64 => bits64::access(bytes, gpr),
    }
}

pub(super) fn length(bytes: &[u8], mode: Mode) -> Option<u8> {
    match mode {
        Mode::Bits16 => bits16::decode(bytes).ok().map(|i| i.1),
        Mode::Bits32 => bits32::decode(bytes).ok().map(|i| i.1),
        Mode::Bits64 => bits64::decode(bytes).ok().map(|i| i.1),
    }
}

/// A general-purpose register or a part of one.
#[derive(Clone, Copy)]
struct Register {
    number: u8,
    width: u8,
    high_byte: bool,
}

impl Register {
    fn value(self, gpr: &[u64; 16]) -> u64 {
        let whole = gpr.get(usize::from(self.number)).copied().unwrap_or(0);
        (if self.high_byte { whole >> 8 } else { whole }) & mask(self.width)
    }
}

/// The same for each of the three decoders, whose types are distinct. The lists
/// are the register classes and immediates that only 64-bit mode has; the
/// numbers are the bytes of an address, without and with its size prefix.
macro_rules! decoder {
    ($module:ident, $isa:ident, $address:literal, $swapped:literal,
        [$($wide:ident),*], [$($long:ident),*]) => {
        mod $module {
            use super::*;
            use $isa::{InstDecoder, Instruction, Opcode, Operand, register_class};
            use yaxpeax_arch::LengthedInstruction;

            pub(super) fn decode(bytes: &[u8]) -> Result<(Instruction, u8), DecodeError> {
                let bytes = bytes.get(..MAX_LENGTH).unwrap_or(bytes);
                let instruction = InstDecoder::default().decode_slice(bytes).map_err(|e| {
                    if e == $isa::DecodeError::ExhaustedInput && bytes.len() < MAX_LENGTH {
                        DecodeError::Truncated
                    } else {
                        DecodeError::Invalid
                    }
                })?;
                let length = u8::try_from(instruction.len().to_const())
                    .map_err(|_| DecodeError::Invalid)?;
                Ok((instruction, length))
            }

            fn register(operand: &Operand) -> Option<Register> {
                let Operand::Register { reg } = operand else { return None };
                let class = reg.class();
                let known = class == register_class::B
                    || class == register_class::W
                    || class == register_class::D
                    $(|| class == register_class::$wide)*;
                let high_byte = class == register_class::B && reg.num() >= 4;
                known.then(|| Register {
                    number: if high_byte { reg.num() - 4 } else { reg.num() },
                    width: class.width(),
                    high_byte,
                })
            }

            fn immediate(operand: &Operand) -> Option<u64> {
                let signed = match *operand {
                    Operand::ImmediateI8 { imm } => i64::from(imm),
                    Operand::ImmediateI16 { imm } => i64::from(imm),
                    Operand::ImmediateI32 { imm } => i64::from(imm),
                    Operand::ImmediateU8 { imm } => i64::from(imm),
                    Operand::ImmediateU16 { imm } => i64::from(imm),
                    Operand::ImmediateU32 { imm } => i64::from(imm),
                    $(Operand::$long { imm } => imm,)*
                    _ => return None,
                };
                Some(signed.cast_unsigned())
            }

            pub(super) fn access(bytes: &[u8], gpr: &[u64; 16]) -> Result<Access, DecodeError> {
                let (instruction, length) = decode(bytes)?;
                inner(&instruction, length, gpr).ok_or(DecodeError::Unsupported)
            }

            fn inner(instruction: &Instruction, length: u8, gpr: &[u64; 16]) -> Option<Access> {
                if instruction.operand_count() != 2 {
                    return None;
                }
                let (to, from) = (instruction.operand(0), instruction.operand(1));
                let width = instruction.mem_size()?.bytes_size()?;
                if !matches!(width, 1 | 2 | 4 | 8) {
                    return None;
                }
                let store = |value: u64| Store { length, width, value: value & mask(width) };
                let load = |register: Register, sign_extend| Load {
                    length,
                    width,
                    register: register.number,
                    register_width: register.width,
                    high_byte: register.high_byte,
                    sign_extend,
                };
                match instruction.opcode() {
                    Opcode::MOV | Opcode::MOVNTI if to.is_memory() => {
                        let value = match register(&from) {
                            Some(register) => register.value(gpr),
                            None => immediate(&from)?,
                        };
                        Some(Access::Store(store(value)))
                    }
                    Opcode::MOV | Opcode::MOVZX if from.is_memory() => {
                        Some(Access::Load(load(register(&to)?, false)))
                    }
                    Opcode::MOVSX | Opcode::MOVSXD if from.is_memory() => {
                        Some(Access::Load(load(register(&to)?, true)))
                    }
                    Opcode::XCHG if to.is_memory() || from.is_memory() => {
                        let register = register(if to.is_memory() { &from } else { &to })?;
                        Some(Access::Exchange(store(register.value(gpr)), load(register, false)))
                    }
                    Opcode::STOS => Some(Access::StoreString(StringStore {
                        store: store(register(&from)?.value(gpr)),
                        repeat: instruction.prefixes.rep_any(),
                        address_width: if instruction.prefixes.address_size() {
                            $swapped
                        } else {
                            $address
                        },
                    })),
                    _ => None,
                }
            }
        }
    };
}

decoder!(bits16, real_mode, 2, 4, [], []);
decoder!(bits32, protected_mode, 4, 2, [], []);
decoder!(bits64, long_mode, 8, 4, [RB, Q], [ImmediateI64]);
