//! NMIs: a kick by another core of the hypervisor, or a real one.

use cloister_abi::{PartitionState, Reason};

use crate::arch::{apic, cpu, percpu};
use crate::cores::{self, Request};
use crate::exit::{Next, Served};
use crate::iommu;
use crate::run::Core;
use crate::virt::{Event, GuestKind, Vcpu, Vendor};
use crate::watch;

/// An NMI arrived. With a request in the mailbox it is a kick; without one it
/// is the late kick of a request that has been served already, or real, and
/// then passed on, unless it announces a fault of a device.
pub(crate) fn nmi<V: Vendor>(core: &mut Core<V>) -> Served {
    percpu::this().take_nmi();
    let iommu = core.system.iommu.as_ref();
    let is_fault = iommu.is_some_and(|iommu| iommu.tells(core.number))
        && iommu::report::announced(core.system);
    if core.shared.has_requests() {
        return Served::exempt(Reason::Kick, serve(core));
    }
    if is_fault {
        return Served::exempt(Reason::Nmi, Next::Resume);
    }
    if core.shared.is_late_kick() {
        return Served::exempt(Reason::Kick, Next::Resume);
    }
    if core.shared.is_watched() {
        core.last_source = watch::attribute(core, watch::NMI, cpu::tsc());
    }
    core.vcpu.inject(Event::Nmi);
    Served::resume(Reason::Nmi)
}

/// Serves what other cores ask of this one.
pub(crate) fn serve<V: Vendor>(core: &mut Core<V>) -> Next {
    if core.shared.is_asked(Request::Init) {
        // Before the request is taken: at every moment whoever sends a start-up
        // IPI finds either the request or a core that does not run.
        core.shared.set_running(false);
    }
    let requests = core.shared.take();
    if requests.has(Request::Hold) {
        cores::stay_held(core.number);
    }
    core.update_interrupts();
    let mut next = Next::Resume;
    // A partition that runs was started anew before the request was seen.
    let runs = core
        .partition
        .is_some_and(|partition| partition.life.state() == PartitionState::Running);
    if requests.has(Request::Stop) && !runs {
        next = Next::Park;
    }
    if requests.has(Request::Flags) {
        core.impose_flags();
    }
    if requests.has(Request::Flush) {
        core.vcpu.flush_nested();
    }
    if requests.has(Request::Init) && core.guest.kind == GuestKind::Linux {
        reset_apic::<V>();
        next = Next::Park;
    }
    // A start-up IPI to a core that runs is ignored, as by hardware; one right
    // behind an INIT is for the core that is parked then.
    core.start_up_next = requests.has(Request::Init) && requests.has(Request::Sipi);
    core.shared.note_served();
    next
}

/// What INIT does to a local APIC (Intel SDM vol. 3, "Local APIC State After
/// an INIT Reset"): masked, switched off, nothing pending or in service. Also
/// for a partition that gets its APIC, which then is switched on.
pub(crate) fn reset_apic<V: Vendor>() {
    const VECTORS: usize = 256;
    apic::silence(true);
    for _ in 0..2 * VECTORS {
        if apic::in_service().is_some() {
            apic::end_of_interrupt();
        } else if apic::pending().is_some() {
            apic::hold_exception_vectors(V::drain_interrupt);
        } else {
            break;
        }
    }
    apic::silence(false);
}
