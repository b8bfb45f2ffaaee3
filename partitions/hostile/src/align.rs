//! An alignment check that never ends (CVE-2015-5307): in user mode, on a
//! misaligned stack, with a handler of #AC in user mode, the delivery of the
//! exception raises it again. In protected mode without paging: 64-bit mode
//! aligns the stack first (Intel SDM vol. 3, "Alignment Check Exception (#AC)",
//! "Stack Frame in IA-32e Mode").

use core::arch::asm;

use crate::task::Pointer;

/// Null; flat code and data of 32 bits for ring 0, and for ring 3.
static mut GDT: [u64; 5] = [
    0,
    0x00cf_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_fb00_0000_ffff,
    0x00cf_f300_0000_ffff,
];
/// Gates of 32 bits up to #AC, of which only that is there: a trap gate for
/// everybody into the code of ring 3; the handler's address is yet to come.
static mut GATES: [[u16; 4]; 18] = {
    let mut gates = [[0; 4]; 18];
    gates[17] = [0, 0x1b, 0xef00, 0];
    gates
};
static mut STACK: [u64; 64] = [0; 64];

/// Goes into the loop.
#[inline(never)]
pub(crate) fn check_forever() -> ! {
    // SAFETY: one core, and all of it lies in the program's memory, which is
    // mapped at its own address below 4 GiB. The program never comes back.
    unsafe {
        let gdt = Pointer {
            limit: 39,
            base: (&raw const GDT).addr() as u64,
        };
        let idt = Pointer {
            limit: 143,
            base: (&raw const GATES).addr() as u64,
        };
        asm!(
            "cli",
            "lidt [{idt}]",
            "lgdt [{gdt}]",
            "lea rdx, [rip + 3f]",
            "mov eax, edx",
            "mov word ptr [{gate}], ax",
            "shr eax, 16",
            "mov word ptr [{gate} + 6], ax",
            "push 8",
            "lea rax, [rip + 2f]",
            "push rax",
            "retfq",
            ".code32",
            "2:",
            "mov eax, 0x10",
            "mov ds, eax",
            "mov es, eax",
            "mov ss, eax",
            // CR0.PG off, CR0.AM on.
            "mov eax, cr0",
            "and eax, 0x7fffffff",
            "or eax, 0x40000",
            "mov cr0, eax",
            "push 0x23",
            "push ecx",
            // EFLAGS.AC.
            "push 0x40002",
            "push 0x1b",
            "push edx",
            "iretd",
            "3:",
            "push eax",
            "pop eax",
            "jmp 3b",
            ".code64",
            idt = in(reg) &raw const idt,
            gdt = in(reg) &raw const gdt,
            gate = in(reg) &raw mut GATES[17],
            in("rcx") (&raw const STACK).addr() + 257,
            in("rax") 0_u64,
            in("rdx") 0_u64,
            options(noreturn),
        )
    }
}
