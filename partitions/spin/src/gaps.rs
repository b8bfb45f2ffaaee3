//! Statistics of the time between two reads of the time-stamp counter.

/// Buckets of the histogram: one for each power of two of cycles.
pub const BUCKETS: usize = 64;

/// All gaps of a run, in TSC cycles.
#[derive(Clone, Debug)]
pub struct Gaps {
    /// The shortest; `u64::MAX` before the first.
    pub min: u64,
    /// The longest.
    pub max: u64,
    /// How many were longer than the threshold.
    pub over: u64,
    threshold: u64,
    buckets: [u64; BUCKETS],
}

impl Gaps {
    /// No gap yet; those longer than `threshold` cycles will be counted.
    #[must_use]
    pub const fn new(threshold: u64) -> Self {
        Self {
            min: u64::MAX,
            max: 0,
            over: 0,
            threshold,
            buckets: [0; BUCKETS],
        }
    }

    /// Takes one gap in.
    #[inline(always)]
    pub fn add(&mut self, gap: u64) {
        self.buckets[bucket(gap)] += 1;
        self.min = self.min.min(gap);
        self.max = self.max.max(gap);
        self.over += u64::from(gap > self.threshold);
    }

    /// How many were longer than this is `over`, in cycles.
    #[must_use]
    pub const fn threshold(&self) -> u64 {
        self.threshold
    }

    /// All gaps.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The buckets that hold a gap: bounds in cycles (from, to inclusive), and
    /// how many.
    pub fn histogram(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        (0u32..)
            .zip(self.buckets)
            .filter(|&(_, count)| count != 0)
            .map(|(power, count)| {
                let from = if power == 0 { 0 } else { 1u64 << power };
                (from, u64::MAX >> (63 - power), count)
            })
    }

    /// Upper bound of the bucket that holds the median; 0 without a gap.
    #[must_use]
    pub fn median(&self) -> u64 {
        let half = self.count().div_ceil(2);
        let mut seen = 0;
        self.histogram()
            .find(|&(_, _, count)| {
                seen += count;
                seen >= half
            })
            .map_or(0, |(_, to, _)| to)
    }
}

/// Bucket of `gap`: the position of its highest bit; 0 for 0.
#[inline(always)]
const fn bucket(gap: u64) -> usize {
    63 - (gap | 1).leading_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_gap_is_in_the_bucket_of_its_highest_bit() {
        let mut gaps = Gaps::new(100);
        for gap in [0, 1, 2, 3, 4, 100, 101, u64::MAX] {
            gaps.add(gap);
        }
        let histogram: Vec<_> = gaps.histogram().collect();
        assert_eq!(
            histogram,
            [
                (0, 1, 2),
                (2, 3, 2),
                (4, 7, 1),
                (64, 127, 2),
                (1 << 63, u64::MAX, 1)
            ]
        );
        assert_eq!((gaps.min, gaps.max, gaps.over), (0, u64::MAX, 2));
        assert_eq!(gaps.count(), 8);
    }

    #[test]
    fn the_median_ignores_one_outlier() {
        let mut gaps = Gaps::new(0);
        assert_eq!(gaps.median(), 0);
        for gap in [30, 31, 29, 1_000_000] {
            gaps.add(gap);
        }
        assert_eq!(gaps.median(), 31);
    }
}
