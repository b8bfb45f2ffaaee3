//! A set of physical cores.

use core::fmt;

use cloister_abi::MAX_CORES;
use serde::{Deserialize, Serialize};

/// Physical core numbers (MADT order), each below [`MAX_CORES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuSet(u64);

const _: () = assert!(MAX_CORES == 64, "CpuSet holds one bit per core");

impl CpuSet {
    /// No core.
    pub const EMPTY: Self = Self(0);

    /// The set whose member `n` is bit `n` of `bits`.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Bit `n` is set for each member `n`.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Adds `core`. False, and no change, when it is already there or not
    /// below [`MAX_CORES`].
    pub fn insert(&mut self, core: usize) -> bool {
        if core >= MAX_CORES || self.contains(core) {
            return false;
        }
        self.0 |= 1 << core;
        true
    }

    /// Whether `core` is a member.
    #[must_use]
    pub const fn contains(self, core: usize) -> bool {
        core < MAX_CORES && self.0 & (1 << core) != 0
    }

    /// Number of members.
    #[must_use]
    pub const fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is no member.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The lowest member.
    #[must_use]
    pub const fn first(self) -> Option<usize> {
        if self.0 == 0 {
            None
        } else {
            Some(self.0.trailing_zeros() as usize)
        }
    }

    /// The highest member.
    #[must_use]
    pub const fn last(self) -> Option<usize> {
        if self.0 == 0 {
            None
        } else {
            Some(self.0.ilog2() as usize)
        }
    }

    /// Position of `core` among the members in ascending order: a partition's
    /// own index of it.
    #[must_use]
    pub const fn index_of(self, core: usize) -> Option<usize> {
        if self.contains(core) {
            Some((self.0 & ((1 << core) - 1)).count_ones() as usize)
        } else {
            None
        }
    }

    /// Members of both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Members of either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Members of this set that are not in `other`.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The members in ascending order.
    #[must_use]
    pub const fn iter(self) -> Members {
        Members(self.0)
    }
}

/// The members of a [`CpuSet`], each found in a few instructions.
#[derive(Clone, Copy, Debug)]
pub struct Members(u64);

impl Iterator for Members {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        let core = CpuSet(self.0).first()?;
        self.0 &= self.0 - 1;
        Some(core)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = CpuSet(self.0).len();
        (count, Some(count))
    }
}

impl DoubleEndedIterator for Members {
    #[inline]
    fn next_back(&mut self) -> Option<usize> {
        let core = CpuSet(self.0).last()?;
        self.0 &= !(1 << core);
        Some(core)
    }
}

impl ExactSizeIterator for Members {}

impl FromIterator<usize> for CpuSet {
    /// Numbers that are not below [`MAX_CORES`] are left out.
    fn from_iter<I: IntoIterator<Item = usize>>(cores: I) -> Self {
        let mut set = Self::EMPTY;
        for core in cores {
            set.insert(core);
        }
        set
    }
}

impl fmt::Display for CpuSet {
    /// As in a system file: `[0, 1]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (position, core) in self.iter().enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            write!(f, "{comma}{core}")?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_back_in_order() {
        let set: CpuSet = [63, 0, 5, 64, 5].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 5, 63]);
        assert_eq!((set.len(), set.first(), set.last()), (3, Some(0), Some(63)));
        assert_eq!(set.index_of(63), Some(2));
        assert_eq!(set.index_of(1), None);
        assert_eq!(set.to_string(), "[0, 5, 63]");
        assert_eq!(CpuSet::EMPTY.first(), None);
    }

    #[test]
    fn insert_tells_duplicates_and_impossible_cores() {
        let mut set = CpuSet::EMPTY;
        assert!(set.insert(63));
        assert!(!set.insert(63));
        assert!(!set.insert(64));
        assert_eq!(set.bits(), 1 << 63);
    }
}
