//! Hypercalls: `cloister_abi::hypercall`.

use core::sync::atomic::Ordering;

use cloister_abi::hypercall::Error;
use cloister_abi::{Hypercall, Reason};

use crate::exit::Served;
use crate::partition::{dataplane, life};
use crate::report;
use crate::run::Core;
use crate::virt::{Event, Vcpu, Vendor, reg};

/// Bytes of VMCALL and of VMMCALL.
const LENGTH: u8 = 3;

/// Whether the call that exited is `set_dataplane`, from ring 0.
pub(crate) fn is_set_dataplane<V: Vendor>(core: &mut Core<V>) -> bool {
    core.vcpu.register(reg::RAX) == Hypercall::SetDataplane as u64 && core.vcpu.cpl() == 0
}

// The null call finds its result in RAX.
const _: () = assert!(Hypercall::Null as u64 == 0);

/// Serves a hypercall.
#[inline(always)]
pub(crate) fn serve<V: Vendor>(core: &mut Core<V>) -> Served {
    let is_null = core.vcpu.register(reg::RAX) == Hypercall::Null as u64;
    if is_null && core.vcpu.cpl() == 0 {
        core.vcpu.skip(LENGTH);
        return Served::resume(Reason::Hypercall);
    }
    serve_other(core)
}

/// Every call but the null call from ring 0.
#[inline(never)]
fn serve_other<V: Vendor>(core: &mut Core<V>) -> Served {
    const REASON: Reason = Reason::Hypercall;
    if core.vcpu.cpl() != 0 {
        core.counters
            .user_hypercalls
            .fetch_add(1, Ordering::Relaxed);
        report::refused(core, REASON, format_args!("hypercall from user mode"));
        core.vcpu.inject(Event::UD);
        return Served::resume(REASON);
    }
    let number = core.vcpu.register(reg::RAX);
    let argument = core.vcpu.register(reg::RDI);
    let mut served = Served::resume(REASON);
    let result = match (Hypercall::from_number(number), core.partition) {
        (Some(Hypercall::Null), _) => 0,
        (Some(Hypercall::SetDataplane), Some(partition)) => {
            let (result, then) = dataplane::set(core, partition, argument);
            served = Served::exempt(REASON, then);
            result
        }
        (Some(Hypercall::ConsoleFlush), Some(partition)) => {
            report::drain(partition);
            0
        }
        (Some(Hypercall::Finish), Some(partition)) => {
            served.next = life::finish(partition, argument);
            0
        }
        (None, _) | (Some(_), None) => Error::UnknownCall as i64,
    };
    core.vcpu.set_register(reg::RAX, result.cast_unsigned());
    core.vcpu.skip(LENGTH);
    served
}
