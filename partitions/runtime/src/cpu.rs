//! Instructions that Rust has no name for.

use core::arch::asm;

pub use core::arch::x86_64::CpuidResult;

/// Time-stamp counter, in cycles of `Partition::tsc_hz`. Not ordered against
/// the instructions around it (Intel SDM vol. 2, RDTSC).
#[inline(always)]
#[must_use]
pub fn rdtsc() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: reads a counter; CR4.TSD is clear and ring 0 may in any case.
    unsafe {
        asm!("rdtsc", out("rax") low, out("rdx") high, options(nomem, nostack, preserves_flags));
    }
    (high << 32) | low
}

/// Time-stamp counter and IA32_TSC_AUX, after all earlier instructions.
/// #UD on a processor or in a partition without RDTSCP.
#[inline]
#[must_use]
pub fn rdtscp() -> (u64, u32) {
    let (low, high): (u64, u64);
    let aux: u32;
    // SAFETY: reads a counter and an MSR that holds a number.
    unsafe {
        asm!("rdtscp", out("rax") low, out("rdx") high, out("ecx") aux,
             options(nomem, nostack, preserves_flags));
    }
    ((high << 32) | low, aux)
}

/// CPUID. One exit.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    core::arch::x86_64::__cpuid_count(leaf, subleaf)
}

/// Reads MSR `index`. One exit where the hypervisor intercepts that MSR.
///
/// # Safety
/// The partition may read it: a denied MSR raises #GP, which ends the program.
/// [`crate::provoke::read_msr`] recovers from it.
#[must_use]
pub unsafe fn rdmsr(index: u32) -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: the caller answers for the MSR.
    unsafe {
        asm!("rdmsr", in("ecx") index, out("rax") low, out("rdx") high,
             options(nostack, preserves_flags));
    }
    (high << 32) | low
}

/// Writes MSR `index`. One exit where the hypervisor intercepts that MSR.
///
/// # Safety
/// The partition may write it, and `value` breaks nothing that Rust relies on.
pub unsafe fn wrmsr(index: u32, value: u64) {
    // SAFETY: the caller answers for MSR and value.
    unsafe {
        asm!("wrmsr", in("ecx") index, in("rax") value, in("rdx") value >> 32,
             options(nostack, preserves_flags));
    }
}

macro_rules! ports {
    ($($width:literal $type:ident $register:tt $input:ident $output:ident;)*) => {$(
        #[doc = concat!("Reads ", $width, " from `port`. A denied port exits and reads ones.")]
        ///
        /// # Safety
        /// Reading may have effects in the device; they break nothing that
        /// Rust relies on.
        #[must_use]
        pub unsafe fn $input(port: u16) -> $type {
            let value;
            // SAFETY: the caller answers for the port.
            unsafe {
                asm!(concat!("in ", $register, ", dx"), out($register) value, in("dx") port,
                     options(nostack, preserves_flags));
            }
            value
        }

        #[doc = concat!("Writes ", $width, " to `port`. A denied port exits and drops it.")]
        ///
        /// # Safety
        /// What the device does with it breaks nothing that Rust relies on.
        pub unsafe fn $output(port: u16, value: $type) {
            // SAFETY: the caller answers for port and value.
            unsafe {
                asm!(concat!("out dx, ", $register), in($register) value, in("dx") port,
                     options(nostack, preserves_flags));
            }
        }
    )*};
}

ports! {
    "a byte" u8 "al" inb outb;
    "16 bits" u16 "ax" inw outw;
    "32 bits" u32 "eax" inl outl;
}

/// PAUSE: for the body of a loop that waits for another core.
#[inline(always)]
pub fn pause() {
    core::hint::spin_loop();
}

/// Waits for `cycles` of the time-stamp counter.
pub fn wait(cycles: u64) {
    let start = rdtsc();
    while rdtsc().wrapping_sub(start) < cycles {
        pause();
    }
}

/// Disables external interrupts (CLI).
pub fn cli() {
    // SAFETY: fewer interrupts break nothing.
    unsafe { asm!("cli", options(nostack)) }
}

/// Enables external interrupts (STI).
pub fn sti() {
    // SAFETY: the IDT has a gate for every vector before `main` runs.
    unsafe { asm!("sti", options(nostack)) }
}

/// CR2: the address of the last page fault.
#[must_use]
pub fn cr2() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

/// CR3: the address of the top-level page table, and flags in bits 0 to 11.
#[must_use]
pub fn cr3() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Drops this core's cached translations, except global ones (MOV to CR3 of
/// what is in it).
pub fn flush_tlb() {
    // SAFETY: the page tables stay the same.
    unsafe {
        asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags));
    }
}

/// RFLAGS.IF: whether external interrupts are enabled.
#[must_use]
pub fn interrupts_enabled() -> bool {
    let flags: u64;
    // SAFETY: copies RFLAGS through the stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(nomem, preserves_flags)) }
    flags & (1 << 9) != 0
}
