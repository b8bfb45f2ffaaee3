//! Known encodings, the fast path against the general decoder, and noise.

extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// Registers that can be told apart, byte by byte.
fn registers() -> [u64; 16] {
    core::array::from_fn(|i| 0x1122_3344_5566_7700 * 3 + 0x0101_0101_0101_0101 * (i as u64 + 1))
}

fn one(bytes: &[u8], mode: Mode) -> Access {
    let result = access(bytes, mode, &registers());
    let found = result.unwrap_or_else(|error| panic!("{bytes:x?}: {error:?}"));
    assert_eq!(usize::from(length_of(&found)), bytes.len(), "{bytes:x?}");
    assert_eq!(length(bytes, mode), Some(length_of(&found)));
    found
}

fn length_of(access: &Access) -> u8 {
    match access {
        Access::Store(store) | Access::Exchange(store, _) => store.length,
        Access::Load(load) => load.length,
        Access::StoreString(string) => string.store.length,
    }
}

fn stores(bytes: &[u8], mode: Mode, width: u8, value: u64) {
    let length = u8::try_from(bytes.len()).expect("short");
    assert_eq!(
        one(bytes, mode),
        Access::Store(Store {
            length,
            width,
            value
        })
    );
    let found = store(bytes, mode, &registers());
    assert_eq!(
        found,
        Ok(Store {
            length,
            width,
            value
        })
    );
}

fn loads(bytes: &[u8], mode: Mode) -> Load {
    match one(bytes, mode) {
        Access::Load(load) => load,
        other => panic!("{bytes:x?}: {other:?}"),
    }
}

#[test]
fn linux_writes_its_apic() {
    let r = registers();
    // mov %esi,-0xa04000(%rdi); mov %eax,0xffffffffff5fc300; movl $0,(%rax).
    stores(
        &[0x89, 0xb7, 0x00, 0xc0, 0x5f, 0xff],
        Mode::Bits64,
        4,
        r[6] & 0xffff_ffff,
    );
    stores(
        &[0x89, 0x04, 0x25, 0x00, 0xc3, 0x5f, 0xff],
        Mode::Bits64,
        4,
        r[0] & 0xffff_ffff,
    );
    stores(&[0xc7, 0x00, 0, 0, 0, 0], Mode::Bits64, 4, 0);
    stores(
        &[0xc7, 0x05, 1, 2, 3, 4, 0x10, 0x20, 0x30, 0x80],
        Mode::Bits64,
        4,
        0x8030_2010,
    );
}

#[test]
fn stores_of_every_form() {
    let r = registers();
    stores(&[0x4d, 0x89, 0x3c, 0x24], Mode::Bits64, 8, r[15]);
    stores(
        &[0x48, 0xc7, 0x45, 0x08, 0xff, 0xff, 0xff, 0xff],
        Mode::Bits64,
        8,
        u64::MAX,
    );
    stores(&[0x66, 0x89, 0x08], Mode::Bits64, 2, r[1] & 0xffff);
    stores(&[0x66, 0xc7, 0x00, 0x34, 0x92], Mode::Bits64, 2, 0x9234);
    stores(&[0x88, 0x20], Mode::Bits64, 1, r[0] >> 8 & 0xff);
    stores(&[0x40, 0x88, 0x20], Mode::Bits64, 1, r[4] & 0xff);
    stores(&[0xc6, 0x00, 0xfe], Mode::Bits64, 1, 0xfe);
    stores(
        &[0xa2, 1, 2, 3, 4, 5, 6, 7, 8],
        Mode::Bits64,
        1,
        r[0] & 0xff,
    );
    stores(&[0x48, 0xa3, 1, 2, 3, 4, 5, 6, 7, 8], Mode::Bits64, 8, r[0]);
    stores(&[0x0f, 0xc3, 0x18], Mode::Bits64, 4, r[3] & 0xffff_ffff);
    stores(&[0x89, 0x30], Mode::Bits32, 4, r[6] & 0xffff_ffff);
    stores(
        &[0xa3, 0x00, 0x03, 0xe0, 0xfe],
        Mode::Bits32,
        4,
        r[0] & 0xffff_ffff,
    );
    stores(&[0x66, 0x89, 0x30], Mode::Bits32, 2, r[6] & 0xffff);
    stores(&[0x89, 0x37], Mode::Bits16, 2, r[6] & 0xffff);
    stores(
        &[0x66, 0x67, 0x89, 0x30],
        Mode::Bits16,
        4,
        r[6] & 0xffff_ffff,
    );
    stores(&[0xa2, 0x10, 0x20], Mode::Bits16, 1, r[0] & 0xff);
}

#[test]
fn loads_of_every_form() {
    let old = 0x1111_2222_3333_4444;
    let load = loads(&[0x8b, 0x80, 0x20, 0, 0, 0], Mode::Bits64);
    assert_eq!(
        (load.width, load.register, load.result(old, u64::MAX)),
        (4, 0, 0xffff_ffff)
    );
    let load = loads(&[0x4c, 0x8b, 0x00], Mode::Bits64);
    assert_eq!(
        (load.width, load.register, load.result(old, 0x8877)),
        (8, 8, 0x8877)
    );
    let load = loads(&[0x66, 0x8b, 0x08], Mode::Bits64);
    assert_eq!((load.width, load.register), (2, 1));
    assert_eq!(load.result(old, 0xaaaa), 0x1111_2222_3333_aaaa);
    let load = loads(&[0x8a, 0x30], Mode::Bits64);
    assert_eq!((load.width, load.register, load.high_byte), (1, 2, true));
    assert_eq!(load.result(old, 0x99), 0x1111_2222_3333_9944);
    let load = loads(&[0x0f, 0xb6, 0x00], Mode::Bits64);
    assert_eq!((load.width, load.result(old, 0xff)), (1, 0xff));
    let load = loads(&[0x0f, 0xb7, 0x00], Mode::Bits64);
    assert_eq!((load.width, load.result(old, 0xffff)), (2, 0xffff));
    let load = loads(&[0x0f, 0xbe, 0x00], Mode::Bits64);
    assert_eq!((load.width, load.result(old, 0x80)), (1, 0xffff_ff80));
    let load = loads(&[0x48, 0x0f, 0xbf, 0x00], Mode::Bits64);
    assert_eq!(
        (load.width, load.result(old, 0x8000)),
        (2, 0xffff_ffff_ffff_8000)
    );
    let load = loads(&[0x48, 0x63, 0x00], Mode::Bits64);
    assert_eq!(
        (load.width, load.result(old, 0x8000_0000)),
        (4, 0xffff_ffff_8000_0000)
    );
    let load = loads(&[0x66, 0x0f, 0xbe, 0x00], Mode::Bits64);
    assert_eq!(load.result(old, 0x80), 0x1111_2222_3333_ff80);
    let load = loads(&[0xa1, 1, 2, 3, 4, 5, 6, 7, 8], Mode::Bits64);
    assert_eq!((load.width, load.register), (4, 0));
    let load = loads(&[0xa1, 1, 2], Mode::Bits16);
    assert_eq!(
        (load.width, load.result(old, 0x5555)),
        (2, 0x1111_2222_3333_5555)
    );
    assert_eq!(loads(&[0x8b, 0x08], Mode::Bits32).register, 1);
}

#[test]
fn exchanges_and_strings() {
    let r = registers();
    let Access::Exchange(to, from) = one(&[0x87, 0xb7, 0x00, 0xc3, 0x5f, 0xff], Mode::Bits64)
    else {
        panic!("no exchange")
    };
    assert_eq!((to.width, to.value), (4, r[6] & 0xffff_ffff));
    assert_eq!((from.width, from.register, from.sign_extend), (4, 6, false));
    let bytes = [0x87, 0x30];
    assert_eq!(
        store(&bytes, Mode::Bits64, &r),
        Err(DecodeError::Unsupported)
    );

    let string = |bytes: &[u8], mode| match one(bytes, mode) {
        Access::StoreString(s) => (s.store.width, s.store.value, s.repeat, s.address_width),
        other => panic!("{bytes:x?}: {other:?}"),
    };
    assert_eq!(
        string(&[0xab], Mode::Bits64),
        (4, r[0] & 0xffff_ffff, false, 8)
    );
    assert_eq!(
        string(&[0xf3, 0x48, 0xab], Mode::Bits64),
        (8, r[0], true, 8)
    );
    assert_eq!(
        string(&[0x67, 0xaa], Mode::Bits64),
        (1, r[0] & 0xff, false, 4)
    );
    assert_eq!(
        string(&[0xf3, 0xab], Mode::Bits32),
        (4, r[0] & 0xffff_ffff, true, 4)
    );
    assert_eq!(string(&[0xab], Mode::Bits16), (2, r[0] & 0xffff, false, 2));
    assert_eq!(
        string(&[0x67, 0xaa], Mode::Bits16),
        (1, r[0] & 0xff, false, 4)
    );
}

#[test]
fn what_is_not_understood_says_why() {
    let error = |bytes: &[u8]| access(bytes, Mode::Bits64, &registers()).err();
    assert_eq!(error(&[]), Some(DecodeError::Truncated));
    assert_eq!(error(&[0x89]), Some(DecodeError::Truncated));
    assert_eq!(error(&[0x89, 0x80, 1, 2, 3]), Some(DecodeError::Truncated));
    assert_eq!(error(&[0xc7, 0x00, 1, 2, 3]), Some(DecodeError::Truncated));
    assert_eq!(error(&[0x0f, 0x0b]), Some(DecodeError::Unsupported), "ud2");
    assert_eq!(error(&[0x06]), Some(DecodeError::Invalid), "push es");
    assert_eq!(
        error(&[0x01, 0x00]),
        Some(DecodeError::Unsupported),
        "add [rax], eax"
    );
    assert_eq!(
        error(&[0x89, 0xc0]),
        Some(DecodeError::Unsupported),
        "mov eax, eax"
    );
    assert_eq!(
        error(&[0x8c, 0x00]),
        Some(DecodeError::Unsupported),
        "mov [rax], es"
    );
    assert_eq!(
        error(&[0x0f, 0x11, 0x00]),
        Some(DecodeError::Unsupported),
        "movups"
    );
    assert_eq!(error(&[0x66; 15]), Some(DecodeError::Invalid));
    assert_eq!(error(&[0x66; 20]), Some(DecodeError::Invalid));
}

#[test]
fn lengths_of_other_instructions() {
    for (bytes, mode) in [
        (&[0x0f, 0xa2][..], Mode::Bits64),
        (&[0x0f, 0x01, 0xd9], Mode::Bits64),
        (&[0x0f, 0x01, 0xc1], Mode::Bits64),
        (&[0x48, 0x0f, 0x30], Mode::Bits64),
        (&[0xe4, 0x60], Mode::Bits32),
        (&[0xcd, 0x10], Mode::Bits16),
        (&[0xf4], Mode::Bits16),
    ] {
        let mut padded = Vec::from(bytes);
        padded.resize(15, 0x90);
        assert_eq!(
            length(&padded, mode).map(usize::from),
            Some(bytes.len()),
            "{bytes:x?}"
        );
    }
    assert_eq!(length(&[0x0f], Mode::Bits64), None);
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Bits16), Just(Mode::Bits32), Just(Mode::Bits64)]
}

/// Anything that looks like one of the two fast forms.
fn fast_form() -> impl Strategy<Value = Vec<u8>> {
    let rex = prop::option::of(0x40..0x50_u8);
    let opcode = prop_oneof![
        Just(0x89_u8),
        Just(0xc7),
        Just(0x88),
        Just(0x8b),
        Just(0xc6)
    ];
    (
        rex,
        opcode,
        any::<u8>(),
        prop::collection::vec(any::<u8>(), 0..13),
    )
        .prop_map(|(rex, opcode, modrm, rest)| {
            let modrm = if opcode == 0xc7 && modrm & 0x40 == 0 {
                modrm & 0xc7
            } else {
                modrm
            };
            rex.into_iter().chain([opcode, modrm]).chain(rest).collect()
        })
}

/// Where the oracle departs from Intel SDM vol. 2: near branches with an operand
/// size prefix outside 64-bit mode, MOVSXD without REX.W, F2 and F3 in front of
/// VEX, and a REX prefix in front of another one (only the last counts). [`the_manual_overrules_the_oracle`] has the right answers.
fn oracle_errs(bytes: &[u8], mode: Mode) -> bool {
    let Ok(i) = encoding::parse(bytes, mode) else {
        let opcode = bytes.iter().position(|b| matches!(b, 0xc4 | 0xc5 | 0x62));
        return opcode.is_some_and(|at| bytes[..at].iter().any(|b| matches!(b, 0xf2 | 0xf3)));
    };
    let branch = match i.map {
        encoding::Map::One => matches!(i.opcode, 0xe8 | 0xe9),
        encoding::Map::Two => matches!(i.opcode, 0x80..=0x8f),
        _ => false,
    };
    let two_rex = bytes
        .windows(2)
        .any(|pair| pair.iter().all(|b| b & 0xf0 == 0x40));
    (mode == Mode::Bits64 && two_rex)
        || (branch && i.size66 && mode != Mode::Bits64)
        || (i.map == encoding::Map::One && i.opcode == 0x63 && i.rex & 8 == 0)
}

#[test]
fn the_manual_overrules_the_oracle() {
    assert_eq!(
        length(&[0x66, 0x0f, 0x84, 1, 2, 3, 4], Mode::Bits16),
        Some(7)
    );
    assert_eq!(length(&[0x66, 0xe8, 1, 2, 3, 4], Mode::Bits16), Some(6));
    assert_eq!(length(&[0x66, 0xe9, 1, 2], Mode::Bits32), Some(4));
    assert_eq!(length(&[0xea, 1, 2, 3, 4], Mode::Bits16), Some(5));
    assert_eq!(
        length(&[0x66, 0xea, 1, 2, 3, 4, 5, 6], Mode::Bits16),
        Some(8)
    );
    assert_eq!(length(&[0xf3, 0xc5, 0xf8, 0x28, 0xc0], Mode::Bits64), None);
    assert_eq!(loads(&[0x48, 0x40, 0x8b, 0x00], Mode::Bits64).width, 4);
    let load = loads(&[0x63, 0x00], Mode::Bits64);
    assert_eq!(
        (load.width, load.result(u64::MAX, 0x8000_0000)),
        (4, 0x8000_0000)
    );
    let load = loads(&[0x66, 0x63, 0x00], Mode::Bits64);
    assert_eq!((load.width, load.result(0, 0x8000)), (2, 0x8000));
}

/// Prefixes, then anything, with the opcodes of interest more often.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let legacy = prop::sample::select(&[0x66_u8, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x3e, 0x64][..]);
    let opcode = prop_oneof![
        2 => any::<u8>().prop_map(|byte| Vec::from([byte])),
        1 => any::<u8>().prop_map(|byte| Vec::from([0x0f, byte])),
        1 => (prop::sample::select(&[0x38_u8, 0x3a][..]), any::<u8>())
            .prop_map(|(map, byte)| Vec::from([0x0f, map, byte])),
        1 => prop::sample::select(
            &[0x86_u8, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0xa0, 0xa1, 0xa2, 0xa3, 0xaa, 0xab, 0xc6, 0xc7, 0x63][..])
            .prop_map(|byte| Vec::from([byte])),
        1 => prop::sample::select(&[0xb6_u8, 0xb7, 0xbe, 0xbf, 0xc3][..])
            .prop_map(|byte| Vec::from([0x0f, byte])),
    ];
    (
        prop::collection::vec(legacy, 0..3),
        prop::option::of(0x40..0x50_u8),
        opcode,
        prop::collection::vec(any::<u8>(), 14),
    )
        .prop_map(|(legacy, rex, opcode, rest)| {
            legacy
                .into_iter()
                .chain(rex)
                .chain(opcode)
                .chain(rest)
                .collect()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn the_fast_path_agrees_with_the_decoder(bytes in fast_form(), gpr: [u64; 16]) {
        let slow = oracle::access(&bytes, Mode::Bits64, &gpr);
        if let Some(store) = fast::store(&bytes, &gpr) {
            prop_assert_eq!(slow, Ok(Access::Store(store)));
        } else if let Ok(Access::Store(store)) = slow {
            // It leaves only bytes to the general decoder.
            prop_assert_eq!(store.width, 1, "{:x?}", bytes);
        }
    }

    #[test]
    fn lengths_agree_with_the_oracle(bytes in instruction(), mode in mode()) {
        prop_assume!(!oracle_errs(&bytes, mode));
        if let Some(theirs) = oracle::length(&bytes, mode) {
            prop_assert_eq!(length(&bytes, mode), Some(theirs), "{:x?}", bytes);
        }
    }

    #[test]
    fn accesses_agree_with_the_oracle(bytes in instruction(), mode in mode(), gpr: [u64; 16]) {
        prop_assume!(!oracle_errs(&bytes, mode));
        if let Ok(theirs) = oracle::access(&bytes, mode, &gpr) {
            prop_assert_eq!(access(&bytes, mode, &gpr), Ok(theirs), "{:x?}", bytes);
        }
        if let (Ok(ours), Some(_)) = (access(&bytes, mode, &gpr), oracle::length(&bytes, mode)) {
            prop_assert_eq!(oracle::access(&bytes, mode, &gpr), Ok(ours), "{:x?}", bytes);
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..20), mode in mode(), gpr: [u64; 16]) {
        let length = length(&bytes, mode);
        prop_assert!(length.is_none_or(|n| (1..=15).contains(&n) && usize::from(n) <= bytes.len()));
        if let Ok(access) = access(&bytes, mode, &gpr) {
            prop_assert_eq!(Some(length_of(&access)), length);
            if let Access::Load(load) | Access::Exchange(_, load) = access {
                prop_assert!(load.register < 16);
                let _ = load.result(gpr[0], gpr[1]);
            }
        }
    }

    #[test]
    fn no_prefixes_panic(
        prefixes in prop::collection::vec(
            prop::sample::select(&[0x66_u8, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x64, 0x48, 0x0f, 0xc4, 0xc5, 0x62, 0x38, 0x3a][..]), 0..8),
        rest in prop::collection::vec(any::<u8>(), 0..12),
        mode in mode(),
    ) {
        let bytes: Vec<u8> = prefixes.into_iter().chain(rest).collect();
        let _ = length(&bytes, mode);
        let _ = access(&bytes, mode, &registers());
    }
}
