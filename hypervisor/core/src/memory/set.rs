//! A set of physical addresses, kept as ranges.

use super::Range;
use super::range::{align_down, align_up};

/// A [`RangeSet`] has no room for one more range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A set of addresses: at most `N` ranges, sorted, disjoint, not adjacent.
#[derive(Clone, Debug, Default)]
pub struct RangeSet<const N: usize> {
    ranges: heapless::Vec<Range, N>,
}

impl<const N: usize> RangeSet<N> {
    /// An empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            ranges: heapless::Vec::new(),
        }
    }

    /// The ranges, lowest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Range> + ExactSizeIterator {
        self.ranges.iter()
    }

    /// Adds every address of `range`.
    ///
    /// # Errors
    /// [`Full`]; the set is unchanged then.
    pub fn add(&mut self, range: Range) -> Result<(), Full> {
        if range.is_empty() {
            return Ok(());
        }
        // Those that touch the new one are merged with it.
        let first = self.ranges.partition_point(|r| r.end < range.start);
        let after = self.ranges.partition_point(|r| r.start <= range.end);
        let Some(touched) = self.ranges.get(first..after) else {
            return Err(Full);
        };
        let merged = touched.iter().fold(range, |all, r| Range {
            start: all.start.min(r.start),
            end: all.end.max(r.end),
        });
        let mut dropped = 0;
        if touched.is_empty() {
            return self.ranges.insert(first, merged).map_err(|_| Full);
        }
        let keep = first;
        let mut at = 0;
        self.ranges.retain(|_| {
            let inside = at > keep && at < after;
            at += 1;
            dropped += usize::from(inside);
            !inside
        });
        if let Some(slot) = self.ranges.get_mut(keep) {
            *slot = merged;
        }
        Ok(())
    }

    /// Removes every address of `range`; those that are not in the set are no
    /// error. A range that it lies inside is split.
    ///
    /// # Errors
    /// [`Full`] when there is no room for the second half; the set is
    /// unchanged then.
    pub fn remove(&mut self, range: Range) -> Result<(), Full> {
        if range.is_empty() {
            return Ok(());
        }
        let split = self
            .ranges
            .iter()
            .position(|r| r.start < range.start && range.end < r.end);
        if let Some(at) = split {
            let Some(whole) = self.ranges.get_mut(at) else {
                return Ok(());
            };
            let upper = Range {
                start: range.end,
                end: whole.end,
            };
            let lower = Range {
                start: whole.start,
                end: range.start,
            };
            if self.ranges.insert(at + 1, upper).is_err() {
                return Err(Full);
            }
            if let Some(whole) = self.ranges.get_mut(at) {
                *whole = lower;
            }
            return Ok(());
        }
        for r in &mut self.ranges {
            if r.overlaps(&range) {
                if r.start < range.start {
                    r.end = range.start;
                } else {
                    r.start = range.end.min(r.end);
                }
            }
        }
        self.ranges.retain(|r| !r.is_empty());
        Ok(())
    }

    /// Whether every address of `range` is in the set.
    #[must_use]
    pub fn contains_range(&self, range: &Range) -> bool {
        range.is_empty() || self.ranges.iter().any(|r| r.contains_range(range))
    }

    /// Whether an address of `range` is in the set.
    #[must_use]
    pub fn overlaps(&self, range: &Range) -> bool {
        self.ranges.iter().any(|r| r.overlaps(range))
    }

    /// Length in bytes of the longest range below `below`.
    #[must_use]
    pub fn largest(&self, below: u64) -> u64 {
        self.ranges
            .iter()
            .map(|r| below.min(r.end).saturating_sub(r.start))
            .max()
            .unwrap_or(0)
    }

    /// Finds and removes `size` bytes, aligned to `align` (a power of two), at
    /// the highest place that ends at or below `below`. `None` when there is
    /// none, `size` is 0, or `align` is no power of two.
    pub fn allocate_top(&mut self, size: u64, align: u64, below: u64) -> Option<Range> {
        if size == 0 || !align.is_power_of_two() {
            return None;
        }
        let found = self.ranges.iter().rev().find_map(|r| {
            let start = align_down(r.end.min(below).checked_sub(size)?, align);
            (start >= r.start).then_some(Range {
                start,
                end: start + size,
            })
        })?;
        self.take(found)
    }

    /// Finds and removes `size` bytes, aligned to `align` (a power of two), at
    /// the lowest place from `above` that ends at or below `below`. `None` as
    /// for [`Self::allocate_top`].
    pub fn allocate_bottom(
        &mut self,
        size: u64,
        align: u64,
        above: u64,
        below: u64,
    ) -> Option<Range> {
        if size == 0 || !align.is_power_of_two() {
            return None;
        }
        let found = self.ranges.iter().find_map(|r| {
            let place = Range::at(align_up(r.start.max(above), align)?, size)?;
            (place.end <= r.end.min(below)).then_some(place)
        })?;
        self.take(found)
    }

    /// Removes `range` if all of it is in the set.
    pub fn take(&mut self, range: Range) -> Option<Range> {
        if range.is_empty() || !self.contains_range(&range) {
            return None;
        }
        self.remove(range).ok()?;
        Some(range)
    }
}
