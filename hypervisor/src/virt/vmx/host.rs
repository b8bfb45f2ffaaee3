//! Host state: what the core becomes at an exit. Read live from the core, so
//! that it is this core's own tables, stack and GS base (Intel SDM vol. 3,
//! "Loading Host State").

use core::arch::asm;

use x86::msr::{
    IA32_EFER, IA32_FS_BASE, IA32_GS_BASE, IA32_PAT, IA32_SYSENTER_CS, IA32_SYSENTER_EIP,
    IA32_SYSENTER_ESP,
};

use super::entry::{self, Context};
use super::fields as f;
use super::vmcs::Vmcs;
use crate::arch::{cpu, msr};

/// Requested privilege level and table indicator: 0 in host selectors (SDM
/// vol. 3, "Checks on Host Segment and Descriptor-Table Registers").
const SELECTOR_INDEX: u16 = !7;

macro_rules! selector {
    ($instruction:literal) => {{
        let value: u16;
        // SAFETY: reads a selector.
        unsafe {
            asm!($instruction, out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value & SELECTOR_INDEX
    }};
}

/// Fills the host state of the current VMCS from the running core.
///
/// # Safety
/// The core runs on the tables and with the GS base that it keeps, and
/// `context` is the one that this VMCS is entered with.
pub(super) unsafe fn save(vmcs: &Vmcs, context: &Context) {
    let selectors = [
        (f::HOST_ES, selector!("mov {:x}, es")),
        (f::HOST_CS, selector!("mov {:x}, cs")),
        (f::HOST_SS, selector!("mov {:x}, ss")),
        (f::HOST_DS, selector!("mov {:x}, ds")),
        (f::HOST_FS, selector!("mov {:x}, fs")),
        (f::HOST_GS, selector!("mov {:x}, gs")),
    ];
    let tr = selector!("str {:x}");
    let gdtr = cpu::gdtr();
    // SAFETY: these are the values in force, so an exit changes nothing but
    // RSP and RIP, which lead to `cloister_vmx_exit`; the MSRs exist on every
    // processor in long mode.
    unsafe {
        vmcs.write_critical(f::HOST_CR0, cpu::cr0());
        vmcs.write_critical(f::HOST_CR3, cpu::cr3());
        vmcs.write_critical(f::HOST_CR4, cpu::cr4());
        for (field, selector) in selectors {
            vmcs.write_critical(field, selector);
        }
        vmcs.write_critical(f::HOST_TR, tr);
        vmcs.write_critical(f::HOST_TR_BASE, system_segment_base(gdtr.base, tr));
        vmcs.write_critical(f::HOST_GDTR_BASE, gdtr.base);
        vmcs.write_critical(f::HOST_IDTR_BASE, cpu::idtr().base);
        vmcs.write_critical(f::HOST_FS_BASE, msr::read(IA32_FS_BASE));
        vmcs.write_critical(f::HOST_GS_BASE, msr::read(IA32_GS_BASE));
        #[expect(clippy::cast_possible_truncation, reason = "the MSR has 32 bits")]
        vmcs.write_critical(f::HOST_SYSENTER_CS, msr::read(IA32_SYSENTER_CS) as u32);
        vmcs.write_critical(f::HOST_SYSENTER_ESP, msr::read(IA32_SYSENTER_ESP));
        vmcs.write_critical(f::HOST_SYSENTER_EIP, msr::read(IA32_SYSENTER_EIP));
        vmcs.write_critical(f::HOST_PAT, msr::read(IA32_PAT));
        vmcs.write_critical(f::HOST_EFER, msr::read(IA32_EFER));
        vmcs.write_critical(f::HOST_RSP, context.host_rsp_field());
        vmcs.write_critical(f::HOST_RIP, entry::exit_address());
    }
}

/// Base of the 64-bit system segment (the TSS) that `selector` names (SDM vol.
/// 3, figure "Format of TSS and LDT Descriptors in 64-bit Mode").
///
/// # Safety
/// `gdt` is the GDT in use, and `selector` has been loaded from it.
unsafe fn system_segment_base(gdt: u64, selector: u16) -> u64 {
    let descriptor = (gdt + u64::from(selector)) as *const u64;
    // SAFETY: a loaded selector lies within the GDT, with both of its slots.
    let (low, high) = unsafe {
        (
            descriptor.read_unaligned(),
            descriptor.add(1).read_unaligned(),
        )
    };
    (low >> 16 & 0x00ff_ffff) | (low >> 56 & 0xff) << 24 | high << 32
}
