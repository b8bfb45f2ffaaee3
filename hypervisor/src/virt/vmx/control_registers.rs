//! CR0 and CR4 of the guest, by guest/host masks and read shadows (Intel SDM
//! vol. 3, "Guest/Host Masks and Read Shadows for CR0 and CR4").
//!
//! CR0: NE must be 1 in VMX operation, and CD and NW stay 0 so that no guest
//! makes the hypervisor run uncached; the guest sees what it wrote. When it
//! changes one of them the shadow is brought up to date and the instruction is
//! run again: it then agrees with the shadow and no longer exits, and the
//! processor itself does all that the other bits entail (paging, EFER.LMA,
//! PDPTEs). LMSW and CLTS change none of these bits and never exit.
//!
//! CR4: VMXE must be 1 in VMX operation and is hidden; SMXE stays 0. CPUID
//! shows the guest neither, so setting them is #GP, as of any reserved bit.
//! No other bit of CR4 exits.

use x86::msr::{
    IA32_VMX_CR0_FIXED0, IA32_VMX_CR0_FIXED1, IA32_VMX_CR4_FIXED0, IA32_VMX_CR4_FIXED1,
};

use super::fields as f;
use super::vmcs::Vmcs;
use crate::arch::msr;
use crate::virt::Unsupported;

pub(super) const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
pub(super) const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
pub(super) const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
pub(super) const CR4_VMXE: u64 = 1 << 13;
const CR4_SMXE: u64 = 1 << 14;

/// Guest CR0.
#[derive(Clone, Copy)]
pub(super) struct Cr0 {
    /// Bits that are 1 whatever the guest writes.
    forced: u64,
    /// Bits of which the guest sees the shadow.
    mask: u64,
}

impl Cr0 {
    /// 64-bit mode with paging.
    pub(super) const LONG: u64 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    /// After INIT, but for CD and NW.
    pub(super) const INIT: u64 = CR0_ET;

    /// How CR0 is kept on this core.
    ///
    /// # Safety
    /// The processor has VMX.
    pub(super) unsafe fn new() -> Self {
        // SAFETY: the MSR exists with VMX. "Unrestricted guest" exempts PE and
        // PG (SDM vol. 3, "Restrictions on VMX Operation").
        let forced = unsafe { msr::read(IA32_VMX_CR0_FIXED0) } & !(CR0_PE | CR0_PG);
        Self {
            forced,
            mask: forced | CR0_CD | CR0_NW,
        }
    }

    /// Writes mask, register and shadow: the guest sees `value`.
    pub(super) fn reset(&self, vmcs: &Vmcs, value: u64) {
        // SAFETY: bits of the mask are those that the guest must not have.
        unsafe { vmcs.write_critical(f::CR0_MASK, self.mask) };
        vmcs.write(f::CR0_SHADOW, value);
        vmcs.write(f::CR0, value & !(CR0_CD | CR0_NW) | self.forced);
    }

    /// CD and NW as the guest sees them.
    pub(super) fn cache_bits(&self, vmcs: &Vmcs) -> u64 {
        vmcs.read(f::CR0_SHADOW) & (CR0_CD | CR0_NW)
    }

    /// What the guest reads.
    pub(super) fn guest_value(&self, vmcs: &Vmcs) -> u64 {
        vmcs.read(f::CR0) & !self.mask | vmcs.read(f::CR0_SHADOW) & self.mask
    }

    /// The guest writes `value`, which changes a bit of the mask. `true`: run
    /// the instruction again; `false`: it raises #GP(0) (SDM vol. 2, "MOV—Move
    /// to/from Control Registers").
    pub(super) fn write(&self, vmcs: &Vmcs, value: u64) -> bool {
        let nw_without_cd = value & (CR0_NW | CR0_CD) == CR0_NW;
        let pg_without_pe = value & (CR0_PG | CR0_PE) == CR0_PG;
        if value >> 32 != 0 || nw_without_cd || pg_without_pe {
            return false;
        }
        vmcs.write(f::CR0_SHADOW, value);
        true
    }
}

/// Guest CR4.
#[derive(Clone, Copy)]
pub(super) struct Cr4 {
    forced: u64,
    mask: u64,
}

impl Cr4 {
    /// 64-bit mode; SSE instructions work.
    pub(super) const LONG: u64 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;

    /// How CR4 is kept on this core.
    ///
    /// # Safety
    /// The processor has VMX.
    pub(super) unsafe fn new() -> Self {
        // SAFETY: the MSR exists with VMX.
        let forced = unsafe { msr::read(IA32_VMX_CR4_FIXED0) };
        Self {
            forced,
            mask: forced | CR4_VMXE | CR4_SMXE,
        }
    }

    /// Writes mask, register and shadow: the guest sees `value`.
    pub(super) fn reset(&self, vmcs: &Vmcs, value: u64) {
        // SAFETY: bits of the mask are those that the guest must not have.
        unsafe { vmcs.write_critical(f::CR4_MASK, self.mask) };
        vmcs.write(f::CR4_SHADOW, value & !self.mask);
        vmcs.write(f::CR4, value & !self.mask | self.forced);
    }

    /// What the guest reads.
    pub(super) fn guest_value(&self, vmcs: &Vmcs) -> u64 {
        vmcs.read(f::CR4) & !self.mask | vmcs.read(f::CR4_SHADOW) & self.mask
    }
}

/// Why a control register does not suit VMX operation.
struct FixedBits {
    must_be_1: &'static str,
    must_be_0: &'static str,
}

/// Whether `value` has every bit of `fixed0` and none outside `fixed1` (SDM
/// vol. 3, appendix "VMX-Fixed Bits in CR0"). The refusal's value holds the
/// offending bits.
fn suits(value: u64, fixed0: u64, fixed1: u64, text: &FixedBits) -> Result<(), Unsupported> {
    if value & fixed0 != fixed0 {
        return Err(Unsupported {
            what: text.must_be_1,
            value: fixed0 & !value,
        });
    }
    if value & !fixed1 != 0 {
        return Err(Unsupported {
            what: text.must_be_0,
            value: value & !fixed1,
        });
    }
    Ok(())
}

/// Whether VMX operation is possible with the hypervisor's own CR0 and CR4.
///
/// # Errors
/// Names the register and the MSR; the value holds the bits.
///
/// # Safety
/// The processor has VMX.
pub(super) unsafe fn check_fixed(cr0: u64, cr4: u64) -> Result<(), Unsupported> {
    // SAFETY: the four MSRs exist with VMX.
    let [cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1] = unsafe {
        [
            IA32_VMX_CR0_FIXED0,
            IA32_VMX_CR0_FIXED1,
            IA32_VMX_CR4_FIXED0,
            IA32_VMX_CR4_FIXED1,
        ]
        .map(|index| msr::read(index))
    };
    suits(
        cr0,
        cr0_fixed0,
        cr0_fixed1,
        &FixedBits {
            must_be_1: "VMX needs CR0 bits to be 1 that are 0 (IA32_VMX_CR0_FIXED0, MSR 0x486)",
            must_be_0: "VMX needs CR0 bits to be 0 that are 1 (IA32_VMX_CR0_FIXED1, MSR 0x487)",
        },
    )?;
    suits(
        cr4,
        cr4_fixed0,
        cr4_fixed1,
        &FixedBits {
            must_be_1: "VMX needs CR4 bits to be 1 that are 0 (IA32_VMX_CR4_FIXED0, MSR 0x488)",
            must_be_0: "VMX needs CR4 bits to be 0 that are 1 (IA32_VMX_CR4_FIXED1, MSR 0x489)",
        },
    )
}
