//! Which cores share an execution engine (Intel SDM vol. 2, CPUID leaf 0BH;
//! AMD APM vol. 3, CPUID Fn8000_001E).

use cloister_abi::MAX_CORES;
use cloister_core::acpi::MadtCore;
use cloister_manifest::CpuSet;
use heapless::Vec;
use raw_cpuid::{CpuId, TopologyType};

/// How many low bits of an APIC ID tell threads of one core apart.
fn smt_bits() -> u32 {
    let cpuid = CpuId::new();
    let by_levels = cpuid.get_extended_topology_info().and_then(|mut levels| {
        levels
            .find(|level| level.level_type() == TopologyType::SMT)
            .map(|level| level.shift_right_for_next_apic_id())
    });
    by_levels
        .or_else(|| {
            let threads = cpuid.get_processor_topology_info()?.threads_per_core();
            Some(u32::from(threads).next_power_of_two().trailing_zeros())
        })
        .unwrap_or(0)
}

/// Sets of cores that are SMT siblings; cores that have none are left out.
pub(crate) fn smt_siblings(cores: &[MadtCore]) -> Vec<CpuSet, MAX_CORES> {
    let bits = smt_bits().min(31);
    let mut sets = Vec::new();
    for (number, core) in cores.iter().enumerate() {
        let engine = core.apic_id >> bits;
        let same = |other: &MadtCore| other.apic_id >> bits == engine;
        let first = cores.iter().position(same);
        let siblings: CpuSet = (0..)
            .zip(cores)
            .filter(|(_, other)| same(other))
            .map(|(index, _)| index)
            .collect();
        if first == Some(number) && siblings.len() > 1 {
            let _ = sets.push(siblings);
        }
    }
    sets
}
