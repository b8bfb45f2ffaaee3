//! What the counters must have moved by.

use core::sync::atomic::Ordering::Relaxed;

use cloister_runtime::abi::reason::COUNT;
use cloister_runtime::{CoreCounters, Dataplane, Reason};

/// The exits of one core since [`Expected::new`], as they should be.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    before: [u64; COUNT],
    provoked: [u64; COUNT],
    /// Exits since the core last became quiet; `None` if it never did.
    since_quiesce: Option<u64>,
    /// It is in a quiesced mode.
    quiet: bool,
}

/// A counter that is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// Name of the reason, or `since-quiesce`.
    pub what: &'static str,
    /// What was provoked.
    pub expected: u64,
    /// What was counted.
    pub got: u64,
}

impl Expected {
    /// From here on.
    #[must_use]
    pub fn new(counters: &CoreCounters) -> Self {
        Self {
            before: totals(counters),
            provoked: [0; COUNT],
            since_quiesce: None,
            quiet: false,
        }
    }

    /// `count` exits with `reason` were provoked.
    pub fn exits(&mut self, reason: Reason, count: u64) {
        self.add(reason, count);
        if self.quiet {
            self.since_quiesce = self.since_quiesce.map(|n| n.saturating_add(count));
        }
    }

    /// `set_dataplane(flags)` succeeded: an exit that does not count as one
    /// since the core became quiet.
    pub fn mode(&mut self, flags: Dataplane) {
        self.add(Reason::Hypercall, 1);
        self.quiet = flags.with_implied().contains(Dataplane::QUIESCE);
        if self.quiet {
            self.since_quiesce = Some(0);
        }
    }

    /// `set_dataplane` failed, which changes nothing.
    pub fn refused(&mut self) {
        self.add(Reason::Hypercall, 1);
    }

    fn add(&mut self, reason: Reason, count: u64) {
        let provoked = &mut self.provoked[reason as usize];
        *provoked = provoked.saturating_add(count);
    }

    /// Gives every counter that is not as expected to `report`; returns
    /// whether there was none. Kicks are the operator's, and not looked at.
    pub fn check(&self, counters: &CoreCounters, mut report: impl FnMut(Mismatch)) -> bool {
        let mut ok = true;
        let mut compare = |what, expected, got| {
            if expected != got {
                ok = false;
                report(Mismatch {
                    what,
                    expected,
                    got,
                });
            }
        };
        let after = totals(counters);
        for &reason in Reason::ALL.iter().filter(|&&r| r != Reason::Kick) {
            let index = reason as usize;
            let got = after[index].wrapping_sub(self.before[index]);
            compare(reason.name(), self.provoked[index], got);
        }
        if let Some(expected) = self.since_quiesce {
            let got = counters.since_quiesce.load(Relaxed);
            compare("since-quiesce", expected, got);
        }
        ok
    }
}

fn totals(counters: &CoreCounters) -> [u64; COUNT] {
    core::array::from_fn(|index| counters.reasons[index].total.load(Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mismatches(expected: &Expected, counters: &CoreCounters) -> Vec<Mismatch> {
        let mut all = Vec::new();
        let ok = expected.check(counters, |m| all.push(m));
        assert_eq!(ok, all.is_empty());
        all
    }

    #[test]
    fn one_exit_too_many_or_too_few_is_seen() {
        let counters = CoreCounters::new(2);
        let cpuid = &counters.reasons[Reason::Cpuid as usize].total;
        cpuid.store(5, Relaxed);
        let mut expected = Expected::new(&counters);
        assert!(mismatches(&expected, &counters).is_empty());
        expected.exits(Reason::Cpuid, 2);
        cpuid.store(6, Relaxed);
        let mismatch = Mismatch {
            what: "cpuid",
            expected: 2,
            got: 1,
        };
        assert_eq!(mismatches(&expected, &counters), [mismatch]);
        cpuid.store(7, Relaxed);
        assert!(mismatches(&expected, &counters).is_empty());
        counters.reasons[Reason::Halt as usize]
            .total
            .store(1, Relaxed);
        assert_eq!(mismatches(&expected, &counters).len(), 1);
    }

    #[test]
    fn only_exits_in_a_quiet_mode_count_since_quiesce() {
        let counters = CoreCounters::new(0);
        let hypercalls = &counters.reasons[Reason::Hypercall as usize].total;
        let mut expected = Expected::new(&counters);
        expected.exits(Reason::Hypercall, 1);
        expected.mode(Dataplane::DEBUG);
        expected.exits(Reason::Hypercall, 3);
        expected.refused();
        expected.mode(Dataplane::empty());
        expected.exits(Reason::Hypercall, 1);
        hypercalls.store(8, Relaxed);
        counters.since_quiesce.store(3, Relaxed);
        assert!(mismatches(&expected, &counters).is_empty());
        counters.since_quiesce.store(4, Relaxed);
        let mismatch = Mismatch {
            what: "since-quiesce",
            expected: 3,
            got: 4,
        };
        assert_eq!(mismatches(&expected, &counters), [mismatch]);
        expected.mode(Dataplane::QUIESCE);
        hypercalls.store(9, Relaxed);
        counters.since_quiesce.store(0, Relaxed);
        assert!(mismatches(&expected, &counters).is_empty());
    }
}
