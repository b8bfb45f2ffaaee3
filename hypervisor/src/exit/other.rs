//! Exits that a guest does not live through, or that hardly ever happen.

use cloister_abi::Reason;

use crate::arch::passthrough;
use crate::exit::{Next, Served, reason};
use crate::partition::life;
use crate::report;
use crate::run::Core;
use crate::virt::{Event, Exit, GuestKind, Vcpu, Vendor};

/// Serves every exit that has no file of its own.
pub(crate) fn serve<V: Vendor>(core: &mut Core<V>, exit: Exit) -> Served {
    let reason = reason(core, &exit);
    let rip = core.vcpu.rip();
    let next = match exit {
        Exit::TripleFault => life::fail(core, format_args!("triple fault at rip {rip:#x}")),
        Exit::EntryFailure { code } => life::fail(
            core,
            format_args!("entry refused, code {code:#x}, at rip {rip:#x}"),
        ),
        Exit::TaskSwitch => life::fail(core, format_args!("task switch at rip {rip:#x}")),
        Exit::MachineCheck => life::fail(core, format_args!("machine check at rip {rip:#x}")),
        Exit::Other {
            code,
            qualification,
        } => life::fail(
            core,
            format_args!("unexpected exit {code:#x} ({qualification:#x}) at rip {rip:#x}"),
        ),
        Exit::CacheControl => {
            cache_control(core);
            Next::Resume
        }
        Exit::Virtualization => refuse(core, reason, Event::UD),
        Exit::ControlRegister {
            completed: false, ..
        } => refuse(core, reason, Event::GP),
        // MONITOR and MWAIT, which CPUID hides from a partition.
        Exit::Halt => refuse(core, reason, Event::UD),
        // INIT and start-up IPIs are emulated; a physical one is not a guest's.
        _ => Next::Resume,
    };
    Served::new(reason, next)
}

fn refuse<V: Vendor>(core: &mut Core<V>, reason: Reason, event: Event) -> Next {
    report::refused(core, reason, format_args!("{}", reason.name()));
    core.vcpu.inject(event);
    Next::Resume
}

/// INVD would throw away other guests' data: Linux gets WBINVD for it. A
/// partition gets neither: flushing shared caches is felt by its neighbours.
fn cache_control<V: Vendor>(core: &mut Core<V>) {
    if core.guest.kind == GuestKind::Linux {
        passthrough::write_back_caches();
    } else {
        report::refused(
            core,
            Reason::CacheControl,
            format_args!("cache flush, dropped"),
        );
    }
    core.vcpu.skip(2);
}
