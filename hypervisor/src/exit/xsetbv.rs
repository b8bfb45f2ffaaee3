//! XSETBV: checked, then done. XCR0 is the guest's own while the hypervisor
//! runs, which uses no extended state.

use cloister_abi::Reason;

use crate::arch::cpu;
use crate::exit::Served;
use crate::run::Core;
use crate::virt::{Event, Vcpu, Vendor, reg};

/// Serves XSETBV (Intel SDM vol. 2, XSETBV; vol. 1, "Enabling the XSAVE
/// Feature Set").
pub(crate) fn serve<V: Vendor>(core: &mut Core<V>) -> Served {
    let index = core.vcpu.registers().gpr[reg::RCX] & 0xffff_ffff;
    let value = core.vcpu.registers().edx_eax();
    let supported = {
        let regs = core::arch::x86_64::__cpuid_count(0xd, 0);
        u64::from(regs.edx) << 32 | u64::from(regs.eax)
    };
    if index == 0 && core.vcpu.mode().cpl == 0 && is_valid(value, supported) {
        // SAFETY: the value is one that the processor accepts.
        unsafe { cpu::xsetbv(0, value) };
        core.vcpu.skip();
    } else {
        core.vcpu.inject(Event::GP);
    }
    Served::resume(Reason::Xsetbv)
}

fn is_valid(value: u64, supported: u64) -> bool {
    const X87: u64 = 1 << 0;
    const SSE: u64 = 1 << 1;
    const AVX: u64 = 1 << 2;
    const MPX: u64 = 3 << 3;
    const AVX512: u64 = 7 << 5;
    const AMX: u64 = 3 << 17;
    let whole = |bits| value & bits == 0 || value & bits == bits;
    value & X87 != 0
        && value & !supported == 0
        && (value & AVX == 0 || value & SSE != 0)
        && (value & AVX512 == 0 || value & AVX != 0)
        && whole(MPX)
        && whole(AVX512)
        && whole(AMX)
}
