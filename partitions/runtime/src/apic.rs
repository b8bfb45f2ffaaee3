//! The registers of this core's local APIC, for a partition that has one
//! (`apic = true`; [`crate::Partition::apic`] says in which mode). Without one
//! the xAPIC's page ends the partition, and the x2APIC's MSRs raise #GP.
//!
//! All are safe: an interrupt has a gate whatever its vector, and the
//! hypervisor lets no IPI reach anybody else's core.

use core::arch::asm;

use crate::Apic;
use crate::fault::Fault;
use crate::provoke::{APIC_BASE, recover};

/// Registers by their offset in the xAPIC's page; the x2APIC's MSR is 0x800
/// plus a sixteenth of it (Intel SDM vol. 3, tables "Local APIC Register
/// Address Map" and "... Supported by x2APIC").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Register {
    /// Local APIC ID.
    Id = 0x20,
    /// End of interrupt.
    Eoi = 0xb0,
    /// Spurious-interrupt vector, and the APIC's software enable (bit 8).
    SpuriousVector = 0xf0,
    /// LVT: timer.
    LvtTimer = 0x320,
    /// LVT: performance counters.
    LvtPerformance = 0x340,
    /// LVT: APIC errors.
    LvtError = 0x370,
    /// Timer: initial count. 0 stops it.
    TimerInitialCount = 0x380,
    /// Timer: divide configuration.
    TimerDivide = 0x3e0,
}

/// LVT entries: masked.
pub const LVT_MASKED: u32 = 1 << 16;
/// ICR: level assert (Intel SDM vol. 3, figure "Interrupt Command Register").
const ICR_ASSERT: u32 = 1 << 14;
const ICR: u32 = 0x300;
const ICR_HIGH: u32 = 0x310;

const fn msr(offset: u32) -> u32 {
    0x800 + (offset >> 4)
}

/// Reads `register`.
///
/// # Errors
/// #GP for one that the x2APIC does not have or the partition may not read.
pub fn read(apic: Apic, register: Register) -> Result<u32, Fault> {
    let offset = register as u32;
    match apic {
        Apic::Xapic => {
            let mut value = 0u32;
            let address = APIC_BASE + u64::from(offset);
            // SAFETY: a register of the page that the loader mapped.
            unsafe { recover!("mov eax, [rdx]", "2b", in("rdx") address, inout("eax") value) }?;
            Ok(value)
        }
        #[expect(clippy::cast_possible_truncation, reason = "32-bit register")]
        Apic::X2apic => crate::provoke::read_msr(msr(offset)).map(|value| value as u32),
    }
}

/// Writes `register`. In xAPIC mode that is an exit.
///
/// # Errors
/// #GP for one that the x2APIC does not have or the partition may not write.
#[inline(never)]
pub fn write(apic: Apic, register: Register, value: u32) -> Result<(), Fault> {
    write_at(apic, register as u32, value, 0)
}

/// Sends an interrupt with `vector` to the core with APIC ID `destination`:
/// one exit in x2APIC mode, two in xAPIC mode. The partition's own cores get
/// it, nobody else.
///
/// # Errors
/// #GP, #PF: the partition has no local APIC.
#[inline(never)]
pub fn send(apic: Apic, destination: u32, vector: u8) -> Result<(), Fault> {
    let low = ICR_ASSERT | u32::from(vector);
    if apic == Apic::X2apic {
        return write_at(apic, ICR, low, destination);
    }
    write_at(apic, ICR_HIGH, destination << 24, 0)?;
    write_at(apic, ICR, low, 0)
}

/// Sends an NMI to the core with APIC ID `destination`, as [`send`] does.
///
/// # Errors
/// As [`send`].
#[inline(never)]
pub fn send_nmi(apic: Apic, destination: u32) -> Result<(), Fault> {
    const DELIVERY_NMI: u32 = 4 << 8;
    let low = ICR_ASSERT | DELIVERY_NMI;
    if apic == Apic::X2apic {
        return write_at(apic, ICR, low, destination);
    }
    write_at(apic, ICR_HIGH, destination << 24, 0)?;
    write_at(apic, ICR, low, 0)
}

/// Sends an interrupt with `vector` to this core by the shorthand: one exit.
///
/// # Errors
/// As [`send`].
#[inline(never)]
pub fn send_self(apic: Apic, vector: u8) -> Result<(), Fault> {
    const SHORTHAND_SELF: u32 = 1 << 18;
    write_at(
        apic,
        ICR,
        SHORTHAND_SELF | ICR_ASSERT | u32::from(vector),
        0,
    )
}

fn write_at(apic: Apic, offset: u32, value: u32, high: u32) -> Result<(), Fault> {
    match apic {
        Apic::Xapic => {
            let address = APIC_BASE + u64::from(offset);
            // SAFETY: see the module; the page was mapped by the loader.
            unsafe { recover!("mov [rdx], eax", "2b", in("rdx") address, in("eax") value) }
        }
        // SAFETY: see the module.
        Apic::X2apic => unsafe {
            recover!("wrmsr", "2b", in("ecx") msr(offset), in("eax") value, in("edx") high)
        },
    }
}
