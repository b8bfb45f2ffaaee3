//! Linux's MSRs.

use core::ops::RangeInclusive;

use super::{MsrAction, MsrContext, Vendor, index};

/// MSRs of paravirtual interfaces (Microsoft TLFS; KVM): a hypervisor below
/// Cloister would take physical addresses from them.
const PARAVIRTUAL: [RangeInclusive<u32>; 2] =
    [0x4000_0000..=0x4000_ffff, 0x4b56_4d00..=0x4b56_4dff];

/// Written by Linux without an exit, on both vendors: its own core's, and hot.
const WRITES_DIRECT: &[RangeInclusive<u32>] = &[
    index::SPEC_CTRL..=index::PRED_CMD,
    index::SYSENTER_CS..=index::SYSENTER_EIP,
    // XFD, XFD_ERR: extended feature disable, switched with the task.
    0x1c4..=0x1c5,
    index::TSC_DEADLINE..=index::TSC_DEADLINE,
    // STAR, LSTAR, CSTAR, SFMASK. EFER, before them, never: on AMD its SVME
    // bit must stay set.
    index::STAR..=index::SFMASK,
    // FS_BASE, GS_BASE, KERNEL_GS_BASE.
    index::FS_BASE..=index::KERNEL_GS_BASE,
    index::TSC_AUX..=index::TSC_AUX,
];

/// Looked at, then written to the hardware, on both vendors: per-core
/// registers that Linux writes at boot and in drivers.
const WRITES: &[RangeInclusive<u32>] = &[
    index::TSC..=index::TSC,
    index::TSC_ADJUST..=index::TSC_ADJUST,
    index::MPERF..=index::APERF,
    // Machine check: MCG_STATUS, MCG_CTL; banks.
    0x17a..=0x17b,
    0x400..=0x47f,
    // MTRRs: variable, fixed, default type.
    0x200..=0x213,
    0x250..=0x250,
    0x258..=0x259,
    0x268..=0x26f,
    0x2ff..=0x2ff,
    // CET: U_CET, S_CET; PL0_SSP to PL3_SSP and the SSP table.
    0x6a0..=0x6a0,
    0x6a2..=0x6a2,
    0x6a4..=0x6a8,
    index::XSS..=index::XSS,
    // QM_EVTSEL; PQR_ASSOC, of which only the monitoring ID matters because
    // the allocation masks stay as firmware left them.
    0xc8d..=0xc8d,
    0xc8f..=0xc8f,
];

/// The same, Intel only.
const WRITES_INTEL: &[RangeInclusive<u32>] = &[
    index::TEST_CTRL..=index::TEST_CTRL,
    // Performance counters: PMCs, event selects, fixed, global, offcore
    // response, load latency, debug store, PEBS.
    0xc1..=0xc8,
    0x186..=0x18d,
    0x1a6..=0x1a7,
    0x309..=0x30c,
    0x38d..=0x390,
    0x3f1..=0x3f2,
    0x3f6..=0x3f7,
    0x4c1..=0x4c8,
    0x600..=0x600,
    // UMWAIT_CONTROL, TSX_FORCE_ABORT, TSX_CTRL, MCU_OPT_CTRL.
    0xe1..=0xe1,
    0x10f..=0x10f,
    0x122..=0x123,
    index::FLUSH_CMD..=index::FLUSH_CMD,
    // P-state request, thermal interrupt, status and clock modulation of the
    // core, MISC_ENABLE, MISC_FEATURE_ENABLES (CPUID faulting), prefetchers.
    0x140..=0x140,
    0x199..=0x19c,
    0x1a0..=0x1a0,
    0x1a4..=0x1a4,
    // Energy and performance bias; package thermal status and interrupt, which
    // only say whom to tell.
    0x1b0..=0x1b2,
    // Last-branch records: select, top of stack, FROM and TO stacks,
    // architectural LBR control and depth.
    0x1c8..=0x1c9,
    0x680..=0x69f,
    0x6c0..=0x6df,
    0xdc0..=0xddf,
    0x14ce..=0x14cf,
    0x1200..=0x121f,
    0x1500..=0x151f,
    0x1600..=0x161f,
    // Corrected machine-check interrupt of each bank.
    0x280..=0x29f,
    // PKRS.
    0x6e1..=0x6e1,
    // Hardware P-states of the core: enable, interrupt, request, status.
    0x770..=0x770,
    0x773..=0x774,
    0x777..=0x777,
];

/// The same, AMD only (AMD APM vol. 2, appendix A; Processor Programming
/// Reference of family 17h for the configuration registers).
const WRITES_AMD: &[RangeInclusive<u32>] = &[
    // Performance counters: global control of version 2, legacy, core, L3 and
    // northbridge.
    0xc000_0300..=0xc000_0303,
    0xc001_0000..=0xc001_0007,
    0xc001_0200..=0xc001_020b,
    0xc001_0230..=0xc001_023b,
    0xc001_0240..=0xc001_0247,
    // Scalable machine check; bank address masks.
    0xc000_2000..=0xc000_2fff,
    0xc001_0044..=0xc001_004a,
    0xc001_0400..=0xc001_043f,
    // MC4_MISC1 to 8; LBR select and DBG_EXTN_CFG; the LBR stack.
    0xc000_0408..=0xc000_040f,
    0xc000_010e..=0xc000_010f,
    0xc001_0300..=0xc001_031f,
    // HWCR; P-state control of the core; OS-visible workarounds; CPPC enable
    // and request.
    0xc001_0015..=0xc001_0015,
    0xc001_0062..=0xc001_0062,
    0xc001_0140..=0xc001_0141,
    0xc001_02b1..=0xc001_02b1,
    0xc001_02b3..=0xc001_02b3,
    // Breakpoint address masks, CPUID feature overrides, and the core's
    // configuration registers in which Linux sets errata workarounds.
    0xc001_1002..=0xc001_1005,
    0xc001_1019..=0xc001_1023,
    0xc001_1027..=0xc001_102d,
    0xc001_10e3..=0xc001_10e3,
];

/// Writes that are dropped without a fault, because Linux expects none: they
/// change power management of the whole package (on Intel: C-state limits,
/// POWER_CTL, the turbo limit, energy policy of the package), or are
/// microcode updates, which the hypervisor's owner does from firmware.
const WRITES_IGNORED_INTEL: &[RangeInclusive<u32>] = &[
    index::BIOS_UPDT_TRIG..=index::BIOS_UPDT_TRIG,
    index::PKG_CST_CONFIG_CONTROL..=index::PKG_CST_CONFIG_CONTROL,
    0x1ad..=0x1ad,
    index::POWER_CTL..=index::POWER_CTL,
    0x772..=0x772,
];
const WRITES_IGNORED_AMD: &[RangeInclusive<u32>] =
    &[index::AMD_PATCH_LOADER..=index::AMD_PATCH_LOADER];

/// Bits of IA32_DEBUGCTL that Linux may set: LBR, BTF (Intel SDM vol. 3 "Debug,
/// Branch Profile …", AMD APM vol. 2 §13.1); on Intel also bus-lock detection,
/// TR, BTS with its interrupt and filters, and freezing at performance
/// interrupts.
const DEBUGCTL_AMD: u64 = 0x3;
const DEBUGCTL_INTEL: u64 = 0x1fc7;

/// VM_CR as Linux reads it: SVM is disabled and locked (AMD APM vol. 2
/// §15.30.1).
const VM_CR_LOCK_SVMDIS: u64 = 1 << 3 | 1 << 4;
/// IA32_FEATURE_CONTROL as Linux reads it: locked, neither VMX nor SGX.
const FEATURE_CONTROL_LOCKED: u64 = 1;
const ARCH_CAPABILITIES_XAPIC_DISABLE: u64 = 1 << 21;

fn any(ranges: &[RangeInclusive<u32>], index: u32) -> bool {
    ranges.iter().any(|range| range.contains(&index))
}

/// Reads: what shows virtualisation, or is the hypervisor's own, is answered;
/// all else is the hardware's.
pub(super) fn read(msr: u32, context: &MsrContext) -> MsrAction {
    let intel = context.vendor == Vendor::Intel;
    match msr {
        index::PAT if !context.pat_direct => MsrAction::Pat,
        index::EFER if !intel => MsrAction::Efer,
        index::FEATURE_CONTROL if intel => MsrAction::ReadAs(FEATURE_CONTROL_LOCKED),
        index::XAPIC_DISABLE_STATUS if context.xapic_locked => MsrAction::ReadAs(1),
        index::ARCH_CAPABILITIES if context.xapic_locked => {
            MsrAction::ReadWith(ARCH_CAPABILITIES_XAPIC_DISABLE)
        }
        index::VMX_FIRST..=index::VMX_LAST if intel => MsrAction::Fault,
        index::SMM_MONITOR_CTL | index::SMBASE if intel => MsrAction::Fault,
        // Hidden by CPUID: SGX launch key, Processor Trace, hardware feedback.
        0x8c..=0x8f | 0x560..=0x58f | 0x17d0..=0x17d4 if intel => MsrAction::Fault,
        index::AMD_VM_CR if !intel => MsrAction::ReadAs(VM_CR_LOCK_SVMDIS),
        index::AMD_VM_HSAVE_PA if !intel => MsrAction::ReadAs(0),
        index::TSC_RATIO | index::AMD_VIRT_SPEC_CTRL if !intel => MsrAction::Fault,
        // IBS, SEV_STATUS.
        0xc001_1030..=0xc001_103d | 0xc001_0130..=0xc001_0131 if !intel => MsrAction::Fault,
        _ if any(&PARAVIRTUAL, msr) => MsrAction::Fault,
        _ => MsrAction::PassThrough,
    }
}

/// Whether a write does not exit.
pub(super) fn writes_directly(msr: u32, context: &MsrContext) -> bool {
    match msr {
        index::PAT => context.pat_direct,
        index::X2APIC_ICR => false,
        // Of a processor that is not in x2APIC mode they fault by themselves.
        index::X2APIC_FIRST..=index::X2APIC_LAST => true,
        _ => any(WRITES_DIRECT, msr),
    }
}

/// Writes that exited. What is on no list is refused: among it feature control,
/// VMX and SVM, SMM, SGX, Processor Trace, cache allocation, RAPL, and AMD's
/// SYSCFG, IORRs, TOP_MEM, MMIO base, SMM and IBS registers.
pub(super) fn write(msr: u32, value: u64, context: &MsrContext) -> MsrAction {
    let (own, ignored, debugctl) = match context.vendor {
        Vendor::Intel => (WRITES_INTEL, WRITES_IGNORED_INTEL, DEBUGCTL_INTEL),
        Vendor::Amd => (WRITES_AMD, WRITES_IGNORED_AMD, DEBUGCTL_AMD),
    };
    match msr {
        index::EFER => MsrAction::Efer,
        index::PAT if !context.pat_direct => MsrAction::Pat,
        index::APIC_BASE => MsrAction::ApicBase,
        index::X2APIC_ICR => MsrAction::X2apicIcr,
        index::DEBUGCTL if value & !debugctl == 0 => MsrAction::PassThrough,
        // Linux clears it before it asks for the microcode's revision.
        index::BIOS_SIGN_ID if value == 0 => MsrAction::PassThrough,
        _ if any(ignored, msr) => MsrAction::IgnoreWrite,
        _ if writes_directly(msr, context) || any(WRITES, msr) || any(own, msr) => {
            MsrAction::PassThrough
        }
        _ => MsrAction::Fault,
    }
}
