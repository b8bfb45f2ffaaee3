//! The way into the guest and out of it.
//!
//! The guest's general registers are popped from and pushed to its
//! [`Registers`] directly: RSP runs through that array while they are loaded,
//! and HOST_RSP is its end. Only NMI, #MC and #DF could strike there, and each
//! has a stack of its own (IST).
//!
//! What the hypervisor never touches stays the guest's without being saved:
//! x87/SSE/AVX state and XCR0, CR2, DR0 to DR6, and the MSRs of SYSCALL and
//! SWAPGS.

use core::arch::{asm, global_asm};
use core::mem::offset_of;

use crate::arch::percpu::NMI_OFFSET;
use crate::virt::{Registers, reg};

/// What the assembly works on.
#[repr(C, align(256))]
pub(super) struct Context {
    /// All but RSP, which is in the VMCS. First, so that the address of the
    /// context is RSP once all are pushed.
    pub(super) registers: Registers,
    /// The hypervisor's RSP during the guest's run.
    host_rsp: u64,
}

const _: () = assert!(offset_of!(Context, registers) == 0);
const _: () = assert!(size_of::<Registers>() == 128 && size_of::<Context>() == 256);
// The order of the pops and pushes below.
const _: () = assert!(reg::RAX == 0 && reg::RCX == 1 && reg::RDX == 2 && reg::RBX == 3);
const _: () = assert!(reg::RSP == 4 && reg::RBP == 5 && reg::RSI == 6 && reg::RDI == 7);

/// An NMI was noted, or attention asked for, before the entry; the guest has not
/// run.
pub(super) const ABANDONED: u64 = 1 << 32;
/// An NMI was noted before an entry with attention; the guest has not run.
pub(super) const NMI_NOTED: u64 = 3 << 32;
/// VMfail; the VM-instruction error field says why.
pub(super) const FAILED: u64 = 2 << 32;

// Of the three copies, the first is the hot path, which tests the NMI flag and
// the one for attention at once: 23 instructions in, 22 out. The NMI handler
// moves a core that it finds between the test and the end of VMRESUME to
// `abandon` (`.nmi_restart`).
global_asm!(
    r#"
.macro CLOISTER_VMX_ENTER flags, instruction
    push rbx
    push rbp
    mov [rdi + {host_rsp}], rsp
    mov rsp, rdi
2:
    cmp \flags ptr gs:[{nmi}], 0
    jne cloister_vmx_abandon
    pop rax
    pop rcx
    pop rdx
    pop rbx
    pop rbp
    pop rbp
    pop rsi
    pop rdi
    pop r8
    pop r9
    pop r10
    pop r11
    pop r12
    pop r13
    pop r14
    pop r15
    \instruction
3:
    mov rsp, [rsp + {host_rsp} - 128]
    pop rbp
    pop rbx
    mov rsi, {failed}
    ret
    .pushsection .nmi_restart, "a"
    .quad 2b, 3b, cloister_vmx_abandon
    .popsection
.endm

.balign 64
cloister_vmx_resume:
    CLOISTER_VMX_ENTER word, vmresume
.balign 64
cloister_vmx_exit:
    push r15
    push r14
    push r13
    push r12
    push r11
    push r10
    push r9
    push r8
    push rdi
    push rsi
    push rbp
    push rbp
    push rbx
    push rdx
    push rcx
    push rax
    mov rsp, [rsp + {host_rsp}]
    mov eax, {exit_reason}
    pop rbp
    pop rbx
    vmread rsi, rax
    ret

cloister_vmx_resume_with_attention:
    CLOISTER_VMX_ENTER byte, vmresume

cloister_vmx_launch_with_attention:
    CLOISTER_VMX_ENTER byte, vmlaunch

cloister_vmx_abandon:
    and rsp, -256
    mov rsp, [rsp + {host_rsp}]
    pop rbp
    pop rbx
    mov rsi, {abandoned}
    ret
"#,
    host_rsp = const offset_of!(Context, host_rsp),
    nmi = const NMI_OFFSET,
    exit_reason = const x86::vmx::vmcs::ro::EXIT_REASON,
    abandoned = const ABANDONED,
    failed = const FAILED,
);

unsafe extern "C" {
    static cloister_vmx_exit: u8;
    fn cloister_vmx_resume();
    fn cloister_vmx_resume_with_attention();
    fn cloister_vmx_launch_with_attention();
}

/// Address of the way out: HOST_RIP.
pub(super) fn exit_address() -> u64 {
    &raw const cloister_vmx_exit as u64
}

impl Context {
    /// HOST_RSP: the end of the registers, where the way out pushes them.
    pub(super) fn host_rsp_field(&self) -> u64 {
        core::ptr::from_ref(&self.registers) as u64 + size_of::<Registers>() as u64
    }
}

macro_rules! enter {
    ($(#[$doc:meta])* $name:ident, $symbol:ident) => {
        $(#[$doc])*
        ///
        /// Returns the exit reason, or one of the codes above it (its bit 32
        /// or 33 is set).
        ///
        /// # Safety
        /// The VMCS of `context` is current on this core, its host state is
        /// this core's, and HOST_RSP is [`Context::host_rsp_field`].
        #[inline(always)]
        pub(super) unsafe fn $name(context: &mut Context) -> u64 {
            let outcome;
            // SAFETY: the callee restores RBX, RBP and RSP, and the exit loads
            // the host state; all else is declared lost. The direction flag is
            // clear after an exit.
            unsafe {
                asm!(
                    "call {enter}",
                    enter = sym $symbol,
                    inout("rdi") core::ptr::from_mut(context) => _,
                    lateout("rsi") outcome,
                    lateout("rax") _, lateout("rcx") _, lateout("rdx") _,
                    lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
                    lateout("r12") _, lateout("r13") _, lateout("r14") _, lateout("r15") _,
                );
            }
            outcome
        }
    };
}

enter! {
    /// Enters the guest by VMRESUME, unless something is to be done before.
    resume, cloister_vmx_resume
}
enter! {
    /// Enters the guest by VMRESUME.
    resume_with_attention, cloister_vmx_resume_with_attention
}
enter! {
    /// Enters the guest by VMLAUNCH: the first time after VMCLEAR.
    launch_with_attention, cloister_vmx_launch_with_attention
}

/// Ends the blocking of NMIs that an exit due to an NMI leaves in the
/// hypervisor, by an IRET to the next instruction (SDM vol. 3, "Handling
/// Multiple NMIs"). An NMI that waits behind it goes to the IDT's handler.
pub(super) fn unblock_nmis() {
    // SAFETY: IRET to the same stack, segments and flags.
    unsafe {
        asm!(
            "mov {rsp}, rsp",
            "mov {scratch:e}, ss",
            "push {scratch}",
            "push {rsp}",
            "pushfq",
            "mov {scratch:e}, cs",
            "push {scratch}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "iretq",
            "2:",
            rsp = out(reg) _,
            scratch = out(reg) _,
        );
    }
}
