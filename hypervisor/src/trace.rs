//! Traces of exits, into each core's ring, while DEBUG is on.

use core::fmt::Write as _;

use cloister_abi::trace::{FRAMES_PER_RECORD, TraceRecord};
use cloister_abi::{Dataplane, Reason};
use heapless::Vec;

use crate::partition::backtrace;
use crate::run::Core;
use crate::virt::{Exit, Frequent, Vcpu, Vendor, reg};
use crate::watch::{self, Source};

/// Appends a record to this core's ring, if it is to be traced: `about` is what
/// [`about`] said before the exit was served. That of an interrupt says who sent
/// it, and is followed by what it interrupted.
pub(crate) fn record<V: Vendor>(
    core: &mut Core<V>,
    reason: Reason,
    about: u64,
    rip: u64,
    tsc: u64,
    cycles: u64,
) {
    if !core.dataplane.contains(Dataplane::DEBUG) {
        return;
    }
    let Some(ring) = core.shared.trace() else {
        return;
    };
    // Who sent an interrupt is known once it has been served.
    let (source, about, frames) = if matches!(reason, Reason::Interrupt | Reason::Nmi) {
        let frames = backtrace::take::<V>(core.guest, &core.vcpu);
        (core.last_source, number(&core.last_source), frames)
    } else {
        (Source::default(), about, Vec::new())
    };
    ring.append(&TraceRecord {
        sequence: 0,
        tsc,
        rip,
        qualification: about,
        cr3: core.vcpu.cr3(),
        cycles,
        reason: reason as u8,
        vector: source.vector,
        source: source.kind as u8,
        frames: u8::try_from(frames.len()).unwrap_or(0),
        sender: source.sender.unwrap_or(u32::MAX),
        sender_rip: source.trail[0],
    });
    // The first return address is RIP.
    for rest in frames.get(1..).unwrap_or(&[]).chunks(FRAMES_PER_RECORD) {
        ring.append(&TraceRecord::continuation(rest));
    }
}

/// An interrupt as a number: its vector, and device or pin.
fn number(source: &Source) -> u64 {
    u64::from(source.vector) | u64::from(source.detail) << 32
}

/// What an exit is about, as a number. Called before it is served, which changes
/// the registers that say it.
pub(crate) fn about<V: Vendor>(core: &mut Core<V>, exit: &Exit) -> u64 {
    match *exit {
        Exit::Frequent(Frequent::Cpuid | Frequent::Hypercall) => core.vcpu.register(reg::RAX),
        Exit::Frequent(Frequent::Rdmsr | Frequent::Wrmsr) | Exit::Xsetbv => {
            core.vcpu.register(reg::RCX)
        }
        Exit::Frequent(Frequent::Port(access)) => u64::from(access.port()),
        Exit::Frequent(Frequent::NestedPageFault { gpa, .. }) => gpa,
        Exit::Exception { vector, .. } => u64::from(vector),
        Exit::ExternalInterrupt { .. } => number(&core.last_source),
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
    let value = about(core, exit);
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
        Exit::ExternalInterrupt { .. } => {
            let source = &core.last_source;
            let (kind, origin) = (source.kind.name(), watch::origin(source));
            write!(text, "vector {} {kind} {origin}", source.vector)
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
