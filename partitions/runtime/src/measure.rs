//! Times single instructions by the time-stamp counter, for programs that
//! measure what an exit costs.
//!
//! Each function returns the cycles from one RDTSC to the next, between which
//! stand three moves and the instruction; [`nothing`] has the moves alone, so
//! that the difference is the instruction and what it caused. Differences of up
//! to 2^32 cycles are right.

use core::arch::asm;

use cloister_abi::Hypercall;

use crate::provoke::APIC_BASE;
use crate::start;

/// Times one instruction with RAX, RCX and RDX as given. RBX, which CPUID
/// writes and the compiler keeps to itself, is kept in R11.
macro_rules! timed {
    ($instruction:literal, $rax:expr, $rcx:expr, $rdx:expr) => {{
        let cycles: u32;
        asm!(
            "mov r11, rbx",
            "rdtsc",
            "mov r8d, eax",
            "mov rax, r9",
            "mov rdx, r10",
            $instruction,
            "rdtsc",
            "sub eax, r8d",
            "mov rbx, r11",
            in("r9") u64::from($rax),
            in("r10") u64::from($rdx),
            inout("rcx") u64::from($rcx) => _,
            lateout("eax") cycles,
            lateout("rdx") _,
            out("r8") _,
            out("r11") _,
            options(nostack),
        );
        cycles
    }};
}

/// The empty sequence.
#[inline(never)]
#[must_use]
pub fn nothing() -> u32 {
    // SAFETY: moves between registers that are declared.
    unsafe { timed!("", 0u64, 0u64, 0u64) }
}

/// CPUID.
#[inline(never)]
#[must_use]
pub fn cpuid(leaf: u32) -> u32 {
    // SAFETY: writes the four registers that `timed` has declared or restores.
    unsafe { timed!("cpuid", leaf, 0u64, 0u64) }
}

/// The hypercall that does nothing.
#[inline(never)]
#[must_use]
pub fn null_hypercall() -> u32 {
    let number = Hypercall::Null as u64;
    // SAFETY: the call changes RAX alone (cloister_abi::hypercall).
    unsafe {
        if start::hypercall_is_vmmcall() {
            timed!("vmmcall", number, 0u64, 0u64)
        } else {
            timed!("vmcall", number, 0u64, 0u64)
        }
    }
}

/// RDMSR of EFER, which every partition may read and the hypervisor emulates.
#[inline(never)]
#[must_use]
pub fn read_efer() -> u32 {
    const EFER: u64 = 0xc000_0080;
    // SAFETY: reads a register.
    unsafe { timed!("rdmsr", 0u64, EFER, 0u64) }
}

/// IN of one byte.
#[inline(never)]
#[must_use]
pub fn read_port(port: u16) -> u32 {
    // SAFETY: no device writes memory because a port is read.
    unsafe { timed!("in al, dx", 0u64, 0u64, port) }
}

/// A write to a register in the xAPIC's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicWrite {
    /// The end of the interrupt in service, if there is one.
    Eoi,
    /// The timer's initial count; 0 stops it.
    TimerInitialCount(u32),
    /// The interrupt command register: this vector, to the core itself. It
    /// stays pending until interrupts are enabled.
    SendSelf(u8),
}

/// ICR: assert, shorthand "self" (Intel SDM vol. 3, figure 10-12).
const ICR_SELF: u32 = 1 << 18 | 1 << 14;

impl ApicWrite {
    /// Offset in the page (Intel SDM vol. 3, table 10-1), and the value.
    fn offset_and_value(self) -> (u64, u32) {
        match self {
            Self::Eoi => (0xb0, 0),
            Self::TimerInitialCount(count) => (0x380, count),
            Self::SendSelf(vector) => (0x300, ICR_SELF | u32::from(vector)),
        }
    }
}

/// A write to the xAPIC's page at [`APIC_BASE`], which
/// [`crate::paging::map_device_page`] must have mapped. In a partition without
/// a local APIC it ends the partition.
#[inline(never)]
#[must_use]
pub fn write_apic(write: ApicWrite) -> u32 {
    let (offset, value) = write.offset_and_value();
    // SAFETY: the page is the local APIC's; without one the partition ends.
    unsafe { timed!("mov dword ptr [rcx], eax", value, APIC_BASE + offset, 0u64) }
}

/// WRMSR of the x2APIC's ICR: `vector`, to the core itself. It stays pending
/// until interrupts are enabled.
#[inline(never)]
#[must_use]
pub fn send_self_x2apic(vector: u8) -> u32 {
    const X2APIC_ICR: u64 = 0x830;
    let value = ICR_SELF | u32::from(vector);
    // SAFETY: every vector has a handler.
    unsafe { timed!("wrmsr", value, X2APIC_ICR, 0u64) }
}

/// A loop of [`loop_instructions`]`(iterations)` instructions, for finding out
/// how fast the counter is. 0 iterations count as 1.
#[inline(never)]
#[must_use]
pub fn counted_loop(iterations: u32) -> u32 {
    let cycles: u32;
    // SAFETY: counts a register down.
    unsafe {
        asm!(
            "rdtsc",
            "mov r8d, eax",
            "2:",
            "dec ecx",
            "jnz 2b",
            "rdtsc",
            "sub eax, r8d",
            inout("ecx") iterations.max(1) => _,
            lateout("eax") cycles,
            lateout("edx") _,
            out("r8") _,
            options(nomem, nostack),
        );
    }
    cycles
}

/// Instructions from one RDTSC of [`counted_loop`] to the next, of which one
/// counts.
#[must_use]
pub const fn loop_instructions(iterations: u32) -> u32 {
    let iterations = if iterations == 0 { 1 } else { iterations };
    iterations.saturating_mul(2).saturating_add(2)
}
