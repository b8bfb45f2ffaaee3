//! The state that the hypervisor never uses and guests keep across exits:
//! x87, SSE, AVX and whatever else XSAVE manages, XCR0, DR0 to DR3.

use core::arch::asm;

use crate::arch::{cpu, msr};

/// An XSAVE area in standard format that says "everything in its initial
/// state" (Intel SDM vol. 1, "XSAVE Area"): legacy region, then the header,
/// whose XSTATE_BV is 0, so that no further byte is read.
#[repr(C, align(64))]
struct Area {
    /// Control word 0x37f, as FNINIT leaves it.
    control: u16,
    rest_of_x87: [u16; 11],
    /// All exceptions masked.
    mxcsr: u32,
    mxcsr_mask: u32,
    registers: [u8; 480],
    header: [u64; 8],
}

const _: () = assert!(size_of::<Area>() == 576);
const _: () = assert!(core::mem::offset_of!(Area, mxcsr) == 24);

static INITIAL: Area = Area {
    control: 0x37f,
    rest_of_x87: [0; 11],
    mxcsr: 0x1f80,
    mxcsr_mask: 0,
    registers: [0; 480],
    header: [0; 8],
};

const OSXSAVE: u64 = 1 << 18;

/// The guest's XCR0: the hypervisor leaves it alone. 0 where the processor has
/// no XSAVE.
pub(crate) fn xcr0() -> u64 {
    if cpu::cr4() & OSXSAVE == 0 {
        return 0;
    }
    // SAFETY: the hypervisor's CR4 has OSXSAVE.
    unsafe { cpu::xgetbv(0) }
}

/// The guest's IA32_XSS; 0 where there is none.
pub(crate) fn xss() -> u64 {
    const IA32_XSS: u32 = 0xda0;
    // SAFETY: a missing MSR is caught.
    unsafe { msr::try_read(IA32_XSS) }.unwrap_or(0)
}

/// What XCR0 may hold on this processor.
fn supported() -> u64 {
    let leaf = core::arch::x86_64::__cpuid_count(0xd, 0);
    u64::from(leaf.edx) << 32 | u64::from(leaf.eax)
}

/// Writes XCR0 for the guest, if the processor takes `value` (Intel SDM vol.
/// 1, "Enabling the XSAVE Feature Set"). Says whether it did.
pub(crate) fn set_xcr0(value: u64) -> bool {
    const X87: u64 = 1 << 0;
    const SSE: u64 = 1 << 1;
    const AVX: u64 = 1 << 2;
    const MPX: u64 = 3 << 3;
    const AVX512: u64 = 7 << 5;
    const AMX: u64 = 3 << 17;
    let whole = |bits| value & bits == 0 || value & bits == bits;
    let valid = cpu::cr4() & OSXSAVE != 0
        && value & X87 != 0
        && value & !supported() == 0
        && (value & AVX == 0 || value & SSE != 0)
        && (value & AVX512 == 0 || value & AVX != 0)
        && whole(MPX)
        && whole(AVX512)
        && whole(AMX);
    if valid {
        // SAFETY: the value is one that the processor accepts.
        unsafe { cpu::xsetbv(0, value) };
    }
    valid
}

/// Puts all of it into the state after a reset (Intel SDM vol. 3, table "IA-32
/// and Intel 64 Processor States Following Power-up, Reset, or INIT").
pub(crate) fn reset() {
    const X87: u64 = 1;
    let area = &raw const INITIAL;
    if cpu::cr4() & OSXSAVE == 0 {
        // SAFETY: CR4.OSFXSR is set (`cpu::enable_features`), and the area is
        // a legacy region, aligned. The hypervisor keeps nothing in these
        // registers.
        unsafe { asm!("fxrstor64 [{}]", in(reg) area, options(nostack, readonly)) };
    } else {
        let all = supported();
        // SAFETY: XCR0 takes what CPUID says it supports, and x87 alone; the
        // area is a whole one, as above.
        unsafe {
            cpu::xsetbv(0, all);
            asm!("xrstor64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX,
                 options(nostack, readonly));
            cpu::xsetbv(0, X87);
        }
    }
    // SAFETY: DR7 belongs to the guest's state; without it these four do
    // nothing, and the hypervisor sets no breakpoints.
    unsafe {
        asm!("mov dr0, {0}", "mov dr1, {0}", "mov dr2, {0}", "mov dr3, {0}", in(reg) 0_u64,
             options(nomem, nostack, preserves_flags));
    }
}
