//! From the raw exit code to the neutral [`Exit`] (AMD APM vol. 2, appendix C
//! "SVM Intercept Exit Codes").

use super::vcpu::SvmVcpu;
use super::vmcb::Vmcb;
use crate::virt::{Access, Exit, Frequent, PortAccess, Server};

/// First of the 32 codes of intercepted exceptions.
pub(super) const EXCEPTION: u64 = 0x40;
pub(super) const DEBUG_EXCEPTION: u64 = EXCEPTION + DB as u64;
const EXCEPTION_LAST: u64 = 0x5f;
pub(super) const NMI: u64 = 0x61;
pub(super) const INIT: u64 = 0x63;
pub(super) const VINTR: u64 = 0x64;
pub(super) const IRET: u64 = 0x74;
pub(super) const SHUTDOWN: u64 = 0x7f;

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

/// See [`crate::virt::Vcpu::serve_frequent`].
#[inline(always)]
pub(super) fn serve_frequent<S: Server<SvmVcpu>>(
    server: &mut S,
    code: u64,
) -> Result<S::Output, u64> {
    let vmcb = &server.vcpu().area.vmcb;
    Ok(match code {
        0x72 => server.serve(Frequent::Cpuid),
        0x7c if vmcb.control.exit_info1 & 1 == 0 => server.serve(Frequent::Rdmsr),
        0x7c => server.serve(Frequent::Wrmsr),
        0x7b => {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "EXITINFO1 of IOIO has 32 bits"
            )]
            let access = PortAccess::from_word(vmcb.control.exit_info1 as u32);
            server.serve(Frequent::Port(access))
        }
        0x81 => server.serve(Frequent::Hypercall),
        0x400 => {
            let fault = nested_page_fault(vmcb);
            server.serve(fault)
        }
        _ => return Err(code),
    })
}

/// All other exits.
pub(super) fn rare(code: u64, vmcb: &Vmcb) -> Exit {
    match code {
        // CR0 to CR15 and DR0 to DR15, read and written.
        0x00..=0x3f => Exit::ControlRegister {
            qualification: code,
            completed: false,
        },
        EXCEPTION..=EXCEPTION_LAST => exception(vmcb, code),
        0x60 => Exit::ExternalInterrupt { vector: None },
        NMI => Exit::Nmi,
        INIT => Exit::Init,
        // INVD, WBINVD.
        0x76 | 0x89 => Exit::CacheControl,
        // PAUSE, HLT, MONITOR, MWAIT, MWAIT armed.
        0x77 | 0x78 | 0x8a..=0x8c => Exit::Halt,
        // INVLPGA, VMRUN, VMLOAD, VMSAVE, STGI, CLGI, SKINIT.
        0x7a | 0x80 | 0x82..=0x86 => Exit::Virtualization,
        0x7d => Exit::TaskSwitch,
        SHUTDOWN => Exit::TripleFault,
        // XSETBV. Some processors and emulators check the intercept before the
        // privilege: what the guest would get without it is #GP(0).
        0x8d if vmcb.save.cpl == 0 => Exit::Xsetbv,
        0x8d => Exit::Exception {
            vector: GP,
            error: Some(0),
            fault_address: 0,
        },
        // VMEXIT_INVALID, VMEXIT_BUSY, IDLE_REQUIRED. QEMU writes the first
        // with 32 bits.
        0xffff_ffff | 0xffff_ffff_ffff_fffd.. => Exit::EntryFailure { code },
        _ => Exit::Other {
            code,
            qualification: vmcb.control.exit_info1,
        },
    }
}

/// AMD APM vol. 2, 15.25.6 "Nested versus Guest Page Faults": EXITINFO1 is a
/// page-fault error code, bit 33 says that a guest page walk made the access;
/// EXITINFO2 is the guest-physical address.
#[inline(always)]
fn nested_page_fault(vmcb: &Vmcb) -> Frequent {
    let info = vmcb.control.exit_info1;
    let access = if info & 1 << 4 != 0 {
        Access::Execute
    } else if info & 1 << 1 != 0 {
        Access::Write
    } else {
        Access::Read
    };
    Frequent::NestedPageFault {
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
