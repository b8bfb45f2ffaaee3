//! The state that the hypervisor never uses and guests keep across exits:
//! x87, SSE, AVX and whatever else XSAVE manages, XCR0, DR0 to DR3.

use core::arch::asm;

use crate::arch::cpu;

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

/// Puts all of it into the state after a reset (Intel SDM vol. 3, table "IA-32
/// and Intel 64 Processor States Following Power-up, Reset, or INIT").
pub(crate) fn reset() {
    const OSXSAVE: u64 = 1 << 18;
    const X87: u64 = 1;
    let area = &raw const INITIAL;
    if cpu::cr4() & OSXSAVE == 0 {
        // SAFETY: CR4.OSFXSR is set (`cpu::enable_features`), and the area is
        // a legacy region, aligned. The hypervisor keeps nothing in these
        // registers.
        unsafe { asm!("fxrstor64 [{}]", in(reg) area, options(nostack, readonly)) };
    } else {
        let leaf = core::arch::x86_64::__cpuid_count(0xd, 0);
        let all = u64::from(leaf.edx) << 32 | u64::from(leaf.eax);
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
