//! Hand-built programs.

extern crate std;

use std::format;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const MEMORY: u64 = 64 << 20;
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

#[derive(Clone, Copy, Debug)]
struct Load {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    physical: u64,
    file_size: u64,
    memory_size: u64,
}

fn load(flags: u32, offset: u64, address: u64, file_size: u64, memory_size: u64) -> Load {
    Load {
        kind: PT_LOAD,
        flags,
        offset,
        address,
        physical: address,
        file_size,
        memory_size,
    }
}

/// Code at 1 MiB, data and zeros at 2 MiB.
fn usual() -> [Load; 2] {
    [
        load(PF_R | PF_X, 0x200, 0x10_0000, 0x40, 0x40),
        load(PF_R | PF_W, 0x240, 0x20_0000, 0x10, 0x3000),
    ]
}

fn program(entry: u64, loads: &[Load]) -> Vec<u8> {
    let mut file = vec![0; 0x280];
    let mut put = |at: usize, value: &[u8]| file[at..at + value.len()].copy_from_slice(value);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2u16.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(24, &entry.to_le_bytes());
    put(32, &(HEADER as u64).to_le_bytes());
    put(52, &64u16.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &u16::try_from(loads.len()).unwrap().to_le_bytes());
    put(0x200, &[0xf4; 0x40]);
    put(0x240, &[0x11; 0x10]);
    for (index, load) in loads.iter().enumerate() {
        let at = HEADER + index * PROGRAM_HEADER;
        put(at, &load.kind.to_le_bytes());
        put(at + 4, &load.flags.to_le_bytes());
        let fields = [
            load.offset,
            load.address,
            load.physical,
            load.file_size,
            load.memory_size,
        ];
        for (field, value) in fields.into_iter().enumerate() {
            put(at + 8 + field * 8, &value.to_le_bytes());
        }
    }
    file
}

fn error(entry: u64, loads: &[Load]) -> ElfError {
    Program::parse(&program(entry, loads), MEMORY).unwrap_err()
}

#[test]
fn usual_program() {
    let file = program(0x10_0010, &usual());
    let program = Program::parse(&file, MEMORY).unwrap();
    assert_eq!(program.entry(), 0x10_0010);
    assert_eq!(program.end(), 0x20_3000);
    let segments: Vec<_> = program.segments().collect();
    assert_eq!(segments.len(), 2);
    assert_eq!(
        (segments[0].gpa, segments[0].file),
        (0x10_0000, &[0xf4; 0x40][..])
    );
    assert!(segments[0].read && !segments[0].write && segments[0].execute);
    assert_eq!(
        (segments[1].file, segments[1].memory_size),
        (&[0x11; 0x10][..], 0x3000)
    );
    assert!(segments[1].write && !segments[1].execute);
}

#[test]
fn wrong_kind_of_file() {
    let with = |at: usize, value: u8| {
        let mut file = program(0x10_0000, &usual());
        file[at] = value;
        Program::parse(&file, MEMORY).unwrap_err()
    };
    assert_eq!(with(0, 0), ElfError::NotElf64);
    assert_eq!(with(4, 1), ElfError::NotElf64);
    assert_eq!(with(5, 2), ElfError::NotElf64);
    assert_eq!(with(18, 3), ElfError::Machine(3));
    assert_eq!(with(16, 1), ElfError::NotExecutable(1));
    assert_eq!(with(16, 3), ElfError::PositionIndependent);
    assert!(format!("{}", with(16, 3)).contains("relocation-model=static"));
    assert_eq!(
        Program::parse(b"#!/bin/sh\n", MEMORY).unwrap_err(),
        ElfError::NotElf64
    );
}

#[test]
fn wrong_segments() {
    let [code, data] = usual();
    let entry = 0x10_0000;
    assert_eq!(error(entry, &[]), ElfError::NothingToLoad);
    let interpreter = Load {
        kind: PT_INTERP,
        ..data
    };
    assert_eq!(error(entry, &[code, interpreter]), ElfError::Interpreter);
    let low = load(PF_X, 0x200, PROGRAM_BASE - 1, 1, 1);
    assert!(matches!(
        error(entry, &[low]),
        ElfError::OutOfMemory {
            start: 0xf_ffff,
            ..
        }
    ));
    let last = Load {
        address: MEMORY - 0x3000,
        physical: MEMORY - 0x3000,
        ..data
    };
    assert!(Program::parse(&program(entry, &[code, last]), MEMORY).is_ok());
    assert!(matches!(
        Program::parse(&program(entry, &[code, last]), MEMORY - 1),
        Err(ElfError::OutOfMemory { size: 0x3000, .. })
    ));
    let wrapping = Load {
        memory_size: u64::MAX,
        ..data
    };
    assert!(matches!(
        error(entry, &[code, wrapping]),
        ElfError::OutOfMemory { .. }
    ));
    let moved = Load {
        physical: 0x30_0000,
        ..data
    };
    assert_eq!(error(entry, &[code, moved]), ElfError::Relocated(0x20_0000));
    let fat = Load {
        memory_size: 0xf,
        ..data
    };
    assert_eq!(error(entry, &[code, fat]), ElfError::FileSize(0x20_0000));
    let cut = Load {
        offset: 0x271,
        ..data
    };
    assert_eq!(error(entry, &[code, cut]), ElfError::Truncated(0x20_0000));
    let wrapped = Load {
        offset: u64::MAX,
        ..data
    };
    assert_eq!(
        error(entry, &[code, wrapped]),
        ElfError::Truncated(0x20_0000)
    );
    let on_top = Load {
        address: 0x10_003f,
        physical: 0x10_003f,
        ..data
    };
    assert_eq!(error(entry, &[code, on_top]), ElfError::Overlap(0x10_003f));
    let beside = Load {
        address: 0x10_0040,
        physical: 0x10_0040,
        ..data
    };
    assert!(Program::parse(&program(entry, &[code, beside]), MEMORY).is_ok());
    let empty = load(PF_R, 0, 0, 0, 0);
    assert!(Program::parse(&program(entry, &[code, empty]), MEMORY).is_ok());
}

#[test]
fn entry_must_be_code() {
    for entry in [0xf_ffff, 0x10_0040, 0x20_0000, 0] {
        assert_eq!(error(entry, &usual()), ElfError::Entry(entry));
    }
}

#[test]
fn number_of_segments_is_bounded() {
    let segment = |n: u64| load(PF_R | PF_X, 0x200, 0x10_0000 + n * 0x1000, 8, 8);
    let file = |count: u64| {
        let loads: Vec<_> = (0..count).map(segment).collect();
        // The headers need more room than `program` has before its bytes.
        let mut file = program(0x10_0000, &[]);
        let table = file.len();
        for load in &loads {
            let one = program(0, core::slice::from_ref(load));
            file.extend_from_slice(&one[HEADER..HEADER + PROGRAM_HEADER]);
        }
        file[32..40].copy_from_slice(&(table as u64).to_le_bytes());
        file[56..58].copy_from_slice(&u16::try_from(count).unwrap().to_le_bytes());
        file
    };
    assert!(Program::parse(&file(16), MEMORY).is_ok());
    assert_eq!(
        Program::parse(&file(17), MEMORY).unwrap_err(),
        ElfError::TooManySegments
    );
}

/// The promise of [`Program::parse`].
fn sound(file: &[u8], memory: u64) -> Result<(), TestCaseError> {
    let Ok(program) = Program::parse(file, memory) else {
        return Ok(());
    };
    let segments: Vec<_> = program.segments().collect();
    for (index, segment) in segments.iter().enumerate() {
        prop_assert!(segment.gpa >= PROGRAM_BASE && segment.end() <= memory);
        prop_assert!(segment.file.len() as u64 <= segment.memory_size);
        for other in &segments[..index] {
            prop_assert!(segment.end() <= other.gpa || other.end() <= segment.gpa);
        }
    }
    let entry = program.entry();
    let holds = |s: &Segment<'_>| s.execute && (s.gpa..s.end()).contains(&entry);
    prop_assert!(segments.iter().any(holds));
    Ok(())
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        mut file in prop::collection::vec(any::<u8>(), 0..400),
        magic in any::<bool>(),
    ) {
        if magic && file.len() >= 7 {
            file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        }
        sound(&file, MEMORY)?;
    }

    #[test]
    fn mutated_programs_stay_sound(
        changes in prop::collection::vec((0usize..HEADER + 2 * PROGRAM_HEADER, any::<u8>()), 1..4),
        cut in 0usize..0x80,
        memory in prop_oneof![Just(MEMORY), 0..2 * MEMORY, any::<u64>()],
    ) {
        let mut file = program(0x10_0000, &usual());
        for (at, value) in changes {
            file[at] = value;
        }
        file.truncate(0x280 - cut / 4);
        sound(&file, memory)?;
    }
}
