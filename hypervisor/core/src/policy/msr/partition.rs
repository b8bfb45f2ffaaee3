//! A partition's MSRs: a short list, and #GP for all else.

use super::{MsrAction, MsrContext, index};

/// What a long-mode program needs for itself: system-call entry, segment
/// bases, TSC_AUX (AMD APM vol. 2 appendix A; Intel SDM vol. 4).
fn own(msr: u32) -> bool {
    matches!(
        msr,
        index::SYSENTER_CS..=index::SYSENTER_EIP
            | index::STAR..=index::SFMASK
            | index::FS_BASE..=index::KERNEL_GS_BASE
            | index::TSC_AUX
    )
}

/// Registers of the x2APIC that a partition with `apic = true` may read: all
/// that there are, the ICR among them.
fn apic_readable(msr: u32) -> bool {
    matches!(
        msr,
        index::TSC_DEADLINE
            // ID, version; TPR, PPR; LDR.
            | 0x802..=0x803
            | 0x808
            | 0x80a
            | 0x80d
            // SVR; ISR, TMR, IRR; ESR; CMCI.
            | 0x80f..=0x828
            | 0x82f..=0x830
            // LVTs; initial and current count; divide configuration.
            | 0x832..=0x839
            | 0x83e
    )
}

/// Registers of the x2APIC that such a partition may write without an exit:
/// none that sends to another core.
fn apic_writable(msr: u32) -> bool {
    matches!(
        msr,
        index::TSC_DEADLINE
            // TPR, EOI, SVR, ESR.
            | 0x808
            | 0x80b
            | 0x80f
            | 0x828
            // LVT timer; initial count; divide configuration; self IPI.
            | 0x832
            | 0x838
            | 0x83e..=0x83f
    )
}

pub(super) fn reads_directly(msr: u32, apic: bool, context: &MsrContext) -> bool {
    own(msr)
        || matches!(msr, index::TSC | index::MPERF..=index::APERF)
        || (msr == index::PAT && context.pat_direct)
        || (apic && (apic_readable(msr) || msr == index::APIC_BASE))
}

pub(super) fn writes_directly(msr: u32, apic: bool, context: &MsrContext) -> bool {
    own(msr) || (msr == index::PAT && context.pat_direct) || (apic && apic_writable(msr))
}

pub(super) fn read(msr: u32, apic: bool, context: &MsrContext) -> MsrAction {
    match msr {
        index::EFER => MsrAction::Efer,
        index::PAT if !context.pat_direct => MsrAction::Pat,
        _ if reads_directly(msr, apic, context) => MsrAction::PassThrough,
        _ => MsrAction::Fault,
    }
}

pub(super) fn write(msr: u32, apic: bool, context: &MsrContext) -> MsrAction {
    match msr {
        index::EFER => MsrAction::Efer,
        index::PAT if !context.pat_direct => MsrAction::Pat,
        index::X2APIC_ICR if apic => MsrAction::X2apicIcr,
        _ if writes_directly(msr, apic, context) => MsrAction::PassThrough,
        _ => MsrAction::Fault,
    }
}
