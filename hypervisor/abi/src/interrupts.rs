//! Who interrupted a core: one table for each core, which that core alone
//! writes while its interrupts exit, and anyone reads in place.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::BACKTRACE_FRAMES;
use crate::trace::InterruptKind;

/// Sources that are told apart for one core; all others are counted together.
pub const SOURCES: usize = 128;
/// Places among them for sources whose callers found no place: they are told
/// apart without them.
const COARSE: usize = 40;
/// Return addresses of a sender by which sources are told apart.
const CALLERS: usize = 6;

/// One core's table. Zero is empty.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct InterruptTable {
    /// 1: the core's interrupts exit now.
    pub watching: AtomicU64,
    /// TSC at which the table was last emptied.
    pub since: AtomicU64,
    /// Interrupts whose sources found no place.
    pub others: AtomicU64,
    /// Zero.
    pub reserved: [AtomicU64; 5],
    /// What interrupted it. A source keeps its place until the table is
    /// emptied.
    pub sources: [InterruptEntry; SOURCES],
}

const _: () = assert!(size_of::<InterruptTable>() == 6 * 4096);

/// One source of interrupts, as it stands in the table.
#[derive(Debug)]
#[repr(C)]
pub struct InterruptEntry {
    /// Hash of what tells sources apart; 0: free.
    key: AtomicU64,
    /// Vector, kind << 8, core that sent it plus one << 16.
    what: AtomicU32,
    /// See [`Source::detail`].
    detail: AtomicU32,
    /// How often it came.
    pub count: AtomicU64,
    /// TSC at the last time.
    pub tsc: AtomicU64,
    /// Guest RIP at the last time.
    pub rip: AtomicU64,
    /// See [`Source::trail`].
    frames: [AtomicU64; BACKTRACE_FRAMES],
}

const _: () = assert!(size_of::<InterruptEntry>() == 40 + 8 * BACKTRACE_FRAMES);

/// What interrupts a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The vector; 2 for an NMI.
    pub vector: u8,
    /// Of which kind it is.
    pub kind: InterruptKind,
    /// The PCI function (bus << 8 | device << 3 | function) of an MSI, the
    /// global interrupt number of an I/O APIC's pin; else 0.
    pub detail: u32,
    /// The core that sent it.
    pub sender: Option<u32>,
    /// Return addresses of the sender at that moment, innermost first; then
    /// zeros.
    pub trail: [u64; BACKTRACE_FRAMES],
}

impl InterruptTable {
    /// Counts an interrupt of the guest that stood at `rip`. Only the core
    /// itself may call this.
    pub fn add(&self, source: &Source, tsc: u64, rip: u64) {
        let coarse = Source {
            trail: [0; BACKTRACE_FRAMES],
            ..*source
        };
        let place = |source: &Source, places: usize| {
            let key = source.key();
            let entry = self.sources.iter().take(places).find(|entry| {
                let known = entry.key.load(Ordering::Relaxed);
                known == key || known == 0
            })?;
            entry.key.store(key, Ordering::Relaxed);
            Some((entry, source.trail))
        };
        let found = place(source, SOURCES - COARSE).or_else(|| place(&coarse, SOURCES));
        let Some((entry, trail)) = found else {
            self.others.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let sender = source.sender.map_or(0, |sender| sender + 1);
        let what = u32::from(source.vector) | (source.kind as u32) << 8 | sender << 16;
        entry.what.store(what, Ordering::Relaxed);
        entry.detail.store(source.detail, Ordering::Relaxed);
        entry.rip.store(rip, Ordering::Relaxed);
        for (to, from) in entry.frames.iter().zip(trail) {
            to.store(from, Ordering::Relaxed);
        }
        entry.tsc.store(tsc, Ordering::Relaxed);
        entry.count.fetch_add(1, Ordering::Release);
    }

    /// Empties it, at `tsc`. Only the core itself may call this.
    pub fn clear(&self, tsc: u64) {
        for entry in &self.sources {
            entry.count.store(0, Ordering::Relaxed);
            entry.key.store(0, Ordering::Relaxed);
        }
        self.others.store(0, Ordering::Relaxed);
        self.since.store(tsc, Ordering::Release);
    }

    /// The sources that there are, and their places.
    pub fn sources(&self) -> impl Iterator<Item = (usize, Source, &InterruptEntry)> {
        let all = self.sources.iter().enumerate();
        all.filter_map(|(place, entry)| Some((place, entry.source()?, entry)))
    }
}

impl InterruptEntry {
    /// Who it is; `None` while the place is free.
    #[must_use]
    pub fn source(&self) -> Option<Source> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let [vector, kind, sender, _] = self.what.load(Ordering::Relaxed).to_le_bytes();
        let mut source = Source {
            vector,
            kind: InterruptKind::from_code(kind),
            detail: self.detail.load(Ordering::Relaxed),
            sender: u32::from(sender).checked_sub(1),
            trail: [0; BACKTRACE_FRAMES],
        };
        for (to, from) in source.trail.iter_mut().zip(&self.frames) {
            *to = from.load(Ordering::Relaxed);
        }
        Some(source)
    }
}

impl Source {
    /// What tells sources apart: all but the moment. Never 0. (FNV-1a.)
    fn key(&self) -> u64 {
        const PRIME: u64 = 0x0100_0000_01b3;
        const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        let sender = self.sender.map_or(0, |sender| u64::from(sender) + 1);
        let what = u64::from(self.vector) | (self.kind as u64) << 8 | sender << 16;
        let words = [what, u64::from(self.detail)];
        words
            .iter()
            .chain(self.trail.iter().take(CALLERS))
            .flat_map(|word| word.to_le_bytes())
            .fold(BASIS, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(PRIME)
            })
            .max(1)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    fn table() -> InterruptTable {
        let zero = || AtomicU64::new(0);
        InterruptTable {
            watching: zero(),
            since: zero(),
            others: zero(),
            reserved: core::array::from_fn(|_| zero()),
            sources: core::array::from_fn(|_| InterruptEntry {
                key: zero(),
                what: AtomicU32::new(0),
                detail: AtomicU32::new(0),
                count: zero(),
                tsc: zero(),
                rip: zero(),
                frames: core::array::from_fn(|_| zero()),
            }),
        }
    }

    fn ipi(vector: u8, caller: u64) -> Source {
        let mut trail = [0; BACKTRACE_FRAMES];
        trail[0] = caller;
        Source {
            vector,
            kind: InterruptKind::Ipi,
            detail: 0,
            sender: Some(63),
            trail,
        }
    }

    fn counts(table: &InterruptTable) -> Vec<(u8, u64)> {
        let sources = table.sources();
        sources
            .map(|(_, source, entry)| (source.vector, entry.count.load(Ordering::Relaxed)))
            .collect()
    }

    #[test]
    fn sources_are_told_apart_and_read_as_they_came() {
        let table = table();
        assert_eq!(counts(&table), []);
        for (vector, caller) in [(0xfb, 1), (0xfb, 1), (0xfc, 1), (0xfb, 2)] {
            table.add(&ipi(vector, caller), 7, 8);
        }
        assert_eq!(counts(&table), [(0xfb, 2), (0xfc, 1), (0xfb, 1)]);
        let (_, first, entry) = table.sources().next().unwrap();
        assert_eq!(first, ipi(0xfb, 1));
        assert_eq!(entry.tsc.load(Ordering::Relaxed), 7);
        table.clear(9);
        assert_eq!(counts(&table), []);
        assert_eq!(table.since.load(Ordering::Relaxed), 9);
    }

    #[test]
    fn beyond_the_table_callers_and_then_sources_are_counted_together() {
        let table = table();
        for caller in 1..=200 {
            table.add(&ipi(0xfb, caller), 0, 0);
        }
        let sum: u64 = counts(&table).iter().map(|(_, count)| count).sum();
        assert_eq!(sum, 200);
        assert!(counts(&table).contains(&(0xfb, 200 - 88)));
        for vector in 0..100 {
            table.add(&ipi(vector, 1000), 0, 0);
        }
        let others = table.others.load(Ordering::Relaxed);
        let sum: u64 = counts(&table).iter().map(|(_, count)| count).sum();
        assert_eq!((sum, others), (300 - 61, 61));
    }
}
