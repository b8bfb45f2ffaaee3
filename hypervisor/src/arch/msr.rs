//! Model-specific registers.

use core::arch::{asm, global_asm};

/// Reads MSR `index`.
///
/// # Safety
/// The MSR exists on this processor: a missing one is a fault of the
/// hypervisor.
#[inline]
pub(crate) unsafe fn read(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller vouches for the MSR.
    unsafe {
        asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high,
             options(nomem, nostack, preserves_flags));
    }
    (u64::from(high) << 32) | u64::from(low)
}

/// Writes MSR `index`.
///
/// # Safety
/// The MSR exists, the value is valid for it, and what it changes leaves the
/// hypervisor and everybody's memory intact.
#[inline]
pub(crate) unsafe fn write(index: u32, value: u64) {
    #[expect(clippy::cast_possible_truncation, reason = "split in halves")]
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the caller vouches for MSR and value. Some MSRs change how
    // memory is seen, so no `nomem`.
    unsafe {
        asm!("wrmsr", in("ecx") index, in("eax") low, in("edx") high,
             options(nostack, preserves_flags));
    }
}

// RDMSR and WRMSR that may fault: the fault handler finds the instruction in
// the `.fixup` table and continues at the second address with RAX = 0 (failed).
global_asm!(
    r#"
.macro FIXUP from, to
    .pushsection .fixup, "a"
    .quad \from, \to
    .popsection
.endm

.global cloister_try_rdmsr
cloister_try_rdmsr:
    mov ecx, edi
1:  rdmsr
    shl rdx, 32
    or rax, rdx
    mov [rsi], rax
    mov eax, 1
    ret
2:  xor eax, eax
    ret
    FIXUP 1b, 2b

.global cloister_try_wrmsr
cloister_try_wrmsr:
    mov ecx, edi
    mov rax, rsi
    mov rdx, rsi
    shr rdx, 32
3:  wrmsr
    mov eax, 1
    ret
4:  xor eax, eax
    ret
    FIXUP 3b, 4b
"#
);

unsafe extern "sysv64" {
    fn cloister_try_rdmsr(index: u32, value: &mut u64) -> u32;
    fn cloister_try_wrmsr(index: u32, value: u64) -> u32;
}

/// Reads MSR `index`; `None` if the processor raises #GP.
///
/// # Safety
/// Reading it has no side effect on what the hypervisor relies on.
pub(crate) unsafe fn try_read(index: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: a fault is caught by the fixup; the caller vouches for the rest.
    let ok = unsafe { cloister_try_rdmsr(index, &mut value) };
    (ok != 0).then_some(value)
}

/// Writes MSR `index`; `false` if the processor raises #GP.
///
/// # Safety
/// As [`write`], but the MSR need not exist and the value may be invalid.
pub(crate) unsafe fn try_write(index: u32, value: u64) -> bool {
    // SAFETY: a fault is caught by the fixup; the caller vouches for the rest.
    unsafe { cloister_try_wrmsr(index, value) != 0 }
}
