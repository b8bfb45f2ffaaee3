//! A hardware task switch (Intel SDM vol. 3, "Task Management"), which exists
//! outside of long mode only. It never comes back: a VM exit on Intel; on AMD
//! the new task meets #UD without a table of handlers.

use core::arch::asm;

/// A TSS of 32 bits, in words (SDM vol. 3, figure "32-Bit Task-State Segment").
type Tss = [u32; 26];

const CODE: u32 = 0x08;
const DATA: u32 = 0x10;

static mut TASKS: [Tss; 2] = [[0; 26]; 2];
/// Null, flat code and data of 32 bits, the two tasks.
static mut GDT: [u64; 5] = [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0, 0];

#[repr(C, packed)]
pub(crate) struct Pointer {
    pub(crate) limit: u16,
    pub(crate) base: u64,
}

/// Descriptor of an available 32-bit TSS at `address`, below 4 GiB.
fn descriptor(address: u64) -> u64 {
    let limit = size_of::<Tss>() as u64 - 1;
    limit | (address & 0x00ff_ffff) << 16 | 0x89 << 40 | (address >> 24 & 0xff) << 56
}

/// Leaves long mode and switches to another task.
#[inline(never)]
pub(crate) fn switch() -> ! {
    const EIP: usize = 8;
    const EFLAGS: usize = 9;
    const ES: usize = 18;
    const CS: usize = 19;
    const SS: usize = 20;
    const DS: usize = 21;
    // SAFETY: one core, and all of it lies in the program's memory, which is
    // mapped at its own address below 4 GiB. The program ends here.
    unsafe {
        let tasks = &raw mut TASKS;
        for (word, value) in [(EFLAGS, 2), (ES, DATA), (CS, CODE), (SS, DATA), (DS, DATA)] {
            (*tasks)[1][word] = value;
        }
        for (index, place) in [(0, 3), (1, 4)] {
            GDT[place] = descriptor((&raw const (*tasks)[index]).addr() as u64);
        }
        let pointer = Pointer {
            limit: 39,
            base: (&raw const GDT).addr() as u64,
        };
        let empty = Pointer { limit: 0, base: 0 };
        asm!(
            "cli",
            "lidt [{empty}]",
            "lea {scratch}, [rip + 3f]",
            "mov dword ptr [{eip}], {scratch:e}",
            "lgdt [{pointer}]",
            "push 8",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            ".code32",
            "2:",
            "mov eax, 0x10",
            "mov ds, eax",
            "mov es, eax",
            "mov ss, eax",
            "mov eax, cr0",
            "and eax, 0x7fffffff",
            "mov cr0, eax",
            "mov eax, 0x18",
            "ltr ax",
            // JMP 0x20:0.
            ".byte 0xea",
            ".long 0",
            ".word 0x20",
            "3:",
            "ud2",
            ".code64",
            empty = in(reg) &raw const empty,
            pointer = in(reg) &raw const pointer,
            eip = in(reg) &raw mut (*tasks)[1][EIP],
            scratch = in(reg) 0_u64,
            options(noreturn),
        )
    }
}
