//! Memory-type range registers (Intel SDM vol. 3, "Memory Type Range
//! Registers (MTRRs)"): what type the firmware gave which memory.
//!
//! With EPT a guest's accesses do not go by them any more (SDM vol. 3, "EPT
//! and Memory Typing"), so the nested page table has to repeat what they say.

use heapless::Vec;

use crate::memory::Range;
use crate::nested::MemoryType;

/// MSRs (SDM vol. 4).
const CAPABILITIES: u32 = 0xfe;
const DEFAULT_TYPE: u32 = 0x2ff;
const FIRST_VARIABLE: u32 = 0x200;
/// The fixed ranges in order: one of 64 KiB pieces, two of 16 KiB, eight of
/// 4 KiB, eight pieces each.
const FIXED: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
];
/// One past the last address of the fixed ranges.
const FIXED_END: u64 = 0x10_0000;
/// Variable ranges in use, at most. Processors have 8 to 10.
const MAX_VARIABLE: usize = 32;

/// The MTRRs of a processor.
#[derive(Clone, Debug)]
pub struct Mtrrs {
    default: MemoryType,
    /// Values of [`FIXED`], if they are on.
    fixed: Option<[u64; 11]>,
    variable: Vec<Variable, MAX_VARIABLE>,
}

/// A variable range: addresses that equal `base` in the bits of `mask`.
#[derive(Clone, Copy, Debug)]
struct Variable {
    base: u64,
    mask: u64,
    /// Addresses have no bits from here on.
    limit: u64,
    memory_type: MemoryType,
}

impl Variable {
    fn contains(&self, address: u64) -> bool {
        address & self.mask == self.base
    }

    /// Where the answer of [`Self::contains`] can change next.
    fn next_change(&self, address: u64) -> u64 {
        let piece = 1 << self.mask.trailing_zeros().min(63);
        if self.mask | (piece - 1) == self.limit - 1 {
            // One piece, and not several at a distance.
            let end = self.base.saturating_add(piece);
            return match address {
                _ if address < self.base => self.base,
                _ if address < end => end,
                _ => u64::MAX,
            };
        }
        (address | (piece - 1)).saturating_add(1)
    }
}

impl Mtrrs {
    /// Reads them by `read_msr`, on a processor whose addresses have
    /// `physical_bits` bits (CPUID leaf 0x8000_0008). [`None`] where they are
    /// off, or more are in use than any processor has.
    #[must_use]
    pub fn read(read_msr: impl Fn(u32) -> u64, physical_bits: u8) -> Option<Self> {
        const COUNT: u64 = 0xff;
        const HAS_FIXED: u64 = 1 << 8;
        const FIXED_ON: u64 = 1 << 10;
        const ON: u64 = 1 << 11;
        const VALID: u64 = 1 << 11;
        let limit = 1 << physical_bits.clamp(32, 52);
        let capabilities = read_msr(CAPABILITIES);
        let default = read_msr(DEFAULT_TYPE);
        if default & ON == 0 {
            return None;
        }
        let fixed = capabilities & HAS_FIXED != 0 && default & FIXED_ON != 0;
        let mut variable = Vec::new();
        for number in 0..u32::try_from(capabilities & COUNT).ok()? {
            let msr = FIRST_VARIABLE + 2 * number;
            let (base, mask) = (read_msr(msr), read_msr(msr + 1));
            let address = (limit - 1) & !0xfff;
            if mask & VALID != 0 {
                let range = Variable {
                    base: base & mask & address,
                    mask: mask & address,
                    limit,
                    memory_type: memory_type(base),
                };
                variable.push(range).ok()?;
            }
        }
        Some(Self {
            default: memory_type(default),
            fixed: fixed.then(|| FIXED.map(read_msr)),
            variable,
        })
    }

    /// The type of the byte at `address` (SDM vol. 3, "MTRR Precedences").
    #[must_use]
    pub fn type_at(&self, address: u64) -> MemoryType {
        if let Some(fixed) = &self.fixed
            && let Some(piece) = FixedPiece::at(address)
        {
            let word = fixed.get(piece.register).copied().unwrap_or(0);
            return memory_type(word >> (8 * piece.index));
        }
        self.variable
            .iter()
            .filter(|range| range.contains(address))
            .map(|range| range.memory_type)
            .reduce(overlap)
            .unwrap_or(self.default)
    }

    /// Where the type can change next behind `address`.
    fn next_change(&self, address: u64) -> u64 {
        if self.fixed.is_some()
            && let Some(piece) = FixedPiece::at(address)
        {
            return piece.end;
        }
        self.variable
            .iter()
            .map(|range| range.next_change(address))
            .fold(u64::MAX, u64::min)
    }

    /// `range` in pieces of one type each, in order, each as long as it can be.
    pub fn runs(&self, range: Range) -> impl Iterator<Item = (Range, MemoryType)> {
        let mut start = range.start;
        core::iter::from_fn(move || {
            if start >= range.end {
                return None;
            }
            let memory_type = self.type_at(start);
            let mut end = self.next_change(start);
            while end < range.end && self.type_at(end) == memory_type {
                end = self.next_change(end);
            }
            let run = Range {
                start,
                end: end.min(range.end),
            };
            start = run.end;
            Some((run, memory_type))
        })
    }
}

/// A piece of the fixed ranges.
struct FixedPiece {
    /// Index into [`FIXED`].
    register: usize,
    /// Byte of the register.
    index: u32,
    end: u64,
}

impl FixedPiece {
    fn at(address: u64) -> Option<Self> {
        let (first, start, shift) = match address {
            0..0x8_0000 => (0, 0, 16),
            0x8_0000..0xc_0000 => (1, 0x8_0000, 14),
            0xc_0000..FIXED_END => (3, 0xc_0000, 12),
            _ => return None,
        };
        let piece = (address - start) >> shift;
        Some(Self {
            register: first + usize::try_from(piece / 8).ok()?,
            index: u32::try_from(piece % 8).ok()?,
            end: start + ((piece + 1) << shift),
        })
    }
}

/// The encoding in bits 7:0. Reserved ones, which no processor takes, count as
/// UC.
fn memory_type(encoded: u64) -> MemoryType {
    match encoded & 0xff {
        1 => MemoryType::WriteCombining,
        4 => MemoryType::WriteThrough,
        5 => MemoryType::WriteProtected,
        6 => MemoryType::WriteBack,
        _ => MemoryType::Uncacheable,
    }
}

/// What two variable ranges make of an address in both: UC wins, and WT over
/// WB; everything else is undefined, and UC is the safe answer.
fn overlap(one: MemoryType, other: MemoryType) -> MemoryType {
    match (one, other) {
        _ if one == other => one,
        (MemoryType::WriteThrough, MemoryType::WriteBack)
        | (MemoryType::WriteBack, MemoryType::WriteThrough) => MemoryType::WriteThrough,
        _ => MemoryType::Uncacheable,
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const BITS: u8 = 39;

    /// Variable ranges as (base, mask) MSRs, the default type's MSR, and one
    /// value for all fixed ranges.
    fn mtrrs(variable: &[(u64, u64)], default: u64, fixed: u64) -> Option<Mtrrs> {
        let read = |msr: u32| match msr {
            CAPABILITIES => 0x100 | variable.len() as u64,
            DEFAULT_TYPE => default,
            0x200.. if ((msr - 0x200) / 2) < u32::try_from(variable.len()).unwrap() => {
                let (base, mask) = variable[((msr - 0x200) / 2) as usize];
                if msr.is_multiple_of(2) { base } else { mask }
            }
            0x250 => fixed,
            _ => 0x0606_0606_0606_0606,
        };
        Mtrrs::read(read, BITS)
    }

    fn runs(mtrrs: &Mtrrs, start: u64, end: u64) -> Vec<(u64, u64, MemoryType)> {
        let runs = mtrrs.runs(Range { start, end });
        runs.map(|(range, kind)| (range.start, range.end, kind))
            .collect()
    }

    const ALL: u64 = (1 << BITS) - 1;

    /// As firmware does it: write-back by default, a hole for devices below
    /// 4 GiB.
    #[test]
    fn a_hole_for_devices() {
        let hole = (0xc000_0000, ALL & !0x3fff_ffff | 0x800);
        let mtrrs = mtrrs(&[hole, (0, 0)], 0xc06, 0x0606_0606_0606_0606).unwrap();
        assert_eq!(
            runs(&mtrrs, 0, 1 << 36),
            [
                (0, 0xc000_0000, MemoryType::WriteBack),
                (0xc000_0000, 1 << 32, MemoryType::Uncacheable),
                (1 << 32, 1 << 36, MemoryType::WriteBack),
            ]
        );
        assert_eq!(runs(&mtrrs, 0x1234, 0x1234), []);
        assert_eq!(runs(&mtrrs, 5, 7), [(5, 7, MemoryType::WriteBack)]);
    }

    /// The other way round: uncached by default.
    #[test]
    fn memory_named_one_by_one() {
        let two_gib = (6, ALL & !0x7fff_ffff | 0x800);
        let above = (0x1_0000_0006, ALL & !0xffff_ffff | 0x800);
        let mtrrs = mtrrs(&[two_gib, above], 0x800, 0).unwrap();
        assert_eq!(
            runs(&mtrrs, 0, 1 << 34),
            [
                (0, 1 << 31, MemoryType::WriteBack),
                (1 << 31, 1 << 32, MemoryType::Uncacheable),
                (1 << 32, 2 << 32, MemoryType::WriteBack),
                (2 << 32, 1 << 34, MemoryType::Uncacheable),
            ]
        );
    }

    #[test]
    fn fixed_ranges_come_first() {
        let everything = (6, 0x800);
        let on = mtrrs(&[everything], 0xc00, 0x0606_0606_0005_0401).unwrap();
        assert_eq!(
            runs(&on, 0, 0x20_0000),
            [
                (0, 0x1_0000, MemoryType::WriteCombining),
                (0x1_0000, 0x2_0000, MemoryType::WriteThrough),
                (0x2_0000, 0x3_0000, MemoryType::WriteProtected),
                (0x3_0000, 0x4_0000, MemoryType::Uncacheable),
                (0x4_0000, 0x20_0000, MemoryType::WriteBack),
            ]
        );
        let off = mtrrs(&[everything], 0x800, 0).unwrap();
        let whole = [(0, 0x20_0000, MemoryType::WriteBack)];
        assert_eq!(runs(&off, 0, 0x20_0000), whole);
    }

    #[test]
    fn where_ranges_overlap() {
        let over = |first: u64, second: u64| {
            let mtrrs = mtrrs(&[(first, 0x800), (second, 0x800)], 0x801, 0).unwrap();
            mtrrs.type_at(0x1234_5678)
        };
        assert_eq!(over(6, 6), MemoryType::WriteBack);
        assert_eq!(over(6, 0), MemoryType::Uncacheable);
        assert_eq!(over(6, 4), MemoryType::WriteThrough);
        assert_eq!(over(4, 6), MemoryType::WriteThrough);
        assert_eq!(over(1, 6), MemoryType::Uncacheable);
    }

    #[test]
    fn off_or_too_many() {
        assert!(mtrrs(&[(6, 0x800)], 0x406, 0).is_none());
        assert!(Mtrrs::read(|msr| if msr == CAPABILITIES { 0xff } else { 0x806 }, 36).is_none());
    }

    proptest! {
        /// Whatever the registers hold, the runs cover the range without a gap,
        /// neighbours differ, and each byte has the type of its run.
        #[test]
        fn runs_agree_with_single_addresses(
            variable in prop::collection::vec((any::<u64>(), any::<u64>()), 0..4),
            sizes in prop::collection::vec(16u32..39, 4),
            regular in any::<bool>(),
            default in any::<u64>(),
            fixed in any::<u64>(),
            start in 0u64..1 << 33,
            length in 1u64..1 << 24,
            probes in prop::collection::vec(any::<u64>(), 16),
        ) {
            let variable: Vec<_> = variable
                .iter()
                .zip(&sizes)
                .map(|(&(base, mask), size)| {
                    // At least 64 KiB, or the runs are too many for a test.
                    let piece = ALL & !((1 << size) - 1);
                    (base, (if regular { piece } else { mask & !0xffff }) | 0x800)
                })
                .collect();
            let Some(mtrrs) = mtrrs(&variable, default, fixed) else {
                return Ok(());
            };
            let end = start + length;
            let runs: Vec<_> = mtrrs.runs(Range { start, end }).collect();
            prop_assert_eq!(runs[0].0.start, start);
            prop_assert_eq!(runs[runs.len() - 1].0.end, end);
            for pair in runs.windows(2) {
                prop_assert_eq!(pair[0].0.end, pair[1].0.start);
                prop_assert_ne!(pair[0].1, pair[1].1);
            }
            for probe in probes {
                let address = start + probe % length;
                let run = runs.iter().find(|(range, _)| range.contains(address));
                prop_assert_eq!(run.unwrap().1, mtrrs.type_at(address));
            }
        }
    }
}
