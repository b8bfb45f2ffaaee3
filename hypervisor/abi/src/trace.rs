//! The trace ring of a core: fixed records, overwrite-oldest, one writer.
//!
//! A record is eight 64-bit words. The writer clears the sequence number,
//! writes the other words, then the number. A reader takes a record only if it
//! finds the number that it expects before and after: it may read while the
//! core runs, and never waits.

use core::sync::atomic::{AtomicU64, Ordering, fence};

/// What interrupted a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum InterruptKind {
    /// No interrupt.
    #[default]
    None = 0,
    /// An IPI from another core of the same guest.
    Ipi = 1,
    /// A message-signalled interrupt of a PCI function.
    Msi = 2,
    /// A pin of an I/O APIC.
    IoApic = 3,
    /// The local APIC timer.
    Timer = 4,
    /// The local APIC's performance counter entry.
    Performance = 5,
    /// Its thermal sensor entry.
    Thermal = 6,
    /// Its error entry.
    Error = 7,
    /// Its corrected machine check entry.
    Cmci = 8,
    /// Its pin LINT0 or LINT1: the legacy interrupt controller, as a rule.
    Lint = 9,
    /// A non-maskable interrupt.
    Nmi = 10,
    /// The local APIC says that it took none: the vector went away again.
    Spurious = 11,
    /// None of these is set up for the vector: an IPI to itself that does not
    /// exit (SELF IPI of an x2APIC), or a source that is set up otherwise now.
    Unknown = 12,
}

impl InterruptKind {
    /// Every kind, in value order.
    pub const ALL: [Self; 13] = [
        Self::None,
        Self::Ipi,
        Self::Msi,
        Self::IoApic,
        Self::Timer,
        Self::Performance,
        Self::Thermal,
        Self::Error,
        Self::Cmci,
        Self::Lint,
        Self::Nmi,
        Self::Spurious,
        Self::Unknown,
    ];

    /// Name in reports, kebab-case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ipi => "ipi",
            Self::Msi => "msi",
            Self::IoApic => "io-apic",
            Self::Timer => "lvt-timer",
            Self::Performance => "lvt-performance",
            Self::Thermal => "lvt-thermal",
            Self::Error => "lvt-error",
            Self::Cmci => "lvt-cmci",
            Self::Lint => "lvt-lint",
            Self::Nmi => "nmi",
            Self::Spurious => "spurious",
            Self::Unknown => "unknown",
        }
    }

    /// The kind with this value.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        Self::ALL
            .get(usize::from(code))
            .copied()
            .unwrap_or(Self::Unknown)
    }
}

/// One traced exit: 64 bytes in the ring, in this layout.
///
/// The return addresses of an interrupted guest do not fit: a record whose
/// `frames` is above 1 is followed by records with `reason`
/// [`CONTINUATION`], each with the next [`FRAMES_PER_RECORD`] addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TraceRecord {
    /// Number of this record since boot, from 1; 0 marks an empty slot.
    pub sequence: u64,
    /// TSC at the exit.
    pub tsc: u64,
    /// Guest RIP.
    pub rip: u64,
    /// What the exit was about: port, MSR, CPUID leaf, GPA, hypercall, vector.
    /// The upper half, of an interrupt: the PCI function (bus << 8 | device << 3
    /// | function) of an MSI, the global interrupt number of an I/O APIC's pin.
    pub qualification: u64,
    /// Guest CR3.
    pub cr3: u64,
    /// TSC cycles spent in the hypervisor.
    pub cycles: u64,
    /// [`crate::Reason`] as a number, or [`CONTINUATION`].
    pub reason: u8,
    /// Interrupt vector, or 0.
    pub vector: u8,
    /// [`InterruptKind`] as a number.
    pub source: u8,
    /// Return addresses of the guest, RIP included; 0 where none were taken.
    pub frames: u8,
    /// Core that sent the interrupt, or `u32::MAX`.
    pub sender: u32,
    /// RIP of the instruction on that core which sent it, or 0.
    pub sender_rip: u64,
}

/// [`TraceRecord::reason`] of a record that goes on with return addresses.
pub const CONTINUATION: u8 = u8::MAX;
/// Return addresses in a continuation record.
pub const FRAMES_PER_RECORD: usize = 6;

type Words = [u64; 8];

impl TraceRecord {
    fn words(&self) -> Words {
        let packed = u64::from(self.reason)
            | u64::from(self.vector) << 8
            | u64::from(self.source) << 16
            | u64::from(self.frames) << 24
            | u64::from(self.sender) << 32;
        [
            self.sequence,
            self.tsc,
            self.rip,
            self.qualification,
            self.cr3,
            self.cycles,
            packed,
            self.sender_rip,
        ]
    }

    fn from_words(words: &Words) -> Self {
        let [
            sequence,
            tsc,
            rip,
            qualification,
            cr3,
            cycles,
            packed,
            sender_rip,
        ] = *words;
        let [reason, vector, source, frames, sender @ ..] = packed.to_le_bytes();
        Self {
            sequence,
            tsc,
            rip,
            qualification,
            cr3,
            cycles,
            reason,
            vector,
            source,
            frames,
            sender: u32::from_le_bytes(sender),
            sender_rip,
        }
    }

    /// A record that goes on with up to [`FRAMES_PER_RECORD`] return
    /// addresses.
    #[must_use]
    pub fn continuation(frames: &[u64]) -> Self {
        let at = |index: usize| frames.get(index).copied().unwrap_or(0);
        Self {
            tsc: at(0),
            rip: at(1),
            qualification: at(2),
            cr3: at(3),
            cycles: at(4),
            sender_rip: at(5),
            reason: CONTINUATION,
            sender: u32::MAX,
            ..Self::default()
        }
    }

    /// The return addresses of a continuation record; past the last, zeros.
    #[must_use]
    pub const fn continued(&self) -> [u64; FRAMES_PER_RECORD] {
        [
            self.tsc,
            self.rip,
            self.qualification,
            self.cr3,
            self.cycles,
            self.sender_rip,
        ]
    }
}

/// Records in one ring.
pub const TRACE_RECORDS: usize = 255;

/// The ring: 16 KiB. All zero is an empty one.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct TraceRing {
    /// Number of records ever written; the next goes to slot
    /// `written % TRACE_RECORDS`.
    pub written: AtomicU64,
    /// Unused, 0.
    pub reserved: [AtomicU64; 7],
    /// The slots.
    pub records: [[AtomicU64; 8]; TRACE_RECORDS],
}

const _: () = assert!(size_of::<TraceRing>() == 16384);
const _: () = assert!(size_of::<TraceRecord>() == 64);
const _: () = assert!(core::mem::offset_of!(TraceRecord, sender) == 52);
const _: () = assert!(core::mem::offset_of!(TraceRecord, sender_rip) == 56);
const _: () = assert!(size_of::<[AtomicU64; 8]>() == 64);

impl TraceRing {
    fn slot(&self, count: u64) -> Option<&[AtomicU64; 8]> {
        self.records
            .get(usize::try_from(count % TRACE_RECORDS as u64).ok()?)
    }

    /// Appends `record`, whose sequence number it sets, over the oldest. Only
    /// the ring's core calls this.
    pub fn append(&self, record: &TraceRecord) {
        let count = self.written.load(Ordering::Relaxed);
        let Some([sequence, rest @ ..]) = self.slot(count) else {
            return;
        };
        let [_, words @ ..] = record.words();
        sequence.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        for (to, from) in rest.iter().zip(words) {
            to.store(from, Ordering::Relaxed);
        }
        sequence.store(count + 1, Ordering::Release);
        self.written.store(count + 1, Ordering::Release);
    }

    /// Gives the records that are still there to `sink`, oldest first. Returns
    /// how many were ever written, and how many of them are lost: overwritten
    /// before, or while they were read.
    pub fn read(&self, mut sink: impl FnMut(&TraceRecord)) -> (u64, u64) {
        let written = self.written.load(Ordering::Acquire);
        let mut seen = 0;
        for count in written.saturating_sub(TRACE_RECORDS as u64)..written {
            let Some(slot) = self.slot(count) else {
                continue;
            };
            let mut words = [0; 8];
            for (to, from) in words.iter_mut().zip(slot) {
                *to = from.load(Ordering::Acquire);
            }
            fence(Ordering::Acquire);
            let after = slot[0].load(Ordering::Relaxed);
            if words[0] == count + 1 && after == count + 1 {
                seen += 1;
                sink(&TraceRecord::from_words(&words));
            }
        }
        (written, written - seen)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    extern crate std;

    use std::{vec, vec::Vec};

    use super::*;

    fn ring() -> TraceRing {
        TraceRing {
            written: AtomicU64::new(0),
            reserved: core::array::from_fn(|_| AtomicU64::new(0)),
            records: core::array::from_fn(|_| core::array::from_fn(|_| AtomicU64::new(0))),
        }
    }

    fn read(ring: &TraceRing) -> (Vec<TraceRecord>, u64, u64) {
        let mut all = Vec::new();
        let (written, lost) = ring.read(|record| all.push(*record));
        (all, written, lost)
    }

    #[test]
    fn what_is_written_is_read() {
        let ring = ring();
        assert_eq!(read(&ring), (vec![], 0, 0));
        let record = TraceRecord {
            sequence: 1,
            tsc: 2,
            rip: 3,
            qualification: 4,
            cr3: 5,
            cycles: 6,
            reason: 7,
            vector: 8,
            source: 9,
            frames: 10,
            sender: 0x1234_5678,
            sender_rip: u64::MAX,
        };
        ring.append(&record);
        assert_eq!(read(&ring), (vec![record], 1, 0));
    }

    #[test]
    fn the_oldest_are_lost_and_counted() {
        let ring = ring();
        for tsc in 1..=TRACE_RECORDS as u64 + 3 {
            ring.append(&TraceRecord {
                tsc,
                ..TraceRecord::default()
            });
        }
        let (records, written, lost) = read(&ring);
        assert_eq!((written, lost), (258, 3));
        assert_eq!(records.len(), TRACE_RECORDS);
        assert!(
            records
                .iter()
                .zip(4..)
                .all(|(r, n)| r.sequence == n && r.tsc == n)
        );
    }

    #[test]
    fn a_record_being_written_is_not_read() {
        let ring = ring();
        ring.append(&TraceRecord::default());
        ring.append(&TraceRecord::default());
        ring.records[0][0].store(0, Ordering::Relaxed);
        let (records, written, lost) = read(&ring);
        assert_eq!((records.len(), written, lost), (1, 2, 1));
    }

    /// Every record that is read while the core writes is whole, and comes in
    /// order.
    #[test]
    fn the_ring_is_read_while_it_is_written() {
        const RECORDS: u64 = 200_000;
        let ring = ring();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for tsc in 1..=RECORDS {
                    ring.append(&TraceRecord {
                        tsc,
                        rip: tsc,
                        qualification: tsc,
                        cr3: tsc,
                        cycles: tsc,
                        sender_rip: tsc,
                        ..TraceRecord::default()
                    });
                }
            });
            let mut last = 0;
            while last < RECORDS {
                let mut previous = 0;
                let (written, lost) = ring.read(|record| {
                    let words = [record.tsc, record.rip, record.qualification];
                    let more = [record.cr3, record.cycles, record.sender_rip];
                    assert_eq!(words, [record.sequence; 3]);
                    assert_eq!(more, [record.sequence; 3]);
                    assert!(record.sequence > previous);
                    previous = record.sequence;
                });
                assert!(written >= last && lost <= written);
                last = written;
            }
        });
        let (records, written, lost) = read(&ring);
        assert_eq!(written, RECORDS);
        assert_eq!(records.len() as u64, RECORDS - lost);
    }

    #[test]
    fn return_addresses_go_on() {
        let record = TraceRecord::continuation(&[1, 2, 3, 4, 5, 6]);
        assert_eq!(record.continued(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(record.reason, CONTINUATION);
        assert_eq!(
            TraceRecord::continuation(&[9]).continued(),
            [9, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn kinds_have_their_codes() {
        for kind in InterruptKind::ALL {
            assert_eq!(InterruptKind::from_code(kind as u8), kind);
        }
        assert_eq!(InterruptKind::from_code(200), InterruptKind::Unknown);
    }
}
