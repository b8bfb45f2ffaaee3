//! Page tables written by the manual's bit positions, then walked.

extern crate std;

use std::collections::HashMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const LONG: Paging = Paging {
    cr0: CR0_PG | CR0_WP,
    cr3: 0x1000,
    cr4: CR4_PAE,
    efer: EFER_LMA | EFER_NXE,
};

/// Guest memory, 8 bytes at a time; what was never written cannot be read.
#[derive(Default)]
struct Memory(HashMap<u64, u64>);

impl Memory {
    fn set(&mut self, at: u64, value: u64) {
        self.0.insert(at, value);
    }
    /// Writes a 4-byte entry.
    fn set32(&mut self, at: u64, value: u32) {
        let old = self.0.entry(at & !7).or_default();
        let shift = (at & 4) * 8;
        *old = *old & !(0xffff_ffff << shift) | u64::from(value) << shift;
    }
    fn translate(&self, paging: &Paging, va: u64, access: Access) -> Result<u64, WalkFault> {
        let mut reads = 0;
        let result = translate(
            &mut |at| {
                assert_eq!(at % 8, 0);
                reads += 1;
                self.0.get(&at).copied()
            },
            paging,
            va,
            access,
        );
        assert!(reads <= 5);
        result
    }
}

/// Tables for `va` in long mode: `levels` of them, the page at `level` (1 to
/// 3), `flags` one per entry from the top.
fn tables(levels: u32, level: u32, va: u64, page: u64, flags: &[u64]) -> Memory {
    let mut memory = Memory::default();
    let mut table = LONG.cr3;
    for (i, at) in (level..=levels).rev().enumerate() {
        let index = va >> (12 + 9 * (at - 1)) & 0x1ff;
        let large = if at > 1 { LARGE } else { 0 };
        let next = table + 0x1000;
        let entry = if at == level { page | large } else { next } | flags[i];
        memory.set(table + index * 8, entry);
        table = next;
    }
    memory
}

fn bits() -> impl Strategy<Value = u64> {
    // Present nearly always; accessed, dirty, ignored bits at will.
    (
        prop::bool::weighted(0.95),
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.1),
        0..8_u64,
    )
        .prop_map(|(p, w, u, nx, rest)| {
            u64::from(p) | u64::from(w) << 1 | u64::from(u) << 2 | u64::from(nx) << 63 | rest << 9
        })
}

fn access() -> impl Strategy<Value = Access> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(write, user, execute)| Access {
        write: write && !execute,
        user,
        execute,
    })
}

proptest! {
    #[test]
    fn long_mode_follows_the_manual(
        five: bool, level in 1..4_u32, raw: u64, page: u64,
        flags in prop::collection::vec(bits(), 5), access in access(), wp: bool, smep: bool, nxe: bool,
    ) {
        let (levels, sign) = if five { (5, 7) } else { (4, 16) };
        let va = ((raw << sign).cast_signed() >> sign).cast_unsigned();
        let size = 1_u64 << (12 + 9 * (level - 1));
        let page = page & 0x000f_ffff_ffff_f000 & !(size - 1);
        let memory = tables(levels, level, va, page, &flags);
        let paging = Paging {
            cr0: CR0_PG | if wp { CR0_WP } else { 0 },
            cr4: LONG.cr4 | if five { CR4_LA57 } else { 0 } | if smep { CR4_SMEP } else { 0 },
            efer: EFER_LMA | if nxe { EFER_NXE } else { 0 },
            ..LONG
        };
        let used = &flags[..(levels - level + 1) as usize];
        let writable = used.iter().all(|f| f & 2 != 0);
        let user = used.iter().all(|f| f & 4 != 0);
        let no_execute = used.iter().any(|f| f >> 63 != 0);
        let expected = if used.iter().any(|f| f & 1 == 0) {
            Err(WalkFault::NotPresent)
        } else if no_execute && !nxe {
            Err(WalkFault::Reserved)
        } else if access.user && !user
            || access.write && !writable && (access.user || wp)
            || access.execute && no_execute
            || access.execute && !access.user && user && smep
        {
            Err(WalkFault::Rights)
        } else {
            Ok(page + va % size)
        };
        prop_assert_eq!(memory.translate(&paging, va, access), expected);
    }

    #[test]
    fn any_memory_ends_the_walk(
        cr0: u64, cr3: u64, cr4: u64, efer: u64, va: u64, short: bool, access in access(),
        entries in prop::collection::vec(any::<u64>(), 1..8),
    ) {
        let mut reads = 0_usize;
        let va = if short { va & 0xffff_ffff } else { va };
        let result = translate(
            &mut |_| {
                reads += 1;
                Some(entries[reads % entries.len()] | 7)
            },
            &Paging { cr0, cr3, cr4, efer },
            va,
            access,
        );
        prop_assert!(reads <= 5);
        prop_assert!(result.is_err() || result.is_ok_and(|gpa| gpa < 1 << 52));
    }

    #[test]
    fn any_stack_ends_the_backtrace(rip: u64, rbp: u64, words in prop::collection::vec(any::<u64>(), 1..8)) {
        let mut reads = 0_usize;
        let frames = backtrace(
            |at| {
                reads += 1;
                assert_eq!(at % 8, 0);
                Some(at.wrapping_add(words[reads % words.len()] & 0xff8))
            },
            rip,
            rbp & !7,
        );
        prop_assert!(frames.first() == Some(&rip) && reads <= 32);
    }
}

#[test]
fn tables_that_point_to_themselves_end() {
    let mut memory = Memory::default();
    for i in 0..512 {
        memory.set(0x1000 + i * 8, 0x1000 | 7);
    }
    assert_eq!(
        memory.translate(&LONG, 0x1234_5678, Access::READ),
        Ok(0x1678)
    );
}

#[test]
fn faults_have_their_names() {
    let all = [7, 7, 7, 7];
    let memory = tables(4, 1, 0x4000, 0x9000, &all);
    assert_eq!(memory.translate(&LONG, 0x4123, Access::READ), Ok(0x9123));
    assert_eq!(
        memory.translate(&LONG, 1 << 47, Access::READ),
        Err(WalkFault::NonCanonical)
    );
    assert_eq!(
        memory.translate(&LONG, 0x5000, Access::READ),
        Err(WalkFault::Unreadable)
    );
    let memory = tables(4, 2, 0, 0x20_2000, &all);
    assert_eq!(
        memory.translate(&LONG, 0, Access::READ),
        Err(WalkFault::Reserved)
    );
    let mut memory = Memory::default();
    memory.set(0x1000, 0x2000 | 7 | LARGE);
    assert_eq!(
        memory.translate(&LONG, 0, Access::READ),
        Err(WalkFault::Reserved)
    );
    // PAT is no address bit of a large page.
    let memory = tables(4, 2, 0x20_0000, 0x60_1000, &all);
    assert_eq!(
        memory.translate(&LONG, 0x20_0004, Access::READ),
        Ok(0x60_0004)
    );
}

#[test]
fn without_paging_addresses_are_physical() {
    let memory = Memory::default();
    let paging = Paging::default();
    assert_eq!(
        memory.translate(&paging, 0xfee0_0300, Access::READ),
        Ok(0xfee0_0300)
    );
    assert_eq!(
        memory.translate(&paging, 1 << 32, Access::READ),
        Err(WalkFault::NonCanonical)
    );
}

#[test]
fn thirty_two_bit_paging() {
    let mut paging = Paging {
        cr0: CR0_PG | CR0_WP,
        cr3: 0x1018,
        cr4: CR4_PSE,
        efer: 0,
    };
    let mut memory = Memory::default();
    memory.set32(0x1000 + 0x301 * 4, 0x3000 | 3);
    memory.set32(0x3000 + 0x2ff * 4, 0xfee0_0000 | 3);
    memory.set32(0x3000 + 0x2fe * 4, 0x5000 | 1);
    let va = 0x301 << 22 | 0x2ff << 12;
    assert_eq!(
        memory.translate(&paging, va | 0x300, Access::READ),
        Ok(0xfee0_0300)
    );
    let write = Access {
        write: true,
        ..Access::READ
    };
    assert_eq!(
        memory.translate(&paging, va - 0x1000, write),
        Err(WalkFault::Rights)
    );
    let user = Access {
        user: true,
        ..Access::READ
    };
    assert_eq!(memory.translate(&paging, va, user), Err(WalkFault::Rights));
    // A 4 MiB page above 4 GiB (PSE-36), and the same bit without CR4.PSE.
    memory.set32(0x1000 + 4, 0x0100_0000 | 0x6000 | 0x83);
    assert_eq!(
        memory.translate(&paging, 0x41_2345, Access::READ),
        Ok(0x3_0101_2345)
    );
    memory.set32(0x1000 + 4, 0x0020_0000 | 0x83);
    assert_eq!(
        memory.translate(&paging, 0x41_2345, Access::READ),
        Err(WalkFault::Reserved)
    );
    paging.cr4 = 0;
    memory.set32(0x1000 + 4, 0x4000 | 0x83);
    memory.set32(0x4000 + 0x12 * 4, 0x7000 | 1);
    assert_eq!(
        memory.translate(&paging, 0x41_2345, Access::READ),
        Ok(0x7345)
    );
}

#[test]
fn pae_paging() {
    let paging = Paging {
        cr0: CR0_PG,
        cr3: 0x1020,
        cr4: CR4_PAE,
        efer: EFER_NXE,
    };
    let mut memory = Memory::default();
    memory.set(0x1020 + 3 * 8, 0x2000 | 1);
    memory.set(0x2000 + 0x1f7 * 8, 0x3000 | 7);
    memory.set(0x3000, 0x1_fee0_0000 | 7 | NO_EXECUTE);
    memory.set(0x2000 + 8, 0x1_0020_0000 | 0x83);
    let va = 0xfee0_0000;
    assert_eq!(
        memory.translate(&paging, va + 0xb0, Access::READ),
        Ok(0x1_fee0_00b0)
    );
    assert_eq!(
        memory.translate(&paging, va, Access::FETCH),
        Err(WalkFault::Rights)
    );
    assert_eq!(
        memory.translate(&paging, 0xc020_0001, Access::FETCH),
        Ok(0x1_0020_0001)
    );
    memory.set(0x1020, 0x2000 | 3);
    assert_eq!(
        memory.translate(&paging, 0, Access::READ),
        Err(WalkFault::Reserved)
    );
    memory.set(0x2000 + 8, 0x1_0020_0000 | 0x83 | 1 << 52);
    assert_eq!(
        memory.translate(&paging, 0xc020_0001, Access::READ),
        Err(WalkFault::Reserved)
    );
}

/// A stack of frames: address of the frame, saved RBP, return address.
fn trace(frames: &[(u64, u64, u64)], rbp: u64) -> Vec<u64> {
    let mut words = HashMap::new();
    for (at, saved, address) in frames {
        words.insert(*at, *saved);
        words.insert(at + 8, *address);
    }
    backtrace(|at| words.get(&at).copied(), 0x1000, rbp).to_vec()
}

#[test]
fn backtraces_follow_frame_pointers() {
    let kernel = 0xffff_8000_0000_1000;
    let good = [
        (kernel, kernel + 0x20, 0xffff_ffff_8100_0000),
        (kernel + 0x20, kernel + 0x40, 0xffff_ffff_8200_0000),
        (kernel + 0x40, 0, 0),
    ];
    let expected = [0x1000, 0xffff_ffff_8100_0000, 0xffff_ffff_8200_0000];
    assert_eq!(trace(&good, kernel), expected);
    assert_eq!(trace(&good, kernel + 4), [0x1000], "not aligned");
    assert_eq!(trace(&good, 0), [0x1000]);
    assert_eq!(trace(&good, 1 << 60), [0x1000], "not canonical");
    assert_eq!(trace(&good, kernel + 0x60), [0x1000], "cannot be read");
    assert_eq!(trace(&[(0x100, 0x100, 5)], 0x100), [0x1000, 5], "a loop");
    assert_eq!(
        trace(&[(0x100, 0x80, 5), (0x80, 0, 6)], 0x100),
        [0x1000, 5],
        "downwards"
    );
    assert_eq!(
        trace(&[(0x100, 0x200, 1 << 60)], 0x100),
        [0x1000],
        "a wild address"
    );
    let deep: Vec<_> = (1..40).map(|i| (i * 16, i * 16 + 16, i)).collect();
    assert_eq!(trace(&deep, 16).len(), 16);
}
