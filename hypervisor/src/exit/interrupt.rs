//! External interrupts that exit: DEBUG only.

use cloister_abi::Reason;

use core::sync::atomic::Ordering;

use crate::arch::{apic, percpu};
use crate::exit::Served;
use crate::run::Core;
use crate::virt::{Event, Vcpu, Vendor};

/// Takes the interrupt, counts it, and gives it to the guest. A guest that has
/// the local APIC ends it itself; for one that has not, the hypervisor does.
pub(crate) fn serve<V: Vendor>(core: &mut Core<V>, acknowledged: Option<u8>) -> Served {
    let has_apic = core.partition.is_none_or(|partition| partition.config.apic);
    let vector = acknowledged.or_else(|| {
        let this = percpu::this();
        this.keep_in_service(has_apic);
        apic::hold_exception_vectors(V::drain_interrupt);
        this.keep_in_service(false);
        this.take_interrupt()
    });
    if let Some(vector) = vector {
        core.counters
            .interrupts_since_quiesce
            .fetch_add(1, Ordering::Relaxed);
        core.last_vector = vector;
        core.vcpu.inject(Event::Interrupt { vector });
    }
    Served::resume(Reason::Interrupt)
}
