//! The program's own image: overwritten, and code that changes itself.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use cloister_runtime::{Partition, println, provoke};

use crate::{Counts, Outcome, raw, strict};

const PRISTINE: u64 = 0x0123_4567_89ab_cdef;
static DATA: AtomicU64 = AtomicU64::new(PRISTINE);
static ZERO: AtomicU64 = AtomicU64::new(0);

/// Code that is overwritten, and its answer.
#[inline(never)]
extern "C" fn answer() -> u64 {
    core::hint::black_box(42)
}

/// First run: overwrites data, code, the GDT, and all memory behind the image;
/// then a violation. Second run: everything must be as loaded.
pub(crate) fn overwrite(partition: &Partition) -> Outcome {
    let behind = provoke::image_end().next_multiple_of(0x1000);
    let end = partition.info().memory;
    if partition.restarts() > 0 {
        let mut counts = Counts::default();
        let dirty = (behind..end).step_by(8).filter(|&at| {
            // SAFETY: RAM of the partition that nothing uses.
            unsafe { core::ptr::with_exposed_provenance::<u64>(as_usize(at)).read_volatile() != 0 }
        });
        counts.done = dirty.count() as u64;
        let clean = DATA.load(Ordering::Relaxed) == PRISTINE
            && ZERO.load(Ordering::Relaxed) == 0
            && answer() == 42
            && counts.done == 0;
        return if clean {
            Ok(counts)
        } else {
            Err("something of the last run is left")
        };
    }
    println!("overwriting {behind:#x} to {end:#x}");
    DATA.store(!0, Ordering::Relaxed);
    ZERO.store(!0, Ordering::Relaxed);
    strict()?;
    // SAFETY: this run of the program ends here, and none of it is used any
    // more but these instructions: the function `answer`, all memory behind
    // the image, and the loader's first pages but its page tables are
    // overwritten.
    unsafe {
        asm!(
            "cld",
            "mov rdi, r8", "mov ecx, 8", "rep stosb",
            "mov rdi, 0x1000", "mov ecx, 64", "rep stosb",
            "mov rdi, r9", "mov rcx, r10", "rep stosb",
            "cpuid",
            "ud2",
            in("r8") answer as *const () as u64,
            in("r9") behind,
            in("r10") end - behind,
            in("al") 0xccu8,
            options(noreturn)
        );
    }
}

fn as_usize(address: u64) -> usize {
    usize::try_from(address).unwrap_or(0)
}

/// Changes an instruction before each of its executions, some of which exit.
pub(crate) fn modify() -> Outcome {
    #[repr(C, align(64))]
    struct Code(core::cell::UnsafeCell<[u8; 64]>);
    // SAFETY: one core uses it.
    unsafe impl Sync for Code {}
    static CODE: Code = Code(core::cell::UnsafeCell::new([0; 64]));
    let at = CODE.0.get().cast::<u8>();
    let mut counts = Counts::default();
    for round in 0..20_000u32 {
        let number = round.to_le_bytes();
        // push rbx; mov ecx, 0; [cpuid | two one-byte NOPs]; mov eax, round;
        // pop rbx; ret
        let middle = if round % 2 == 0 {
            [0x0f, 0xa2]
        } else {
            [0x90, 0x90]
        };
        let code = [
            0x53, 0x31, 0xc9, middle[0], middle[1], 0xb8, number[0], number[1], number[2],
            number[3], 0x5b, 0xc3,
        ];
        let mut result = 0u64;
        // SAFETY: the bytes are the code above; RAM is executable.
        unsafe {
            for (offset, byte) in code.into_iter().enumerate() {
                at.add(offset).write_volatile(byte);
            }
            asm!("call {at}", at = in(reg) at, inout("rax") result, out("rcx") _, out("rdx") _);
        }
        if result != u64::from(round) {
            return Err("changed code did not run");
        }
        counts.done += 1;
    }
    raw::cpuid(0);
    Ok(counts)
}
