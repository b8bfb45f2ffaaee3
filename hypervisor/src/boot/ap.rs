//! Where every other core starts: real mode, in a page below 640 KiB that a
//! start-up IPI can name (Intel SDM vol. 3, "Multiple-Processor
//! Initialization"; AMD APM vol. 2, "Processor Initialization").

use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::percpu::PerCpu;

/// What the next core to start finds: one core is started at a time.
#[repr(C)]
struct Mailbox {
    stack_top: AtomicU64,
    data: AtomicU64,
}

static MAILBOX: Mailbox = Mailbox {
    stack_top: AtomicU64::new(0),
    data: AtomicU64::new(0),
};

// The code is copied to the trampoline page, so it uses no address of its own
// but those that CS gives it: CS = page >> 4, IP = 0.
global_asm!(
    r#"
.section .rodata.trampoline, "a"
.global cloister_trampoline
.global cloister_trampoline_end
.code16
cloister_trampoline:
    cli
    cld
    mov ax, cs
    mov ds, ax
    /* lgdtd [offset in this page] */
    .byte 0x66, 0x0f, 0x01, 0x16
    .short cloister_trampoline_gdt - cloister_trampoline
    mov eax, cr0
    or eax, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long cloister_ap_protected
    .short 0x18
.balign 8
cloister_trampoline_gdt:
    .short 31
    .long cloister_boot_gdt
cloister_trampoline_end:

.section .text.ap, "ax"
.code32
cloister_ap_protected:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, [{mailbox}]
    call enter_long_mode
    push 0x08
    mov eax, offset cloister_ap_long
    push eax
    retf
.code64
cloister_ap_long:
    mov rsp, [{mailbox}]
    mov rdi, [{mailbox} + 8]
    xor ebp, ebp
    xor eax, eax
    mov fs, eax
    mov gs, eax
    call {start}
    ud2
.text
"#,
    mailbox = sym MAILBOX,
    start = sym start,
);

unsafe extern "C" {
    static cloister_trampoline: u8;
    static cloister_trampoline_end: u8;
}

/// The trampoline's code, much shorter than a page.
pub(super) fn code() -> &'static [u8] {
    let start = &raw const cloister_trampoline;
    let end = &raw const cloister_trampoline_end;
    // SAFETY: the two symbols bound the code, which the linker placed.
    unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// Sets stack and data of the next core to start.
pub(super) fn prepare(stack_top: u64, data: &'static PerCpu) {
    MAILBOX.stack_top.store(stack_top, Ordering::SeqCst);
    MAILBOX
        .data
        .store(core::ptr::from_ref(data) as u64, Ordering::SeqCst);
}

extern "sysv64" fn start(data: &'static PerCpu) -> ! {
    // SAFETY: `prepare` gave this core its own data, and it runs this once.
    unsafe { crate::boot::smp::enter(data) }
}
