//! CPUID: answered from a table that each core filled at boot.

use core::arch::x86_64::__cpuid_count;

use cloister_abi::Reason;
use cloister_core::policy::Guest as PolicyGuest;
use cloister_core::policy::cpuid::{CpuidCache, CpuidConfig, Dynamic, FillError, Regs};
use raw_cpuid::CpuId;

use crate::arch::memory::{Frame, PAGE};
use crate::arch::{apic, extended};
use crate::exit::Served;
use crate::partition::Partition;
use crate::run::Core;
use crate::system::System;
use crate::virt::guest::Guest;
use crate::virt::{Vcpu, Vendor, reg};

/// The guest, as policies name it.
pub(crate) fn policy_guest<V: Vendor>(partition: Option<&Partition<V>>) -> PolicyGuest {
    match partition {
        Some(partition) => PolicyGuest::Partition {
            apic: partition.config.apic,
        },
        None => PolicyGuest::Linux,
    }
}

/// Fills this core's table.
///
/// # Errors
/// When the processor has more leaves than the table holds.
pub(crate) fn cache<V: Vendor>(
    system: &System<V>,
    _guest: &Guest<V>,
    partition: Option<&Partition<V>>,
) -> Result<&'static CpuidCache, FillError> {
    const PAGES: u64 = (size_of::<CpuidCache>() as u64).div_ceil(PAGE);
    let frame = system.pool.pages(PAGES, PAGE);
    let cache: Option<&'static mut CpuidCache> = frame.and_then(Frame::zeroed);
    let cache = cache.ok_or(FillError { leaf: 0 })?;
    let config = CpuidConfig {
        guest: policy_guest(partition),
        x2apic: apic::is_x2apic_machine(),
        xapic_locked: crate::exit::msr::xapic_locked(),
    };
    let execute = |leaf, subleaf| {
        let regs = __cpuid_count(leaf, subleaf);
        Regs {
            eax: regs.eax,
            ebx: regs.ebx,
            ecx: regs.ecx,
            edx: regs.edx,
        }
    };
    cache.fill(execute, &config)?;
    Ok(cache)
}

/// TSC frequency in Hz where CPUID tells it, else 0.
pub(crate) fn tsc_hz() -> u64 {
    CpuId::new()
        .get_tsc_info()
        .and_then(|info| info.tsc_frequency())
        .unwrap_or(0)
}

/// Bytes of CPUID.
const LENGTH: u8 = 2;

/// Serves CPUID.
#[inline(always)]
pub(crate) fn serve<V: Vendor>(core: &mut Core<V>) -> Served {
    let vcpu = &mut core.vcpu;
    #[expect(clippy::cast_possible_truncation, reason = "CPUID reads EAX")]
    let leaf = vcpu.register(reg::RAX) as u32;
    match core.cpuid.plain(leaf) {
        Some(result) => vcpu.set_cpuid(result),
        None => look_up(vcpu, core.cpuid, leaf),
    }
    vcpu.skip(LENGTH);
    Served::resume(Reason::Cpuid)
}

/// Leaves with subleaves, those that depend on control registers, and those
/// that do not exist.
#[inline(never)]
fn look_up<V: Vcpu>(vcpu: &mut V, cpuid: &CpuidCache, leaf: u32) {
    #[expect(clippy::cast_possible_truncation, reason = "CPUID reads ECX")]
    let subleaf = vcpu.register(reg::RCX) as u32;
    let result = cpuid.lookup(leaf, subleaf, || dynamic(vcpu));
    vcpu.set_cpuid(&result);
}

/// Control registers that CPUID shows. XCR0 and IA32_XSS are the guest's own
/// while the hypervisor runs, which does not use them.
fn dynamic<V: Vcpu>(vcpu: &V) -> Dynamic {
    Dynamic {
        cr4: vcpu.mode().cr4,
        xcr0: extended::xcr0(),
        xss: extended::xss(),
    }
}
