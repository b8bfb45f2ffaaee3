//! Which leaves look at ECX, and how many subleaves each has.

use super::Regs;

/// Subleaves that a leaf may have at most in the cache: those of leaf 0xD,
/// one per bit of XCR0.
pub(super) const MAX_SUBLEAVES: u32 = 64;

/// The number of subleaves of `leaf`, or `None` if it ignores ECX. Subleaves
/// beyond return what [`beyond`] says.
pub(super) fn subleaves(leaf: u32, cpuid: &impl Fn(u32, u32) -> Regs) -> Option<u32> {
    let max_in_eax = || cpuid(leaf, 0).eax.saturating_add(1);
    let until = |end: fn(&Regs) -> bool, most: u32| {
        (0..most)
            .find(|sub| end(&cpuid(leaf, *sub)))
            .unwrap_or(most)
    };
    let count = match leaf {
        // Deterministic cache parameters: the first of type 0 ends the list.
        4 | 0x8000_001d => until(|regs| regs.eax & 0x1f == 0, 8),
        // Topology: the first level of type 0 ends the list.
        0xb | 0x1f | 0x8000_0026 => until(|regs| (regs.ecx >> 8) & 0xff == 0, 8),
        // Extended state: one per supported bit of XCR0 and XSS.
        0xd => {
            let (user, system) = (cpuid(0xd, 0), cpuid(0xd, 1));
            let low = user.eax | system.ecx;
            let high = user.edx | system.edx;
            let bits = u64::from(low) | u64::from(high) << 32;
            (u64::BITS - bits.leading_zeros()).max(2)
        }
        // Resource monitoring and allocation: fixed sets.
        0xf => 2,
        0x10 | 0x8000_0020 => 4,
        // SGX: the first enclave page cache section of type 0 ends the list.
        0x12 => {
            2 + (2..8)
                .find(|sub| cpuid(0x12, *sub).eax & 0xf == 0)
                .map_or(6, |sub| sub - 2)
        }
        // Key locker has none; these tell their highest subleaf in EAX.
        7 | 0x14 | 0x17 | 0x18 | 0x1d | 0x20 | 0x24 => max_in_eax(),
        // Hybrid information, TMUL, PCONFIG, and the PMU's bitmap of valid
        // subleaves.
        0x1a => 1,
        0x1b => until(|regs| regs.eax & 0xfff == 0, 4),
        0x1e => 2,
        0x23 => u32::BITS - cpuid(0x23, 0).eax.leading_zeros(),
        _ => return None,
    };
    Some(count.clamp(1, MAX_SUBLEAVES))
}

/// What a subleaf past the last of `leaf` returns: zeros, but for topology
/// leaves the x2APIC ID in EDX (Intel SDM vol. 2, CPUID, leaf 0xB).
pub(super) fn beyond(leaf: u32, cpuid: &impl Fn(u32, u32) -> Regs) -> Regs {
    match leaf {
        0xb | 0x1f | 0x8000_0026 => Regs {
            edx: cpuid(leaf, 0).edx,
            ..Regs::ZERO
        },
        _ => Regs::ZERO,
    }
}
