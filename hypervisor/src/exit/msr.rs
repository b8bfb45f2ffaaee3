//! RDMSR and WRMSR of what the permission map does not let through. What
//! becomes of them is decided in `cloister_core::policy::msr`.

use cloister_abi::Reason;
use cloister_core::policy::Guest as PolicyGuest;
use cloister_core::policy::cpuid::{CpuidCache, Dynamic};
use cloister_core::policy::msr::{
    ApicBaseWrite, BITMAP_RANGES, MsrAction, MsrContext, apic_base_write, exits_on_read,
    exits_on_write, read as decide_read, write as decide_write,
};
use x86::msr::{IA32_EFER, IA32_PAT};

use crate::arch::{apic as hardware, passthrough};
use crate::exit::cpuid::policy_guest;
use crate::exit::{Served, apic};
use crate::report;
use crate::run::Core;
use crate::virt::{Event, Permissions, Vcpu, Vendor, reg};

/// Whether Linux is told that xAPIC mode is locked out: so that it stays in
/// x2APIC mode, which the firmware or the hypervisor has switched on.
pub(crate) fn xapic_locked() -> bool {
    hardware::is_x2apic_machine()
}

fn context<V: Vendor>(guest: PolicyGuest) -> MsrContext {
    MsrContext {
        vendor: V::POLICY,
        guest,
        pat_direct: V::PAT_DIRECT,
        xapic_locked: xapic_locked(),
    }
}

/// Opens `permissions` for what `guest` may do without an exit.
pub(crate) fn permit<V: Vendor>(permissions: &mut V::Permissions, guest: PolicyGuest) {
    let context = context::<V>(guest);
    for index in BITMAP_RANGES.into_iter().flatten() {
        permissions.set_msr_read(index, exits_on_read(index, &context));
        permissions.set_msr_write(index, exits_on_write(index, &context));
    }
}

/// Bytes of RDMSR and of WRMSR.
const LENGTH: u8 = 2;

/// ECX.
fn index<V: Vendor>(core: &mut Core<V>) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "the instruction reads ECX")]
    let index = core.vcpu.register(reg::RCX) as u32;
    index
}

/// Serves RDMSR. The vCPU's own registers, of which a read exits only where
/// they are emulated, need no policy.
#[inline(always)]
pub(crate) fn read<V: Vendor>(core: &mut Core<V>) -> Served {
    match index(core) {
        IA32_EFER => complete(core, core.vcpu.efer()),
        IA32_PAT if !V::PAT_DIRECT => complete(core, core.vcpu.pat()),
        index => read_by_policy(core, index),
    }
    Served::resume(Reason::Rdmsr)
}

/// RDMSR returns `value`.
#[inline(always)]
fn complete<V: Vendor>(core: &mut Core<V>, value: u64) {
    core.vcpu.set_edx_eax(value);
    core.vcpu.skip(LENGTH);
}

#[inline(never)]
fn read_by_policy<V: Vendor>(core: &mut Core<V>, index: u32) {
    let context = context::<V>(policy_guest(core.partition));
    let value = match decide_read(index, &context) {
        MsrAction::PassThrough | MsrAction::ReadWith(_) => passthrough::read_msr(index, &context),
        MsrAction::ReadAs(value) => Some(value),
        MsrAction::Efer => Some(core.vcpu.efer()),
        MsrAction::Pat => Some(core.vcpu.pat()),
        MsrAction::IgnoreWrite | MsrAction::ApicBase | MsrAction::X2apicIcr | MsrAction::Fault => {
            None
        }
    };
    match value {
        Some(value) => complete(core, value),
        None => refuse(core, Reason::Rdmsr, index),
    }
}

/// Whether the WRMSR that exited is of an x2APIC ICR that is the guest's.
pub(crate) fn is_icr_write<V: Vendor>(core: &mut Core<V>) -> bool {
    let (index, value) = (index(core), core.vcpu.edx_eax());
    let context = context::<V>(policy_guest(core.partition));
    decide_write(index, value, &context) == MsrAction::X2apicIcr
}

/// Serves WRMSR.
#[inline(never)]
pub(crate) fn write<V: Vendor>(core: &mut Core<V>) -> Served {
    let index = index(core);
    let value = core.vcpu.edx_eax();
    let mut reason = Reason::Wrmsr;
    let context = context::<V>(policy_guest(core.partition));
    let done = match decide_write(index, value, &context) {
        MsrAction::PassThrough => passthrough::write_msr(index, value, &context),
        MsrAction::Efer => write_efer(core, value),
        MsrAction::Pat => write_pat(core, value),
        MsrAction::ApicBase => write_apic_base(value),
        MsrAction::X2apicIcr => {
            reason = Reason::ApicWrite;
            apic::x2apic_icr(core, value);
            true
        }
        MsrAction::IgnoreWrite => {
            report::refused(
                core,
                reason,
                format_args!("msr {index:#x} value {value:#x}, ignored"),
            );
            true
        }
        MsrAction::ReadAs(_) | MsrAction::ReadWith(_) | MsrAction::Fault => false,
    };
    if done {
        core.vcpu.skip(LENGTH);
    } else {
        refuse(core, reason, index);
    }
    Served::resume(reason)
}

fn refuse<V: Vendor>(core: &mut Core<V>, reason: Reason, index: u32) {
    report::refused(core, reason, format_args!("msr {index:#x}"));
    core.vcpu.inject(Event::GP);
}

/// EFER (AMD APM vol. 2 §3.1.7; Intel SDM vol. 4): LME may not change while
/// paging is on, LMA is the processor's.
fn write_efer<V: Vendor>(core: &mut Core<V>, value: u64) -> bool {
    const LME: u64 = 1 << 8;
    const LMA: u64 = 1 << 10;
    const CR0_PG: u64 = 1 << 31;
    let old = core.vcpu.efer();
    let paging = core.vcpu.mode().cr0 & CR0_PG != 0;
    if value & !efer_bits(core.cpuid) != 0 || (paging && (old ^ value) & LME != 0) {
        return false;
    }
    core.vcpu.set_efer((value & !LMA) | (old & LMA));
    true
}

/// EFER bits that the guest's CPUID offers.
fn efer_bits(cpuid: &CpuidCache) -> u64 {
    let leaf = |leaf| cpuid.lookup(leaf, 0, Dynamic::default);
    // Intel answers a leaf beyond the last with that of another.
    let more = match leaf(0x8000_0000).eax {
        0x8000_0021.. => leaf(0x8000_0021).eax,
        _ => 0,
    };
    let features = leaf(0x8000_0001);
    // The bit in EFER, the register that offers it, and the bit there.
    [
        (0, features.edx, 11),  // SCE: SYSCALL
        (8, features.edx, 29),  // LME
        (10, features.edx, 29), // LMA
        (11, features.edx, 20), // NXE
        (14, features.edx, 25), // FFXSR
        (15, features.ecx, 17), // TCE
        (21, more, 8),          // AIBRSE
    ]
    .into_iter()
    .filter(|&(_, register, bit)| register & (1 << bit) != 0)
    .fold(0, |bits, (bit, _, _)| bits | 1 << bit)
}

/// PAT (Intel SDM vol. 3, "IA32_PAT MSR"): eight types, of which 2, 3 and 8 to
/// 255 do not exist.
fn write_pat<V: Vendor>(core: &mut Core<V>, value: u64) -> bool {
    let valid = value
        .to_le_bytes()
        .iter()
        .all(|kind| matches!(kind, 0 | 1 | 4..=7));
    if valid {
        core.vcpu.set_pat(value);
    }
    valid
}

/// Every core is in x2APIC mode since boot where the processor has it, so no
/// change is left that a guest may make.
fn write_apic_base(value: u64) -> bool {
    apic_base_write(hardware::base(), value, false) == ApicBaseWrite::Same
}
