//! From the exit reason to the neutral [`Exit`] (Intel SDM vol. 3, appendix
//! "VMX Basic Exit Reasons" and "Basic VM-Exit Information").
//!
//! The everyday reasons are decoded in [`serve_frequent`], which is inlined
//! into the loop; all others in [`VmxVcpu::decode_rare`].

use core::arch::asm;

use super::event::{Injection, blocked, kind};
use super::vcpu::VmxVcpu;
use super::{entry, fields as f};
use crate::arch::percpu;
use crate::virt::{Access, Exit, Frequent, PortAccess, Server, Teller, Vcpu as _};

/// Basic exit reasons: bits 15:0 of the exit reason.
pub(super) mod reason {
    pub(in super::super) const EXCEPTION_OR_NMI: u64 = 0;
    pub(in super::super) const EXTERNAL_INTERRUPT: u64 = 1;
    pub(in super::super) const TRIPLE_FAULT: u64 = 2;
    pub(in super::super) const INIT: u64 = 3;
    pub(in super::super) const SIPI: u64 = 4;
    pub(in super::super) const INTERRUPT_WINDOW: u64 = 7;
    pub(in super::super) const NMI_WINDOW: u64 = 8;
    pub(in super::super) const TASK_SWITCH: u64 = 9;
    pub(in super::super) const CPUID: u64 = 10;
    pub(in super::super) const GETSEC: u64 = 11;
    pub(in super::super) const HLT: u64 = 12;
    pub(in super::super) const INVD: u64 = 13;
    pub(in super::super) const VMCALL: u64 = 18;
    pub(in super::super) const VMCLEAR: u64 = 19;
    pub(in super::super) const VMXON: u64 = 27;
    pub(in super::super) const CONTROL_REGISTER: u64 = 28;
    pub(in super::super) const DEBUG_REGISTER: u64 = 29;
    pub(in super::super) const IO: u64 = 30;
    pub(in super::super) const RDMSR: u64 = 31;
    pub(in super::super) const WRMSR: u64 = 32;
    pub(in super::super) const MWAIT: u64 = 36;
    pub(in super::super) const MONITOR: u64 = 39;
    pub(in super::super) const PAUSE: u64 = 40;
    pub(in super::super) const MACHINE_CHECK_AT_ENTRY: u64 = 41;
    pub(in super::super) const EPT_VIOLATION: u64 = 48;
    pub(in super::super) const INVEPT: u64 = 50;
    pub(in super::super) const INVVPID: u64 = 53;
    pub(in super::super) const WBINVD: u64 = 54;
    pub(in super::super) const XSETBV: u64 = 55;
    pub(in super::super) const VMFUNC: u64 = 59;
}

/// Bit 31 of the exit reason: VM entry failed, the guest has not run.
pub(super) const ENTRY_FAILED: u64 = 1 << 31;
/// NMI unblocking due to IRET: bit 12 of the exit qualification of an EPT
/// violation, and of the interruption information of an exception.
const IRET_UNBLOCKED_NMI: u64 = 1 << 12;

/// #DB.
const DEBUG: u8 = 1;
/// #DF: bit 12 is undefined with it.
const DOUBLE_FAULT: u8 = 8;

/// `value`, of which the compiler no longer knows where it comes from.
#[inline(always)]
fn opaque(mut value: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {} */", inout(reg) value, options(pure, nomem, nostack, preserves_flags)) };
    value
}

/// See [`crate::virt::Vcpu::serve_frequent`].
#[inline(always)]
pub(super) fn serve_frequent<S: Server<VmxVcpu>>(
    server: &mut S,
    outcome: u64,
) -> Result<S::Output, u64> {
    match outcome {
        reason::CPUID => return Ok(server.serve(Frequent::Cpuid)),
        reason::VMCALL => return Ok(server.serve(Frequent::Hypercall)),
        _ => {}
    }
    // The first two are found sooner than by the table of jumps into which the
    // compiler would put all six.
    let outcome = opaque(outcome);
    Ok(match outcome {
        reason::RDMSR => server.serve(Frequent::Rdmsr),
        reason::WRMSR => server.serve(Frequent::Wrmsr),
        reason::IO => {
            let access = port_access(server.vcpu().vmcs.read(f::QUALIFICATION));
            server.serve(Frequent::Port(access))
        }
        reason::EPT_VIOLATION => {
            let violation = server.vcpu().ept_violation();
            server.serve(violation)
        }
        _ => return Err(outcome),
    })
}

impl VmxVcpu {
    /// See [`crate::virt::Vcpu::exit`]. There is nothing to tell of exits that
    /// only say that the guest can now take what waited for it: they are the
    /// end of one that has been reported.
    pub(super) fn decode(&mut self, outcome: u64) -> Option<Exit> {
        if matches!(outcome, reason::INTERRUPT_WINDOW | reason::NMI_WINDOW) {
            return None;
        }
        Some(match serve_frequent(&mut Teller(self), outcome) {
            Ok(exit) => Exit::Frequent(exit),
            Err(outcome) => self.decode_rare(outcome),
        })
    }

    fn decode_rare(&mut self, outcome: u64) -> Exit {
        let qualification = self.vmcs.read(f::QUALIFICATION);
        match outcome {
            reason::EXCEPTION_OR_NMI => self.exception_or_nmi(qualification),
            reason::EXTERNAL_INTERRUPT => Exit::ExternalInterrupt { vector: None },
            reason::TRIPLE_FAULT => Exit::TripleFault,
            reason::INIT => Exit::Init,
            reason::SIPI => Exit::Sipi {
                vector: qualification.to_le_bytes()[0],
            },
            reason::TASK_SWITCH => Exit::TaskSwitch,
            reason::HLT | reason::MWAIT | reason::MONITOR | reason::PAUSE => Exit::Halt,
            reason::INVD | reason::WBINVD => Exit::CacheControl,
            reason::XSETBV => Exit::Xsetbv,
            reason::CONTROL_REGISTER => Exit::ControlRegister {
                qualification,
                completed: self.updates_cr0_shadow(qualification),
            },
            reason::DEBUG_REGISTER => Exit::ControlRegister {
                qualification,
                completed: false,
            },
            reason::GETSEC
            | reason::VMCLEAR..=reason::VMXON
            | reason::INVEPT
            | reason::INVVPID
            | reason::VMFUNC => Exit::Virtualization,
            entry::NMI_NOTED => Exit::Nmi,
            entry::FAILED => Exit::EntryFailure {
                code: self.vmcs.read(f::INSTRUCTION_ERROR).into(),
            },
            _ if outcome & ENTRY_FAILED != 0 => match outcome & 0xffff {
                reason::MACHINE_CHECK_AT_ENTRY => Exit::MachineCheck,
                _ => Exit::EntryFailure { code: outcome },
            },
            code => Exit::Other {
                code,
                qualification,
            },
        }
    }

    /// SDM vol. 3, table "Exit Qualification for EPT Violations".
    #[inline(always)]
    fn ept_violation(&mut self) -> Frequent {
        const WRITE: u64 = 1 << 1;
        const FETCH: u64 = 1 << 2;
        const LINEAR_ADDRESS_VALID: u64 = 1 << 7;
        const FINAL_ACCESS: u64 = 1 << 8;
        let qualification = self.vmcs.read(f::QUALIFICATION);
        let gpa = self.vmcs.read(f::GUEST_PHYSICAL_ADDRESS);
        if !self.delivery_was_interrupted() && qualification & IRET_UNBLOCKED_NMI != 0 {
            self.block_nmis();
        }
        Frequent::NestedPageFault {
            gpa,
            access: if qualification & FETCH != 0 {
                Access::Execute
            } else if qualification & WRITE != 0 {
                Access::Write
            } else {
                Access::Read
            },
            during_walk: qualification & (LINEAR_ADDRESS_VALID | FINAL_ACCESS)
                == LINEAR_ADDRESS_VALID,
        }
    }

    fn exception_or_nmi(&mut self, qualification: u64) -> Exit {
        let info = self.vmcs.read(f::EXIT_EVENT);
        let error = self.vmcs.read(f::EXIT_ERROR);
        let Some(event) = Injection::from_exit(info, error, 0) else {
            return Exit::Other {
                code: reason::EXCEPTION_OR_NMI,
                qualification,
            };
        };
        if event.kind() == kind::NMI {
            entry::unblock_nmis();
            return Exit::Nmi;
        }
        let interrupted = self.delivery_was_interrupted();
        let vector = event.vector();
        if !interrupted && vector != DOUBLE_FAULT && u64::from(info) & IRET_UNBLOCKED_NMI != 0 {
            self.block_nmis();
        }
        let by_int1 = event.kind() == kind::PRIVILEGED_SOFTWARE_EXCEPTION;
        self.events.note_int1(if by_int1 {
            self.vmcs.read(f::INSTRUCTION_LENGTH)
        } else {
            0
        });
        let fault_address = if vector == DEBUG {
            set_dr6(qualification)
        } else {
            qualification
        };
        Exit::Exception {
            vector,
            error: event.error(),
            fault_address,
        }
    }

    /// Whether the exit interrupted the delivery of an event through the
    /// guest's IDT; that event then waits to be injected again (SDM vol. 3,
    /// "Information for VM Exits That Occur During Event Delivery").
    #[inline(always)]
    fn delivery_was_interrupted(&mut self) -> bool {
        let info = self.vmcs.read(f::VECTORING_EVENT);
        match Injection::from_exit(info, 0, 0) {
            None => false,
            Some(event) => {
                self.deliver_again(event);
                true
            }
        }
    }

    #[cold]
    fn deliver_again(&mut self, event: Injection) {
        if event.kind() == kind::NMI {
            // Delivery has blocked NMIs already; the next delivery would fail.
            let state = self.vmcs.read(f::INTERRUPTIBILITY);
            self.vmcs
                .write(f::INTERRUPTIBILITY, state & !blocked::BY_NMI);
        }
        self.events.interrupted(Injection {
            error: self.vmcs.read(f::VECTORING_ERROR),
            length: self.vmcs.read(f::INSTRUCTION_LENGTH),
            ..event
        });
        percpu::this().set_attention(true);
    }

    /// The exit interrupted an IRET that had ended the blocking of NMIs: the
    /// IRET runs again, so they are blocked still.
    #[cold]
    fn block_nmis(&mut self) {
        let state = self.vmcs.read(f::INTERRUPTIBILITY);
        self.vmcs
            .write(f::INTERRUPTIBILITY, state | blocked::BY_NMI);
    }

    /// Brings the shadow of CR0 up to date for the MOV to CR0 that exited, so
    /// that it can run again ([`super::control_registers`]; SDM vol. 3, table
    /// "Exit Qualification for Control-Register Accesses"). `false` if the
    /// instruction raises #GP(0): a bad value for CR0, or VMXE or SMXE in CR4.
    fn updates_cr0_shadow(&mut self, qualification: u64) -> bool {
        const MOV_TO_CR: u64 = 0;
        let source = usize::try_from(qualification >> 8 & 15).unwrap_or(0);
        let value = self.register(source);
        let value = if self.is_64_bit() {
            value
        } else {
            value & 0xffff_ffff
        };
        let to_cr0 = qualification & 15 == 0 && qualification >> 4 & 3 == MOV_TO_CR;
        to_cr0 && self.cr0.write(&self.vmcs, value)
    }
}

/// SDM vol. 3, table "Exit Qualification for I/O Instructions".
#[inline(always)]
fn port_access(qualification: u64) -> PortAccess {
    let bytes = qualification.to_le_bytes();
    let port = u16::from_le_bytes([bytes[2], bytes[3]]);
    let input = bytes[0] & 1 << 3 != 0;
    let string = bytes[0] & 1 << 4 != 0;
    PortAccess::new(port, (bytes[0] & 7) + 1, input, string)
}

/// A #DB that exits leaves DR6 alone; its qualification says what DR6 would
/// have got (SDM vol. 3, table "Exit Qualification for Debug Exceptions").
/// DR6 is the guest's own register. Returns its new value.
fn set_dr6(qualification: u64) -> u64 {
    /// B0 to B3: cleared by the processor where they do not apply.
    const BREAKPOINTS: u64 = 0xf;
    /// BD and BS: only ever set.
    const STICKY: u64 = 1 << 13 | 1 << 14;
    /// BLD and RTM: 0 in DR6 where 1 in the qualification.
    const INVERTED: u64 = 1 << 11 | 1 << 16;
    let old: u64;
    // SAFETY: the hypervisor has no use for DR6.
    unsafe { asm!("mov {}, dr6", out(reg) old, options(nomem, nostack, preserves_flags)) };
    let new = (old & !BREAKPOINTS | qualification & (BREAKPOINTS | STICKY) | INVERTED)
        & !(qualification & INVERTED);
    // SAFETY: as above; bits 63:32 are 0.
    unsafe {
        asm!("mov dr6, {}", in(reg) new & 0xffff_ffff,
             options(nomem, nostack, preserves_flags));
    }
    new
}
