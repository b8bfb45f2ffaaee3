//! What the raw exit codes of both vendors mean: read from the manuals a
//! second time, so that the outside witness does not repeat a mistake of the
//! hypervisor's own tables.

use cloister_abi::Reason;

/// SVM (AMD APM vol. 2, appendix C "SVM Intercept Exit Codes"); `info1` is
/// EXITINFO1.
pub(super) fn svm(code: u64, info1: u64) -> Option<Reason> {
    Some(match code {
        0x00..=0x3f => Reason::ControlRegister,
        // Exception vector 18.
        0x52 => Reason::MachineCheck,
        0x40..=0x5f => Reason::Exception,
        0x60 => Reason::Interrupt,
        0x61 => Reason::Nmi,
        0x63 => Reason::Init,
        0x72 => Reason::Cpuid,
        0x76 | 0x89 => Reason::CacheControl,
        0x77 | 0x78 | 0x8a..=0x8c => Reason::Halt,
        0x7a | 0x80 | 0x82..=0x86 => Reason::Virtualization,
        // EXITINFO1 bit 0: 1 is IN (15.10.2).
        0x7b if info1 & 1 == 1 => Reason::PortIn,
        0x7b => Reason::PortOut,
        // EXITINFO1: 0 is RDMSR, 1 is WRMSR (15.11).
        0x7c if info1 == 0 => Reason::Rdmsr,
        0x7c => Reason::Wrmsr,
        0x7d => Reason::TaskSwitch,
        0x7f => Reason::TripleFault,
        0x81 => Reason::Hypercall,
        0x8d => Reason::Xsetbv,
        0x400 => Reason::NestedPageFault,
        // VMEXIT_INVALID; QEMU writes it with 32 bits.
        0xffff_ffff | u64::MAX => Reason::EntryFailure,
        _ => return None,
    })
}

/// VMX (Intel SDM vol. 3, appendix C "VMX Basic Exit Reasons").
/// `qualification` is the exit qualification (table 28-5 for I/O: bit 3 is 1
/// for IN).
pub(super) fn vmx(reason: u64, qualification: u64) -> Option<Reason> {
    Some(match reason {
        1 => Reason::Interrupt,
        2 => Reason::TripleFault,
        3 => Reason::Init,
        4 => Reason::Sipi,
        9 => Reason::TaskSwitch,
        10 => Reason::Cpuid,
        12 | 36 | 39 | 40 => Reason::Halt,
        13 | 54 => Reason::CacheControl,
        18 => Reason::Hypercall,
        19..=27 | 50 | 53 => Reason::Virtualization,
        28 | 29 => Reason::ControlRegister,
        30 if qualification & 1 << 3 != 0 => Reason::PortIn,
        30 => Reason::PortOut,
        31 => Reason::Rdmsr,
        32 => Reason::Wrmsr,
        33 | 34 => Reason::EntryFailure,
        41 => Reason::MachineCheck,
        48 | 49 => Reason::NestedPageFault,
        55 => Reason::Xsetbv,
        // 0 is an exception or an NMI: the interruption information tells.
        _ => return None,
    })
}
