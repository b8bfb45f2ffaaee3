//! Static masking: what does not change while the guest runs.

use cloister_abi::{CPUID_MAX_LEAF, CPUID_SIGNATURE, VERSION};

use super::{Guest, Regs};

/// What decides about the masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidConfig {
    /// Who sees the result.
    pub guest: Guest,
    /// Show x2APIC, if the processor has it.
    pub x2apic: bool,
    /// Show Linux IA32_ARCH_CAPABILITIES, in which the hypervisor reports that
    /// xAPIC is locked out (see `msr::MsrContext::xapic_locked`).
    pub xapic_locked: bool,
}

/// Bits to clear in EAX, EBX, ECX, EDX.
type Mask = [u32; 4];

const fn bit(n: u32) -> u32 {
    1 << n
}

/// What `guest` may see of `raw`, which CPUID returned for `leaf` and
/// `subleaf`. Hypervisor leaves 0x4000_0000 and 0x4000_0001 are Cloister's own
/// whatever `raw` is (so a hypervisor below does not shine through).
///
/// Does not put in what depends on control registers: see
/// [`super::CpuidCache::lookup`].
#[must_use]
pub fn filter(leaf: u32, subleaf: u32, raw: Regs, config: &CpuidConfig) -> Regs {
    if leaf >> 28 == 4 {
        return hypervisor_leaf(leaf);
    }
    let mut regs = clear(raw, hidden(leaf, subleaf));
    if let Guest::Partition { apic } = config.guest {
        regs = clear(regs, hidden_from_partitions(leaf, subleaf));
        if !apic {
            regs = clear(regs, hidden_without_apic(leaf));
        }
    }
    match leaf {
        1 => {
            regs.ecx |= bit(31); // A hypervisor is present.
            if !config.x2apic {
                regs.ecx &= !bit(21);
            }
        }
        7 if subleaf == 0 && config.xapic_locked && config.guest == Guest::Linux => {
            regs.edx |= bit(29); // IA32_ARCH_CAPABILITIES.
        }
        _ => {}
    }
    regs
}

const fn clear(regs: Regs, mask: Mask) -> Regs {
    Regs {
        eax: regs.eax & !mask[0],
        ebx: regs.ebx & !mask[1],
        ecx: regs.ecx & !mask[2],
        edx: regs.edx & !mask[3],
    }
}

fn hypervisor_leaf(leaf: u32) -> Regs {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = CPUID_SIGNATURE;
    match leaf {
        0x4000_0000 => Regs {
            eax: CPUID_MAX_LEAF,
            ebx: u32::from_le_bytes([a, b, c, d]),
            ecx: u32::from_le_bytes([e, f, g, h]),
            edx: u32::from_le_bytes([i, j, k, l]),
        },
        0x4000_0001 => Regs {
            eax: VERSION,
            ..Regs::ZERO
        },
        _ => Regs::ZERO,
    }
}

const ALL: Mask = [u32::MAX; 4];
const NONE: Mask = [0; 4];

/// Hidden from every guest: virtualisation, and what would reach past the
/// nested page tables or past the guest's own cores.
const fn hidden(leaf: u32, subleaf: u32) -> Mask {
    match (leaf, subleaf) {
        // VMX, SMX.
        (1, _) => [0, 0, bit(5) | bit(6), 0],
        // Hardware feedback (HFI) and Thread Director: the processor writes a
        // table at a physical address.
        (6, _) => [bit(19) | bit(23), 0, 0, 0],
        (7, 0) => [
            0,
            // SGX; cache and bandwidth allocation, whose masks other cores
            // share; Processor Trace, which writes to physical addresses.
            bit(2) | bit(15) | bit(25),
            // WAITPKG (needs a VM-execution control), TME, ENQCMD, SGX_LC.
            bit(5) | bit(13) | bit(29) | bit(30),
            // User interrupts, whose SENDUIPI reaches any APIC ID; PCONFIG.
            bit(5) | bit(18),
        ],
        // FRED, LKGS: need VM-entry controls of their own.
        (7, 1) => [bit(17) | bit(18), 0, 0, 0],
        // Cache allocation, SGX, Processor Trace, PCONFIG.
        (0x10 | 0x12 | 0x14 | 0x1b, _) => ALL,
        // SVM, IBS (samples hold physical addresses), SKINIT.
        (0x8000_0001, _) => [0, 0, bit(2) | bit(10) | bit(12), 0],
        // INVLPGB reaches every core; MBE (bandwidth) is shared; VIRT_SSBD is
        // the MSR of a hypervisor below.
        (0x8000_0008, _) => [0, bit(3) | bit(6) | bit(21) | bit(25), 0, 0],
        // SVM, IBS, memory encryption (the C-bit is the hypervisor's to
        // grant), bandwidth allocation.
        (0x8000_000a | 0x8000_001b | 0x8000_001f | 0x8000_0020, _) => ALL,
        _ => NONE,
    }
}

/// What only Linux has, because its MSRs or instructions are denied to
/// partitions.
const fn hidden_from_partitions(leaf: u32, subleaf: u32) -> Mask {
    match (leaf, subleaf) {
        (1, _) => [
            0,
            0,
            // DTES64, MONITOR, DS-CPL, EIST, TM2, SDBG, PDCM.
            bit(2) | bit(3) | bit(4) | bit(7) | bit(8) | bit(11) | bit(15),
            // MCE, MTRR, MCA, DS, ACPI thermal control, TM.
            bit(7) | bit(12) | bit(14) | bit(21) | bit(22) | bit(29),
        ],
        // MONITOR, power management, performance counters, monitoring,
        // architectural LBR.
        (5 | 6 | 0xa | 0xf | 0x1c | 0x23, _) => ALL,
        (7, 0) => [
            0,
            // TSC_ADJUST, cache monitoring.
            bit(1) | bit(12),
            // CET shadow stacks, PKS.
            bit(7) | bit(31),
            // Architectural LBR, CET IBT, IBRS/STIBP, L1D_FLUSH,
            // ARCH_CAPABILITIES, CORE_CAPABILITIES, SSBD.
            bit(19) | bit(20) | bit(26) | bit(27) | bit(28) | bit(29) | bit(30) | bit(31),
        ],
        // MCE, MTRR, MCA.
        (0x8000_0001, _) => [
            0,
            0,
            // OSVW, WDT, LWP, NODEID_MSR, performance counters, DBE, MONITORX.
            bit(9) | bit(13) | bit(15) | bit(19) | bit(23) | bit(24) | bit(26) | bit(28) | bit(29),
            bit(7) | bit(12) | bit(14),
        ],
        // Hardware P-states, TM, and so on; invariant TSC (bit 8) stays.
        (0x8000_0007, _) => [u32::MAX, u32::MAX, u32::MAX, !bit(8)],
        // MCOMMIT; IBPB, IBRS, STIBP, SSBD.
        (0x8000_0008, _) => [
            0,
            bit(8)
                | bit(12)
                | bit(14)
                | bit(15)
                | bit(16)
                | bit(17)
                | bit(18)
                | bit(19)
                | bit(24)
                | bit(26)
                | bit(28),
            0,
            0,
        ],
        (0x8000_001c | 0x8000_0022, _) => ALL,
        _ => NONE,
    }
}

/// What a partition without a local APIC cannot use.
const fn hidden_without_apic(leaf: u32) -> Mask {
    match leaf {
        // x2APIC, TSC deadline; APIC.
        1 => [0, 0, bit(21) | bit(24), bit(9)],
        // APIC; extended APIC space.
        0x8000_0001 => [0, 0, bit(3), bit(9)],
        _ => NONE,
    }
}
