//! Statistics of one instruction, timed again and again.

/// The most samples that are kept.
pub const CAPACITY: usize = 1024;

/// Shortest, middle and longest of some samples, TSC cycles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The shortest.
    pub min: u32,
    /// The one in the middle; of an even number the upper of the two.
    pub median: u32,
    /// The longest.
    pub max: u32,
}

impl Summary {
    /// Takes `count` samples, at least 1 and at most [`CAPACITY`], from
    /// `sample`.
    pub fn take(count: usize, mut sample: impl FnMut() -> u32) -> Self {
        let mut samples = [0; CAPACITY];
        let samples = &mut samples[..count.clamp(1, CAPACITY)];
        for place in samples.iter_mut() {
            *place = sample();
        }
        samples.sort_unstable();
        Self {
            min: samples[0],
            median: samples[samples.len() / 2],
            max: samples[samples.len() - 1],
        }
    }

    /// What the instruction added over its native cost: each figure less
    /// `empty`, the same sequence without the instruction, and less 1, the
    /// instruction itself.
    #[must_use]
    pub fn added(self, empty: u32) -> Self {
        let added = |cycles: u32| cycles.saturating_sub(empty).saturating_sub(1);
        Self {
            min: added(self.min),
            median: added(self.median),
            max: added(self.max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(samples: &[u32]) -> Summary {
        let mut left = samples.iter().copied();
        Summary::take(samples.len(), || left.next().unwrap())
    }

    #[test]
    fn order_does_not_matter() {
        let summary = take(&[9, 3, 5]);
        assert_eq!((summary.min, summary.median, summary.max), (3, 5, 9));
        assert_eq!(take(&[4, 2]).median, 4);
        assert_eq!(take(&[7]), take(&[7, 7, 7]));
    }

    #[test]
    fn the_sequence_around_it_and_the_instruction_itself_are_taken_off() {
        let added = take(&[105, 106, 200]).added(5);
        assert_eq!((added.min, added.median, added.max), (99, 100, 194));
        assert_eq!(take(&[5]).added(5).min, 0);
    }

    #[test]
    fn no_more_samples_than_there_is_room_for() {
        let mut taken = 0;
        Summary::take(CAPACITY + 1, || {
            taken += 1;
            1
        });
        assert_eq!(taken, CAPACITY);
    }
}
