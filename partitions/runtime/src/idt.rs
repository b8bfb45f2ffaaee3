//! The interrupt descriptor table: one for the program, the same on each core.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use crate::fault;

/// Number of vectors.
pub(crate) const VECTORS: usize = 256;
/// Bytes from one stub to the next.
const STUB: usize = 16;
/// Flat 64-bit code segment of the GDT that the hypervisor loaded.
const CODE_SELECTOR: u64 = 0x08;
/// Present, ring 0, 64-bit interrupt gate (Intel SDM vol. 3, 6.14.1).
const INTERRUPT_GATE: u64 = 0x8e00;

/// Gates of two words each (Intel SDM vol. 3, figure "64-Bit IDT Gate
/// Descriptors").
#[repr(C, align(16))]
struct Table([AtomicU64; 2 * VECTORS]);

static TABLE: Table = Table([const { AtomicU64::new(0) }; 2 * VECTORS]);

/// Offset of the table's last byte.
const LIMIT: u16 = 4095;
const _: () = assert!(size_of::<Table>() == LIMIT as usize + 1);

/// What the stubs leave on the stack: the registers, the vector, the error
/// code (0 where the exception has none), and what the processor pushed.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Frame {
    pub(crate) rbp: u64,
    pub(crate) r10: u64,
    others: [u64; 13],
    pub(crate) vector: u64,
    pub(crate) error: u64,
    pub(crate) rip: u64,
    pub(crate) cs: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
    pub(crate) ss: u64,
}

// The processor aligns RSP to 16 before it pushes (Intel SDM vol. 3, 6.14.2),
// so a frame of a multiple of 16 leaves it aligned for the call.
const _: () = assert!(size_of::<Frame>() == 176);

// Vectors whose exception pushes an error code: Intel SDM vol. 3, table 6-1;
// #VC and #SX: AMD APM vol. 2, 8.2.
// No vector register is saved: code for this target uses none.
global_asm!(
    ".pushsection .text.vectors, \"ax\"",
    ".balign 16",
    ".global cloister_vectors",
    "cloister_vectors:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    ".if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)",
    ".else",
    ".byte 0x6a, 0", // push 0
    ".endif",
    ".byte 0x68", // push vector
    ".long vector",
    "jmp 2f",
    ".set vector, vector + 1",
    ".endr",
    ".balign 16",
    "2:",
    "push rax",
    "push rbx",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push r8",
    "push r9",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push r10",
    "push rbp",
    "mov rdi, rsp",
    "cld",
    "call {dispatch}",
    "pop rbp",
    "pop r10",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r11",
    "pop r9",
    "pop r8",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rbx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    ".popsection",
    dispatch = sym fault::dispatch,
);

unsafe extern "C" {
    safe static cloister_vectors: u8;
}

/// The operand of LIDT.
#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Loads the table on this core. Each core writes the same words into it.
pub(crate) fn load() {
    let stubs = (&raw const cloister_vectors).addr();
    for (vector, gate) in TABLE.0.chunks_exact(2).enumerate() {
        let address = (stubs + STUB * vector) as u64;
        let low = (address & 0xffff)
            | (CODE_SELECTOR << 16)
            | (INTERRUPT_GATE << 32)
            | ((address & 0xffff_0000) << 32);
        gate[0].store(low, Ordering::Relaxed);
        gate[1].store(address >> 32, Ordering::Relaxed);
    }
    let pointer = Pointer {
        limit: LIMIT,
        base: (&raw const TABLE).addr() as u64,
    };
    // SAFETY: every gate leads to a stub that saves and restores all registers
    // that compiled code uses.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, readonly)) }
}

/// Loads a table without gates: the next interrupt or exception of any kind
/// is a triple fault.
pub(crate) fn load_empty() {
    let pointer = Pointer { limit: 0, base: 0 };
    // SAFETY: no handler runs any more; the processor shuts down instead.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, readonly)) }
}
