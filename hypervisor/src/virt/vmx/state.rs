//! Guest state after a reset: 64-bit code, or real mode at a SIPI vector.

use core::arch::asm;

use x86::msr::{IA32_CSTAR, IA32_FMASK, IA32_KERNEL_GSBASE, IA32_LSTAR, IA32_STAR, IA32_TSC_AUX};

use super::control_registers::{Cr0, Cr4};
use super::controls::IA32E_GUEST;
use super::fields as f;
use super::vmcs::{SegmentFields, Vmcs};
use crate::arch::{cpu, msr};
use crate::virt::LongEntry;

/// EFER: LME, LMA and NXE.
const EFER_LONG: u64 = 1 << 8 | 1 << 10 | 1 << 11;
/// PAT at reset (SDM vol. 3, "Page Attribute Table").
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
/// RFLAGS with nothing but the bit that is always 1.
const RFLAGS_RESET: u64 = 2;
/// XCR0 at reset: x87 state alone.
const XCR0_RESET: u64 = 1;
const CR4_OSXSAVE: u64 = 1 << 18;
const DR6_RESET: u64 = 0xffff_0ff0;
const DR7_RESET: u64 = 0x400;

// Access rights (SDM vol. 3, table "Format of Access Rights").
const CODE_64: u32 = 0xa09b;
const DATA_FLAT: u32 = 0xc093;
const CODE_REAL: u32 = 0x9b;
const DATA_REAL: u32 = 0x93;
const TSS_BUSY: u32 = 0x8b;
const LDT: u32 = 0x82;

fn set_segment(
    vmcs: &Vmcs,
    segment: SegmentFields,
    (selector, base, limit, access_rights): (u16, u64, u32, u32),
) {
    vmcs.write(segment.selector, selector);
    vmcs.write(segment.base, base);
    vmcs.write(segment.limit, limit);
    vmcs.write(segment.access_rights, access_rights);
}

/// What both resets share: everything but segments, control registers, RIP
/// and RSP.
fn reset_common(vmcs: &Vmcs) {
    set_segment(vmcs, f::LDTR, (0, 0, 0xffff, LDT));
    set_segment(vmcs, f::TR, (0, 0, 0xffff, TSS_BUSY));
    vmcs.write(f::IDTR_BASE, 0);
    vmcs.write(f::RFLAGS, RFLAGS_RESET);
    vmcs.write(f::DR7, DR7_RESET);
    vmcs.write(f::DEBUGCTL, 0);
    vmcs.write(f::INTERRUPTIBILITY, 0);
    vmcs.write(f::ACTIVITY, 0);
    vmcs.write(f::PENDING_DEBUG, 0);
    vmcs.write(f::ENTRY_EVENT, 0);
    // No VMCS shadowing: "VMCS link pointer" must be all ones.
    vmcs.write(f::LINK_POINTER, u64::MAX);
    // SAFETY: the hypervisor uses neither CR2 nor hardware breakpoints; the
    // core is this vCPU's own, so they are the guest's.
    unsafe {
        cpu::set_cr2(0);
        asm!("mov dr0, {0}", "mov dr1, {0}", "mov dr2, {0}", "mov dr3, {0}", "mov dr6, {1}",
             in(reg) 0_u64, in(reg) DR6_RESET, options(nomem, nostack, preserves_flags));
    }
}

fn set_sysenter(vmcs: &Vmcs) {
    vmcs.write(f::SYSENTER_CS, 0);
    vmcs.write(f::SYSENTER_ESP, 0);
    vmcs.write(f::SYSENTER_EIP, 0);
}

/// Keeps the entry control "IA-32e mode guest" in step with EFER.LMA.
fn set_ia32e(vmcs: &Vmcs, on: bool) {
    let word = vmcs.read(f::ENTRY_CONTROLS);
    let word = if on {
        word | IA32E_GUEST
    } else {
        word & !IA32E_GUEST
    };
    // SAFETY: the control only says what mode the guest is in.
    unsafe { vmcs.write_critical(f::ENTRY_CONTROLS, word) };
}

/// Ring-0 64-bit code with interrupts off. What the hypervisor does not switch
/// is as after a reset, but for the contents of vector registers.
pub(super) fn reset_long(vmcs: &Vmcs, cr0: &Cr0, cr4: &Cr4, entry: &LongEntry) {
    reset_common(vmcs);
    set_sysenter(vmcs);
    cr0.reset(vmcs, Cr0::LONG);
    cr4.reset(vmcs, Cr4::LONG);
    vmcs.write(f::CR3, entry.cr3);
    vmcs.write(f::EFER, EFER_LONG);
    vmcs.write(f::PAT, PAT_RESET);
    set_ia32e(vmcs, true);
    set_segment(vmcs, f::CS, (entry.code_selector, 0, u32::MAX, CODE_64));
    for segment in [f::SS, f::DS, f::ES, f::FS, f::GS] {
        set_segment(vmcs, segment, (entry.data_selector, 0, u32::MAX, DATA_FLAT));
    }
    vmcs.write(f::GDTR_BASE, entry.gdt);
    vmcs.write(f::GDTR_LIMIT, u32::from(entry.gdt_limit));
    vmcs.write(f::IDTR_LIMIT, 0);
    vmcs.write(f::RIP, entry.rip);
    vmcs.write(f::RSP, entry.rsp);
    // SAFETY: SYSCALL, SWAPGS, RDTSCP and extended state are not used by the
    // hypervisor; all but TSC_AUX exist in long mode, XCR0 with CR4.OSXSAVE.
    unsafe {
        for index in [
            IA32_STAR,
            IA32_LSTAR,
            IA32_CSTAR,
            IA32_FMASK,
            IA32_KERNEL_GSBASE,
        ] {
            msr::write(index, 0);
        }
        msr::try_write(IA32_TSC_AUX, 0);
        if cpu::cr4() & CR4_OSXSAVE != 0 {
            cpu::xsetbv(0, XCR0_RESET);
        }
        asm!("fninit", options(nomem, nostack));
    }
}

/// Real mode at `vector << 12` (SDM vol. 3, table "IA-32 and Intel 64
/// Processor States Following Power-up, Reset, or INIT"). What INIT leaves
/// alone (x87 and SSE state, SYSENTER, SYSCALL, PAT, CR0.CD and NW) is left
/// alone.
pub(super) fn reset_sipi(vmcs: &Vmcs, cr0: &Cr0, cr4: &Cr4, vector: u8) {
    reset_common(vmcs);
    cr0.reset(vmcs, Cr0::INIT | cr0.cache_bits(vmcs));
    cr4.reset(vmcs, 0);
    vmcs.write(f::CR3, 0);
    vmcs.write(f::EFER, 0);
    set_ia32e(vmcs, false);
    let vector = u16::from(vector);
    set_segment(
        vmcs,
        f::CS,
        (vector << 8, u64::from(vector) << 12, 0xffff, CODE_REAL),
    );
    for segment in [f::SS, f::DS, f::ES, f::FS, f::GS] {
        set_segment(vmcs, segment, (0, 0, 0xffff, DATA_REAL));
    }
    vmcs.write(f::GDTR_BASE, 0);
    vmcs.write(f::GDTR_LIMIT, 0xffff);
    vmcs.write(f::IDTR_LIMIT, 0xffff);
    vmcs.write(f::RIP, 0);
    vmcs.write(f::RSP, 0);
}

/// What a vCPU has before its first reset.
pub(super) fn initial(vmcs: &Vmcs) {
    set_sysenter(vmcs);
    vmcs.write(f::PAT, PAT_RESET);
}
