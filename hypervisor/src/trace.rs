//! Traces of exits, into each core's ring, while DEBUG or `linux.debug` is on.

use core::fmt::Write as _;
use core::sync::atomic::{Ordering, fence};

use cloister_abi::trace::{TRACE_RECORDS, TraceRecord, TraceRing};
use cloister_abi::{Dataplane, Reason};

use crate::run::Core;
use crate::virt::{Exit, Frequent, Vcpu, Vendor, reg};

/// Appends a record to this core's ring, if it is to be traced.
pub(crate) fn record<V: Vendor>(
    core: &mut Core<V>,
    reason: Reason,
    exit: &Exit,
    rip: u64,
    tsc: u64,
    cycles: u64,
) {
    if !core.dataplane.contains(Dataplane::DEBUG) && !core.system.is_watched(core.number) {
        return;
    }
    let Some(ring) = core.shared.trace() else {
        return;
    };
    let vector = if reason == Reason::Interrupt {
        core.last_vector
    } else {
        0
    };
    let mut record = TraceRecord {
        sequence: 0,
        tsc,
        rip,
        qualification: qualification(core, exit),
        cr3: core.vcpu.cr3(),
        cycles,
        reason: reason as u8,
        vector,
        source: 0,
        reserved: 0,
        sender: u32::MAX,
        reserved2: 0,
    };
    // SAFETY: the ring is this core's: nobody else writes it. Readers see a
    // record as empty while it is written.
    unsafe {
        let written = &(*ring).written;
        let count = written.load(Ordering::Relaxed);
        let slot = (&raw mut (*ring).records)
            .cast::<TraceRecord>()
            .add(usize::try_from(count).unwrap_or(0) % TRACE_RECORDS);
        slot.write_volatile(record);
        fence(Ordering::Release);
        record.sequence = count + 1;
        (&raw mut (*slot).sequence).write_volatile(record.sequence);
        written.store(count + 1, Ordering::Release);
    }
}

/// Calls `sink` with the records of the ring at `ring`, oldest first, and
/// returns how many were ever written.
///
/// # Safety
/// `ring` is a core's ring.
pub(crate) unsafe fn read(ring: *const TraceRing, mut sink: impl FnMut(&TraceRecord)) -> u64 {
    // SAFETY: the caller's; records are copied volatile, and taken only if
    // their number is the one expected before and after.
    unsafe {
        let written = (*ring).written.load(Ordering::Acquire);
        let first = written.saturating_sub(TRACE_RECORDS as u64);
        for count in first..written {
            let slot = (&raw const (*ring).records)
                .cast::<TraceRecord>()
                .add(usize::try_from(count).unwrap_or(0) % TRACE_RECORDS);
            let record = slot.read_volatile();
            fence(Ordering::Acquire);
            let after = (&raw const (*slot).sequence).read_volatile();
            if record.sequence == count + 1 && after == count + 1 {
                sink(&record);
            }
        }
        written
    }
}

/// What an exit was about, as a number.
fn qualification<V: Vendor>(core: &mut Core<V>, exit: &Exit) -> u64 {
    match *exit {
        Exit::Frequent(Frequent::Cpuid | Frequent::Hypercall) => core.vcpu.register(reg::RAX),
        Exit::Frequent(Frequent::Rdmsr | Frequent::Wrmsr) | Exit::Xsetbv => {
            core.vcpu.register(reg::RCX)
        }
        Exit::Frequent(Frequent::Port(access)) => u64::from(access.port()),
        Exit::Frequent(Frequent::NestedPageFault { gpa, .. }) => gpa,
        Exit::Exception { vector, .. } => u64::from(vector),
        Exit::ExternalInterrupt { .. } => u64::from(core.last_vector),
        Exit::Sipi { vector } => u64::from(vector),
        Exit::ControlRegister { qualification, .. } | Exit::Other { qualification, .. } => {
            qualification
        }
        Exit::EntryFailure { code } => code,
        _ => 0,
    }
}

/// What an exit was about, for people. Called before it is served.
pub(crate) fn describe<V: Vendor>(core: &mut Core<V>, exit: &Exit) -> heapless::String<128> {
    let mut text = heapless::String::new();
    let value = qualification(core, exit);
    let _ = match *exit {
        Exit::Frequent(Frequent::Cpuid) => {
            let subleaf = core.vcpu.register(reg::RCX) & 0xffff_ffff;
            write!(text, "leaf {:#x} subleaf {subleaf:#x}", value & 0xffff_ffff)
        }
        Exit::Frequent(Frequent::Hypercall) => write!(text, "hypercall {value}"),
        Exit::Frequent(Frequent::Rdmsr) => write!(text, "msr {:#x}", value & 0xffff_ffff),
        Exit::Frequent(Frequent::Wrmsr) => {
            let new = core.vcpu.edx_eax();
            write!(text, "msr {:#x} value {new:#x}", value & 0xffff_ffff)
        }
        Exit::Xsetbv => write!(text, "xcr{value}"),
        Exit::Frequent(Frequent::Port(access)) => {
            write!(text, "port {:#x} width {}", access.port(), access.width())
        }
        Exit::Frequent(Frequent::NestedPageFault { gpa, access, .. }) => {
            write!(text, "{access:?} gpa {gpa:#x}")
        }
        Exit::Exception { vector, error, .. } => {
            write!(text, "vector {vector} error {:#x}", error.unwrap_or(0))
        }
        Exit::ControlRegister { qualification, .. } => write!(text, "access {qualification:#x}"),
        Exit::Other {
            code,
            qualification,
        } => write!(text, "code {code:#x} {qualification:#x}"),
        Exit::EntryFailure { code } => write!(text, "code {code:#x}"),
        _ => Ok(()),
    };
    text
}
