//! From the raw exit code to the neutral [`Exit`] (AMD APM vol. 2, appendix C
//! "SVM Intercept Exit Codes").

use super::vmcb::Vmcb;
use crate::virt::{Access, Exit, PortAccess};

/// First of the 32 codes of intercepted exceptions.
pub(super) const EXCEPTION: u64 = 0x40;
pub(super) const DEBUG_EXCEPTION: u64 = EXCEPTION + DB as u64;
const EXCEPTION_LAST: u64 = 0x5f;
pub(super) const NMI: u64 = 0x61;
pub(super) const INIT: u64 = 0x63;
pub(super) const IRET: u64 = 0x74;

const DB: u8 = 1;
const GP: u8 = 13;
const PF: u8 = 14;
const MC: u8 = 18;

/// Exceptions that push an error code (AMD APM vol. 2, table 8-1): #DF, #TS,
/// #NP, #SS, #GP, #PF, #AC, #CP, #VC, #SX.
const WITH_ERROR: u32 = 1 << 8
    | 1 << 10
    | 1 << 11
    | 1 << 12
    | 1 << 13
    | 1 << 14
    | 1 << 17
    | 1 << 21
    | 1 << 29
    | 1 << 30;

/// The exit, and the length in bytes of the instruction that caused it, by its
/// opcode; 0 where no instruction did. The length is used only where the
/// processor does not save the next RIP. `None`: [`rare`] knows.
#[inline(always)]
pub(super) fn frequent(vmcb: &Vmcb) -> Option<(Exit, u8)> {
    let control = &vmcb.control;
    Some(match control.exit_code {
        0x72 => (Exit::Cpuid, 2),
        0x7c if control.exit_info1 & 1 == 0 => (Exit::Rdmsr, 2),
        0x7c => (Exit::Wrmsr, 2),
        0x7b => port(vmcb),
        0x81 => (Exit::Hypercall, 3),
        0x400 => (nested_page_fault(vmcb), 0),
        _ => return None,
    })
}

/// All other exits.
pub(super) fn rare(vmcb: &Vmcb) -> (Exit, u8) {
    let code = vmcb.control.exit_code;
    match code {
        // CR0 to CR15 and DR0 to DR15, read and written.
        0x00..=0x3f => (
            Exit::ControlRegister {
                qualification: code,
                completed: false,
            },
            3,
        ),
        EXCEPTION..=EXCEPTION_LAST => (exception(vmcb, code), 0),
        0x60 => (Exit::ExternalInterrupt { vector: None }, 0),
        NMI => (Exit::Nmi, 0),
        INIT => (Exit::Init, 0),
        // INVD, WBINVD.
        0x76 | 0x89 => (Exit::CacheControl, 2),
        // PAUSE, HLT, MONITOR, MWAIT, MWAIT armed.
        0x77 => (Exit::Halt, 2),
        0x78 => (Exit::Halt, 1),
        0x8a..=0x8c => (Exit::Halt, 3),
        // INVLPGA, VMRUN, VMLOAD, VMSAVE, STGI, CLGI, SKINIT.
        0x7a | 0x80 | 0x82..=0x86 => (Exit::Virtualization, 3),
        0x7d => (Exit::TaskSwitch, 0),
        0x7f => (Exit::TripleFault, 0),
        // XSETBV. Some processors and emulators check the intercept before the
        // privilege: what the guest would get without it is #GP(0).
        0x8d if vmcb.save.cpl == 0 => (Exit::Xsetbv, 3),
        0x8d => (
            Exit::Exception {
                vector: GP,
                error: Some(0),
                fault_address: 0,
            },
            0,
        ),
        // VMEXIT_INVALID, VMEXIT_BUSY, IDLE_REQUIRED. QEMU writes the first
        // with 32 bits.
        0xffff_ffff | 0xffff_ffff_ffff_fffd.. => (Exit::EntryFailure { code }, 0),
        _ => (
            Exit::Other {
                code,
                qualification: vmcb.control.exit_info1,
            },
            0,
        ),
    }
}

/// AMD APM vol. 2, 15.10.2 "IN and OUT Behavior": EXITINFO1 describes the
/// access, EXITINFO2 is the next RIP.
#[inline(always)]
fn port(vmcb: &Vmcb) -> (Exit, u8) {
    let control = &vmcb.control;
    let info = control.exit_info1;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "bit fields; lengths are 1 to 15"
    )]
    let (port, width, length) = (
        (info >> 16) as u16,
        (info >> 4) as u8 & 7,
        control.exit_info2.wrapping_sub(vmcb.save.rip) as u8,
    );
    let access = PortAccess {
        port,
        width,
        input: info & 1 != 0,
        string: info & 1 << 2 != 0,
        repeat: info & 1 << 3 != 0,
    };
    (Exit::Port(access), length)
}

/// AMD APM vol. 2, 15.25.6 "Nested versus Guest Page Faults": EXITINFO1 is a
/// page-fault error code, bit 33 says that a guest page walk made the access;
/// EXITINFO2 is the guest-physical address.
#[inline(always)]
fn nested_page_fault(vmcb: &Vmcb) -> Exit {
    let info = vmcb.control.exit_info1;
    let access = if info & 1 << 4 != 0 {
        Access::Execute
    } else if info & 1 << 1 != 0 {
        Access::Write
    } else {
        Access::Read
    };
    Exit::NestedPageFault {
        gpa: vmcb.control.exit_info2,
        access,
        during_walk: info & 1 << 33 != 0,
    }
}

/// AMD APM vol. 2, 15.12 "Exception Intercepts": EXITINFO1 is the error code
/// and, for #PF, EXITINFO2 the address.
fn exception(vmcb: &Vmcb, code: u64) -> Exit {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "0 to 31; error codes have 32 bits"
    )]
    let (vector, error) = ((code - EXCEPTION) as u8, vmcb.control.exit_info1 as u32);
    let fault_address = match vector {
        MC => return Exit::MachineCheck,
        DB => vmcb.save.dr6,
        PF => vmcb.control.exit_info2,
        _ => 0,
    };
    Exit::Exception {
        vector,
        error: (WITH_ERROR >> vector & 1 != 0).then_some(error),
        fault_address,
    }
}
