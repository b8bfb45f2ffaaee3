//! The way into the guest and out of it (AMD APM vol. 2, 15.5 "VMRUN
//! Instruction", 15.6 "#VMEXIT").
//!
//! VMRUN and #VMEXIT switch RIP, RSP, RAX, RFLAGS, the control registers, ES,
//! CS, SS, DS, GDTR, IDTR, DR6 and DR7; VMLOAD and VMSAVE switch FS, GS, TR,
//! LDTR and the system-call MSRs; the code below switches the other general
//! registers. The hypervisor never touches floating-point and vector state,
//! XCR0 and DR0 to DR3: they stay the guest's.
//!
//! The global interrupt flag is 0 whenever the hypervisor runs: VMRUN sets it,
//! #VMEXIT clears it (15.17 "Global Interrupt Flag").

use core::arch::asm;
use core::mem::offset_of;

use super::vmcb::{Control, Vmcb};
use crate::virt::{Registers, reg};

/// What entry and exit work on: one piece of memory, so that RAX, which
/// #VMEXIT restores to the VMCB's address, finds all of it.
#[repr(C, align(4096))]
pub(super) struct Area {
    pub(super) vmcb: Vmcb,
    /// Where the host's FS, GS, TR, LDTR and system-call MSRs are.
    pub(super) host: Vmcb,
    /// All but RAX and RSP, which are in the VMCB.
    pub(super) registers: Registers,
}

const HOST: usize = offset_of!(Area, host);
const GPR: usize = offset_of!(Area, registers) + offset_of!(Registers, gpr);

const _: () = assert!(HOST == 4096);
const _: () = assert!(size_of::<Control>() == offset_of!(Vmcb, save));

/// Enters the guest; returns after the next #VMEXIT.
///
/// # Safety
/// `area` is identity-mapped and nobody else uses it; its VMCB describes a
/// guest that cannot reach memory of the hypervisor; [`save_host`] has been
/// called for it on this core; GIF is 0, and RFLAGS.IF as
/// [`set_interrupt_flag`] left it.
#[inline(always)]
pub(super) unsafe fn enter(area: *mut Area) {
    // SAFETY: every register is either restored or declared lost; RBX and RBP,
    // which cannot be declared, are on the stack, whose pointer #VMEXIT
    // restores.
    unsafe {
        asm!(
            "push rbp",
            "push rbx",
            "vmload rax",
            "mov rcx, [rax + {gpr} + 8 * {RCX}]",
            "mov rdx, [rax + {gpr} + 8 * {RDX}]",
            "mov rbx, [rax + {gpr} + 8 * {RBX}]",
            "mov rbp, [rax + {gpr} + 8 * {RBP}]",
            "mov rsi, [rax + {gpr} + 8 * {RSI}]",
            "mov rdi, [rax + {gpr} + 8 * {RDI}]",
            "mov r8, [rax + {gpr} + 8 * 8]",
            "mov r9, [rax + {gpr} + 8 * 9]",
            "mov r10, [rax + {gpr} + 8 * 10]",
            "mov r11, [rax + {gpr} + 8 * 11]",
            "mov r12, [rax + {gpr} + 8 * 12]",
            "mov r13, [rax + {gpr} + 8 * 13]",
            "mov r14, [rax + {gpr} + 8 * 14]",
            "mov r15, [rax + {gpr} + 8 * 15]",
            "vmrun rax",
            "vmsave rax",
            "mov [rax + {gpr} + 8 * {RCX}], rcx",
            "mov [rax + {gpr} + 8 * {RDX}], rdx",
            "mov [rax + {gpr} + 8 * {RBX}], rbx",
            "mov [rax + {gpr} + 8 * {RBP}], rbp",
            "mov [rax + {gpr} + 8 * {RSI}], rsi",
            "mov [rax + {gpr} + 8 * {RDI}], rdi",
            "mov [rax + {gpr} + 8 * 8], r8",
            "mov [rax + {gpr} + 8 * 9], r9",
            "mov [rax + {gpr} + 8 * 10], r10",
            "mov [rax + {gpr} + 8 * 11], r11",
            "mov [rax + {gpr} + 8 * 12], r12",
            "mov [rax + {gpr} + 8 * 13], r13",
            "mov [rax + {gpr} + 8 * 14], r14",
            "mov [rax + {gpr} + 8 * 15], r15",
            "add rax, {host}",
            "vmload rax",
            "pop rbx",
            "pop rbp",
            gpr = const GPR,
            host = const HOST,
            RCX = const reg::RCX,
            RDX = const reg::RDX,
            RBX = const reg::RBX,
            RBP = const reg::RBP,
            RSI = const reg::RSI,
            RDI = const reg::RDI,
            inout("rax") area => _,
            out("rcx") _,
            out("rdx") _,
            out("rsi") _,
            out("rdi") _,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
            out("r12") _,
            out("r13") _,
            out("r14") _,
            out("r15") _,
        );
    }
}

/// Keeps the host state that [`enter`] loads after each exit.
///
/// # Safety
/// On the core that will run `area`, with the hypervisor's own GDT, TSS and GS
/// base loaded for good; EFER.SVME is set.
pub(super) unsafe fn save_host(area: *mut Area) {
    // SAFETY: VMSAVE writes to the page that is there for it.
    unsafe {
        asm!("vmsave rax", in("rax") &raw mut (*area).host, options(nostack, preserves_flags));
    }
}

/// Lets in what GIF = 0 has held back: NMIs, and an INIT as #SX. The host's
/// handlers run, and the rest is held back again.
pub(super) fn take_pending() {
    with_gif(|| {
        // SAFETY: a place between STGI and CLGI.
        unsafe { asm!("nop", options(nomem, nostack, preserves_flags)) };
    });
}

/// Sets or clears RFLAGS.IF, for the next VMRUN: it says whether external
/// interrupts reach a core whose guest has V_INTR_MASKING.
pub(super) fn set_interrupt_flag(on: bool) {
    // SAFETY: GIF = 0 keeps interrupts out of the hypervisor.
    unsafe {
        if on {
            asm!("sti", options(nomem, nostack));
        } else {
            asm!("cli", options(nomem, nostack));
        }
    }
}

/// Clears GIF.
///
/// # Safety
/// EFER.SVME is set.
pub(super) unsafe fn clear_gif() {
    // SAFETY: CLGI only holds events back.
    unsafe { asm!("clgi", options(nostack, preserves_flags)) };
}

/// Runs `f` with GIF = 1: NMIs come in, and external interrupts if `f` sets
/// RFLAGS.IF, which is 0 when it begins, and afterwards as it was before.
pub(super) fn with_gif(f: impl FnOnce()) {
    const INTERRUPT_FLAG: u64 = 1 << 9;
    let flags: u64;
    // SAFETY: EFER.SVME is set on every core that runs this; the host's IDT
    // handles what comes in.
    unsafe {
        asm!("pushfq", "pop {}", "cli", "stgi", out(reg) flags);
    }
    f();
    // SAFETY: as above.
    unsafe { clear_gif() };
    set_interrupt_flag(flags & INTERRUPT_FLAG != 0);
}
