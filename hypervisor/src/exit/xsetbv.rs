//! XSETBV: checked, then done. XCR0 is the guest's own while the hypervisor
//! runs, which uses no extended state.

use cloister_abi::Reason;

use crate::arch::extended;
use crate::exit::Served;
use crate::run::Core;
use crate::virt::{Event, Vcpu, Vendor, reg};

/// Serves XSETBV (Intel SDM vol. 2, XSETBV).
pub(crate) fn serve<V: Vendor>(core: &mut Core<V>) -> Served {
    let index = core.vcpu.register(reg::RCX) & 0xffff_ffff;
    let value = core.vcpu.edx_eax();
    if index == 0 && core.vcpu.cpl() == 0 && extended::set_xcr0(value) {
        core.vcpu.skip(3);
    } else {
        core.vcpu.inject(Event::GP);
    }
    Served::resume(Reason::Xsetbv)
}
