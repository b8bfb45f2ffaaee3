//! The trace ring of a core: fixed records, overwrite-oldest, one writer.

use core::sync::atomic::AtomicU64;

/// One traced exit. `repr(C)`, 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TraceRecord {
    /// Number of this record since boot, from 1; 0 marks an empty slot. A
    /// reader that sees a number other than the expected one was overtaken.
    pub sequence: u64,
    /// TSC at the exit.
    pub tsc: u64,
    /// Guest RIP.
    pub rip: u64,
    /// What the exit was about: port, MSR, CPUID leaf, GPA, vector, hypercall.
    pub qualification: u64,
    /// Guest CR3.
    pub cr3: u64,
    /// TSC cycles spent in the hypervisor.
    pub cycles: u64,
    /// [`crate::Reason`] as a number.
    pub reason: u8,
    /// Interrupt vector, or 0.
    pub vector: u8,
    /// Kind of interrupt source, or 0.
    pub source: u8,
    /// Unused, 0.
    pub reserved: u8,
    /// Core that sent the interrupt, or `u32::MAX`.
    pub sender: u32,
    /// Unused, 0.
    pub reserved2: u64,
}

const _: () = assert!(size_of::<TraceRecord>() == 64);

/// Records in one ring.
pub const TRACE_RECORDS: usize = 255;

/// The ring: 16 KiB.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct TraceRing {
    /// Number of records ever written; the next goes to slot
    /// `written % TRACE_RECORDS`.
    pub written: AtomicU64,
    /// Unused, 0.
    pub reserved: [u64; 7],
    /// The slots.
    pub records: [TraceRecord; TRACE_RECORDS],
}

const _: () = assert!(size_of::<TraceRing>() == 16384);
