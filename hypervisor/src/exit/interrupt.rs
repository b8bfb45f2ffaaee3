//! External interrupts that exit: DEBUG only, and the cores of `linux.debug`.

use cloister_abi::Reason;
use cloister_abi::trace::InterruptKind;

use core::sync::atomic::Ordering;

use crate::arch::{apic, cpu, percpu};
use crate::exit::Served;
use crate::run::Core;
use crate::virt::{Event, Vcpu, Vendor};
use crate::watch::{self, Source};

/// Takes the interrupt, names its source, and gives it to the guest, which gets
/// it as soon as its RFLAGS.IF lets it. A guest that has
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
        core.last_source = watch::attribute(core, vector, cpu::tsc());
        core.vcpu.inject(Event::Interrupt { vector });
    } else {
        // It was gone again before it could be taken.
        core.last_source = Source {
            kind: InterruptKind::Spurious,
            ..Source::default()
        };
    }
    Served::resume(Reason::Interrupt)
}
