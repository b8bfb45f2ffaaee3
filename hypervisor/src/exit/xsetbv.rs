//! XSETBV: checked, then done. XCR0 is the guest's own while the hypervisor
//! runs, which uses no extended state.

use cloister_abi::Reason;

use crate::arch::extended;
use crate::exit::Served;
use crate::run::Core;
use crate::virt::{Event, Vcpu, Vendor, reg};

/// Serves XSETBV (Intel SDM vol. 2, XSETBV).
pub(crate) fn serve<V: Vendor>(core: &mut Core<V>) -> Served {
    let index = core.vcpu.registers().gpr[reg::RCX] & 0xffff_ffff;
    let value = core.vcpu.registers().edx_eax();
    if index == 0 && core.vcpu.mode().cpl == 0 && extended::set_xcr0(value) {
        core.vcpu.skip();
    } else {
        core.vcpu.inject(Event::GP);
    }
    Served::resume(Reason::Xsetbv)
}
