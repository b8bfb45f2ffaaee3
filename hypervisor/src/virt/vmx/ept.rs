//! The EPT pointer, and INVEPT and INVVPID (Intel SDM vol. 3, "VMX Support for
//! Address Translation").
//!
//! CVE-2018-12207 (iTLB multihit): on affected processors a guest that changes
//! the size of one of its own executable pages without flushing can hit two
//! iTLB entries of different size, if the nested entry is a large page, and
//! raise a machine check that stops the whole machine. The cure is to give
//! executable memory only in 4 KiB nested pages.
//! [`large_executable_pages_safe`] says whether that is needed; who builds the
//! nested page tables decides. Linux, which the operator trusts with the
//! machine anyway, keeps its large pages.

use core::arch::asm;

use x86::msr::IA32_VMX_EPT_VPID_CAP;

use super::controls::leaf;
use crate::arch::msr;
use crate::virt::Unsupported;

/// EPTP: write-back tables, a walk of four levels, accessed and dirty flags
/// off (SDM vol. 3, table "Format of Extended-Page-Table Pointer").
const WRITE_BACK: u64 = 6;
const FOUR_LEVELS: u64 = 3 << 3;

/// IA32_VMX_EPT_VPID_CAP: what Cloister needs of it.
const NEEDED: [(u64, &str); 8] = [
    (
        1 << 6,
        "EPT page walks of four levels (IA32_VMX_EPT_VPID_CAP, MSR 0x48c, bit 6)",
    ),
    (
        1 << 14,
        "write-back EPT tables (IA32_VMX_EPT_VPID_CAP, MSR 0x48c, bit 14)",
    ),
    (
        1 << 16,
        "2 MiB EPT pages (IA32_VMX_EPT_VPID_CAP, MSR 0x48c, bit 16)",
    ),
    (1 << 20, "INVEPT (IA32_VMX_EPT_VPID_CAP, MSR 0x48c, bit 20)"),
    (
        1 << 25,
        "single-context INVEPT (IA32_VMX_EPT_VPID_CAP, MSR 0x48c, bit 25)",
    ),
    (
        1 << 26,
        "all-context INVEPT (IA32_VMX_EPT_VPID_CAP, MSR 0x48c, bit 26)",
    ),
    (
        1 << 32 | 1 << 41,
        "single-context INVVPID (IA32_VMX_EPT_VPID_CAP, MSR 0x48c, bits 32 and 41)",
    ),
    (
        1 << 32 | 1 << 42,
        "all-context INVVPID (IA32_VMX_EPT_VPID_CAP, MSR 0x48c, bits 32 and 42)",
    ),
];
const GIB_PAGES: u64 = 1 << 17;

const IA32_ARCH_CAPABILITIES: u32 = 0x10a;
/// IF_PSCHANGE_MC_NO: no machine check on a change of page size.
const IF_PSCHANGE_MC_NO: u64 = 1 << 6;

const SINGLE_CONTEXT: u64 = 1;
const ALL_CONTEXTS: u64 = 2;

/// Whether the processor's EPT and VPID do what Cloister needs.
///
/// # Errors
/// Names the feature; the value is the MSR.
///
/// # Safety
/// The processor has VMX with EPT or VPID.
pub(super) unsafe fn check() -> Result<(), Unsupported> {
    // SAFETY: the caller vouches for the MSR.
    let value = unsafe { msr::read(IA32_VMX_EPT_VPID_CAP) };
    match NEEDED.iter().find(|(mask, _)| value & mask != *mask) {
        Some((_, what)) => Err(Unsupported { what, value }),
        None => Ok(()),
    }
}

/// Whether EPT maps 1 GiB pages.
///
/// # Safety
/// As [`check`].
pub(super) unsafe fn has_gib_pages() -> bool {
    // SAFETY: the caller vouches for the MSR.
    unsafe { msr::read(IA32_VMX_EPT_VPID_CAP) & GIB_PAGES != 0 }
}

/// Whether executable memory may be mapped by large nested pages without
/// giving a guest CVE-2018-12207.
pub(super) fn large_executable_pages_safe() -> bool {
    let has_capabilities = leaf(7, 0).edx & 1 << 29 != 0;
    // SAFETY: CPUID says that the MSR exists.
    has_capabilities && unsafe { msr::read(IA32_ARCH_CAPABILITIES) } & IF_PSCHANGE_MC_NO != 0
}

/// EPTP for the table at `root`.
pub(super) fn pointer(root: u64) -> u64 {
    root | FOUR_LEVELS | WRITE_BACK
}

macro_rules! invalidate {
    ($instruction:literal, $kind:expr, $low:expr) => {{
        let descriptor: [u64; 2] = [$low, 0];
        let done: u8;
        asm!(
            concat!($instruction, " {kind}, [{descriptor}]"),
            "setnbe {done}",
            kind = in(reg) $kind,
            descriptor = in(reg) &raw const descriptor,
            done = out(reg_byte) done,
            options(nostack),
        );
        assert!(done != 0, concat!($instruction, " failed"));
    }};
}

/// Drops what this core has cached of the nested page table `eptp`.
///
/// # Safety
/// VMX root operation, after a successful [`check`].
pub(super) unsafe fn flush_ept(eptp: u64) {
    // SAFETY: the caller vouches for the instruction and its type.
    unsafe { invalidate!("invept", SINGLE_CONTEXT, eptp) }
}

/// Drops what this core has cached of the guest's own page tables.
///
/// # Safety
/// As [`flush_ept`]; `vpid` is not 0.
pub(super) unsafe fn flush_vpid(vpid: u16) {
    // SAFETY: the caller vouches for the instruction and its type.
    unsafe { invalidate!("invvpid", SINGLE_CONTEXT, u64::from(vpid)) }
}

/// Drops everything, of whatever ran here before Cloister.
///
/// # Safety
/// As [`flush_ept`].
pub(super) unsafe fn flush_all() {
    // SAFETY: the caller vouches for the instructions and their types.
    unsafe {
        invalidate!("invept", ALL_CONTEXTS, 0);
        invalidate!("invvpid", ALL_CONTEXTS, 0);
    }
}
