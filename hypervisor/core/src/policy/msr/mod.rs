//! Model-specific registers: which accesses exit, and what becomes of those.
//!
//! Linux reads nearly everything without an exit. It writes without an exit
//! only what belongs to its own core and is written often; other writes are
//! looked at, and those that reach past its own cores are refused. Partitions
//! have a short list, and nothing else.
//!
//! Sources: Intel SDM vol. 4; AMD APM vol. 2, appendix A; BIOS and Kernel
//! Developer's Guides for AMD families where named.

mod index;
mod linux;
mod partition;

use core::ops::RangeInclusive;

use super::{Guest, Vendor};

/// What decides about an access, besides its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrContext {
    /// Maker of the processor.
    pub vendor: Vendor,
    /// Who asks.
    pub guest: Guest,
    /// The guest's PAT is virtualised by hardware, so that the MSR itself may
    /// be read and written: VMX with load and save of IA32_PAT, SVM whose
    /// processor keeps G_PAT apart.
    pub pat_direct: bool,
    /// Tell Linux that the firmware locked xAPIC mode out, so that it stays in
    /// x2APIC mode: IA32_ARCH_CAPABILITIES\[21\], IA32_XAPIC_DISABLE_STATUS\[0\].
    pub xapic_locked: bool,
}

/// What to do about an MSR access that exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrAction {
    /// Do it on the hardware, and give the guest #GP if that faults.
    PassThrough,
    /// A read returns this.
    ReadAs(u64),
    /// A read returns what the hardware has (0 if it faults) with these bits
    /// set.
    ReadWith(u64),
    /// A write does nothing. To be recorded.
    IgnoreWrite,
    /// EFER: `Vcpu::efer` and `Vcpu::set_efer`.
    Efer,
    /// PAT: `Vcpu::pat` and `Vcpu::set_pat`.
    Pat,
    /// A write of IA32_APIC_BASE: see [`apic_base_write`].
    ApicBase,
    /// A write of the x2APIC ICR: see [`crate::icr`].
    X2apicIcr,
    /// #GP. To be recorded.
    Fault,
}

/// The MSRs that permission bitmaps cover: all others always exit. The third
/// range is AMD's alone (Intel SDM vol. 3, "MSR-Bitmap Address"; AMD APM vol. 2
/// §15.11).
pub const BITMAP_RANGES: [RangeInclusive<u32>; 3] = [
    0..=0x1fff,
    0xc000_0000..=0xc000_1fff,
    0xc001_0000..=0xc001_1fff,
];

/// Whether a permission bitmap covers `index` at all.
fn in_bitmap(index: u32, vendor: Vendor) -> bool {
    let ranges = match vendor {
        Vendor::Intel => &BITMAP_RANGES[..2],
        Vendor::Amd => &BITMAP_RANGES[..],
    };
    ranges.iter().any(|range| range.contains(&index))
}

/// Whether a read of `index` exits. For building the permission bitmap, by a
/// loop over [`BITMAP_RANGES`].
#[must_use]
pub fn exits_on_read(index: u32, context: &MsrContext) -> bool {
    !in_bitmap(index, context.vendor)
        || match context.guest {
            Guest::Linux => read(index, context) != MsrAction::PassThrough,
            Guest::Partition { apic } => !partition::reads_directly(index, apic, context),
        }
}

/// Whether a write of `index` exits. See [`exits_on_read`].
#[must_use]
pub fn exits_on_write(index: u32, context: &MsrContext) -> bool {
    !in_bitmap(index, context.vendor)
        || !match context.guest {
            Guest::Linux => linux::writes_directly(index, context),
            Guest::Partition { apic } => partition::writes_directly(index, apic, context),
        }
}

/// Decides about a read that exited.
#[must_use]
pub fn read(index: u32, context: &MsrContext) -> MsrAction {
    match context.guest {
        Guest::Linux => linux::read(index, context),
        Guest::Partition { apic } => partition::read(index, apic, context),
    }
}

/// Decides about a write of `value` that exited.
#[must_use]
pub fn write(index: u32, value: u64, context: &MsrContext) -> MsrAction {
    match context.guest {
        Guest::Linux => linux::write(index, value, context),
        Guest::Partition { apic } => partition::write(index, apic, context),
    }
}

/// What a write to IA32_APIC_BASE may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicBaseWrite {
    /// Nothing changes.
    Same,
    /// From xAPIC to x2APIC mode: write it to the hardware.
    EnableX2apic,
    /// #GP: another base address, the APIC off, or back to xAPIC, where the
    /// hypervisor's own interface to the APIC would be gone.
    Refused,
}

/// Decides about a write of `new` to IA32_APIC_BASE, which now holds `old`
/// (Intel SDM vol. 3, "Local APIC Status and Location" and "x2APIC State
/// Transitions"). `x2apic`: the guest may switch to x2APIC mode.
#[must_use]
pub fn apic_base_write(old: u64, new: u64, x2apic: bool) -> ApicBaseWrite {
    const ENABLE: u64 = 1 << 11;
    const EXTD: u64 = 1 << 10;
    // Bit 8 tells the bootstrap processor, and is read-only.
    const BSP: u64 = 1 << 8;
    let changed = (old ^ new) & !BSP;
    if changed == 0 {
        ApicBaseWrite::Same
    } else if changed == EXTD && new & (EXTD | ENABLE) == EXTD | ENABLE && x2apic {
        ApicBaseWrite::EnableX2apic
    } else {
        ApicBaseWrite::Refused
    }
}

#[cfg(test)]
mod tests;
