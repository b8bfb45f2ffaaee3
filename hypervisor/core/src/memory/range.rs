//! A range of physical addresses.

use core::fmt;

/// Physical addresses from `start` up to, but not including, `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// One past the last address; at least `start`.
    pub end: u64,
}

impl Range {
    /// The range, or `None` when `end` is below `start`.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start <= end {
            Some(Self { start, end })
        } else {
            None
        }
    }

    /// The `len` bytes from `start`, or `None` when they end beyond 2^64.
    #[must_use]
    pub const fn at(start: u64, len: u64) -> Option<Self> {
        match start.checked_add(len) {
            Some(end) => Some(Self { start, end }),
            None => None,
        }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it holds no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// Whether `address` is in the range.
    #[must_use]
    pub const fn contains(&self, address: u64) -> bool {
        self.start <= address && address < self.end
    }

    /// Whether every byte of `other` is in the range.
    #[must_use]
    pub const fn contains_range(&self, other: &Self) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// Whether the two share a byte.
    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        !self.is_empty() && !other.is_empty() && self.start < other.end && other.start < self.end
    }

    /// The bytes of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let both = Self {
            start: self.start.max(other.start),
            end: self.end.min(other.end),
        };
        (!both.is_empty()).then_some(both)
    }

    /// The whole `align`-sized units inside the range; `align` is a power of
    /// two. Empty when there is none.
    #[must_use]
    pub const fn align_inward(&self, align: u64) -> Self {
        let end = align_down(self.end, align);
        match align_up(self.start, align) {
            Some(start) if start < end => Self { start, end },
            _ => Self { start: end, end },
        }
    }

    /// The `align`-sized units that the range touches; `align` is a power of
    /// two.
    #[must_use]
    pub const fn align_outward(&self, align: u64) -> Self {
        let start = align_down(self.start, align);
        match align_up(self.end, align) {
            Some(end) => Self { start, end },
            None => Self {
                start,
                end: align_down(u64::MAX, align),
            },
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

/// `value` rounded down to a multiple of `align`, a power of two.
#[must_use]
pub const fn align_down(value: u64, align: u64) -> u64 {
    value & !align.wrapping_sub(1)
}

/// `value` rounded up to a multiple of `align`, a power of two; `None` beyond
/// 2^64.
#[must_use]
pub const fn align_up(value: u64, align: u64) -> Option<u64> {
    match value.checked_add(align.wrapping_sub(1)) {
        Some(sum) => Some(align_down(sum, align)),
        None => None,
    }
}
