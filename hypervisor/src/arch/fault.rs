//! What happens when the hypervisor itself takes an exception, an NMI or an
//! interrupt.
//!
//! NMIs are noted and the interrupted code goes on. A #GP at an instruction in
//! the `.fixup` table goes on at its second address. Interrupts arrive only
//! while a core lets them in to drain its local APIC. All else is a bug of the
//! hypervisor: registers and a backtrace go to the console, and the machine's
//! run ends.

use core::arch::global_asm;
use core::fmt::Write as _;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::arch::{apic, console, cpu, percpu};

/// Registers as the stubs push them.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Frame {
    /// R15 … R8, RBP, RDI, RSI, RDX, RCX, RBX, RAX.
    registers: [u64; 15],
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

// 256 stubs, 16 bytes apart. Vectors with an error code: Intel SDM vol. 3,
// table "Protected-Mode Exceptions and Interrupts".
global_asm!(
    r#"
.balign 16
cloister_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if !((vector == 8) || (vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30))
        push 0
    .endif
    push vector
    jmp cloister_fault_common
    .set vector, vector + 1
.endr

.balign 16
cloister_fault_common:
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    mov rbp, rsp
    and rsp, -16
    cld
    call {handler}
    mov rsp, rbp
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16
    iretq
"#,
    handler = sym handle,
);

unsafe extern "C" {
    static cloister_stubs: u8;
    static __fixup_start: [u64; 2];
    static __fixup_end: [u64; 2];
    static __nmi_restart_start: [u64; 3];
    static __nmi_restart_end: [u64; 3];
    static __text_start: u8;
    static __text_end: u8;
}

/// Address of the stub for `vector`.
pub(crate) fn stub(vector: usize) -> u64 {
    &raw const cloister_stubs as u64 + vector as u64 * 16
}

/// Entries of a table that the linker made between two symbols.
fn table<const N: usize>(start: *const [u64; N], end: *const [u64; N]) -> &'static [[u64; N]] {
    let bytes = end as usize - start as usize;
    // SAFETY: the linker script puts the symbols around an array of these.
    unsafe { core::slice::from_raw_parts(start, bytes / size_of::<[u64; N]>()) }
}

extern "sysv64" fn handle(frame: &mut Frame) {
    match frame.vector {
        2 => {
            percpu::this().note_nmi();
            let windows = table(&raw const __nmi_restart_start, &raw const __nmi_restart_end);
            if let Some(window) = windows.iter().find(|w| (w[0]..w[1]).contains(&frame.rip)) {
                frame.rip = window[2];
            }
        }
        // #DB: a breakpoint that a guest left armed on a processor that does
        // not disarm it at the exit (AMD APM vol. 2, 15.6 "#VMEXIT"). The
        // guest's own DR7 comes back at the next entry.
        1 => cpu::disarm_breakpoints(),
        // #SX: an INIT, which `virt::svm` has redirected (AMD APM vol. 2,
        // 15.28 "Security Exception"). Nothing inside the machine sends one.
        30 => {}
        13 => {
            let fixups = table(&raw const __fixup_start, &raw const __fixup_end);
            match fixups.iter().find(|f| f[0] == frame.rip) {
                Some(fixup) => frame.rip = fixup[1],
                None => die(frame),
            }
        }
        vector @ 32.. => {
            apic::note_taken(vector);
            // One at a time: the window closes behind it.
            frame.rflags &= !RFLAGS_IF;
        }
        _ => die(frame),
    }
}

const RFLAGS_IF: u64 = 1 << 9;

/// Only the first core to die speaks.
static DYING: AtomicBool = AtomicBool::new(false);

fn die(frame: &Frame) -> ! {
    if DYING.swap(true, Ordering::SeqCst) {
        cpu::halt_forever();
    }
    let core = percpu::this().core();
    let mut out = console::seize();
    let _ = writeln!(
        out,
        "hypervisor fault on core {core}: vector {} error {:#x} rip {:#x} cr2 {:#x}",
        frame.vector,
        frame.error,
        frame.rip,
        cpu::cr2()
    );
    let _ = writeln!(
        out,
        "  rsp {:#x} rflags {:#x} cs {:#x} ss {:#x} cr0 {:#x} cr3 {:#x} cr4 {:#x}",
        frame.rsp,
        frame.rflags,
        frame.cs,
        frame.ss,
        cpu::cr0(),
        cpu::cr3(),
        cpu::cr4()
    );
    let names = [
        "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rbp", "rdi", "rsi", "rdx", "rcx",
        "rbx", "rax",
    ];
    for (name, value) in names.iter().zip(frame.registers) {
        let _ = writeln!(out, "  {name:3} {value:#018x}");
    }
    backtrace(&mut out, frame.rip, frame.registers[8]);
    crate::report::panicked(&mut out, "fault in the hypervisor");
    cpu::halt_forever();
}

/// Prints return addresses, found by frame pointers. Resolve them with
/// `addr2line -e target/x86_64-unknown-none/release/hypervisor`.
fn backtrace(out: &mut console::Console, rip: u64, mut rbp: u64) {
    let _ = write!(out, "  backtrace {rip:#x}");
    let text = &raw const __text_start as u64..&raw const __text_end as u64;
    for _ in 0..16 {
        if !crate::arch::paging::is_stack(rbp) {
            break;
        }
        // SAFETY: `rbp` is an aligned address in mapped stack memory.
        let [next, ret] = unsafe { *(rbp as *const [u64; 2]) };
        if !text.contains(&ret) {
            break;
        }
        let _ = write!(out, " {ret:#x}");
        if next <= rbp {
            break;
        }
        rbp = next;
    }
    let _ = writeln!(out);
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    if DYING.swap(true, Ordering::SeqCst) {
        cpu::halt_forever();
    }
    let mut out = console::seize();
    let _ = writeln!(out, "hypervisor panic: {info}");
    backtrace(&mut out, panic as *const () as u64, cpu::frame_pointer());
    crate::report::panicked(&mut out, "panic in the hypervisor");
    cpu::halt_forever();
}
