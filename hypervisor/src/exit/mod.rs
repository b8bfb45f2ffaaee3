//! What is done about each exit: one file for each kind, none of which knows
//! the vendor.

pub(crate) mod apic;
pub(crate) mod cpuid;
pub(crate) mod exception;
pub(crate) mod hypercall;
pub(crate) mod interrupt;
pub(crate) mod kick;
pub(crate) mod msr;
pub(crate) mod nested;
pub(crate) mod other;
pub(crate) mod port;
pub(crate) mod xsetbv;

use cloister_abi::Reason;

use crate::run::Core;
use crate::virt::{Exit, Vcpu, Vendor};

/// How a core goes on after an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Back into the guest.
    Resume,
    /// Out of the guest, until somebody starts it.
    Park,
}

/// An exit that has been served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Served {
    /// What it counts as.
    pub(crate) reason: Reason,
    pub(crate) next: Next,
    /// No exit in the sense of the contract: `set_dataplane`, or a kick.
    pub(crate) exempt: bool,
}

impl Served {
    /// Served, and back into the guest.
    pub(crate) const fn resume(reason: Reason) -> Self {
        Self::new(reason, Next::Resume)
    }

    /// Served.
    pub(crate) const fn new(reason: Reason, next: Next) -> Self {
        Self {
            reason,
            next,
            exempt: false,
        }
    }

    /// Served, and none of the exits that a quiet core does not have.
    pub(crate) const fn exempt(reason: Reason, next: Next) -> Self {
        Self {
            reason,
            next,
            exempt: true,
        }
    }
}

/// Serves `exit`. In the hot path it is inlined, so that each arm follows the
/// vendor's own decoding without a value of [`Exit`] in memory.
#[inline(always)]
pub(crate) fn dispatch<V: Vendor>(core: &mut Core<V>, exit: Exit) -> Served {
    match exit {
        Exit::Cpuid => cpuid::serve(core),
        Exit::Rdmsr => msr::read(core),
        Exit::Wrmsr => msr::write(core),
        Exit::Hypercall => hypercall::serve(core),
        Exit::Port(access) => port::serve(core, access),
        Exit::NestedPageFault {
            gpa,
            access,
            during_walk,
        } => nested::serve(core, gpa, access, during_walk),
        _ => dispatch_rare(core),
    }
}

/// The same for exits that a busy guest does not have.
#[cold]
#[inline(never)]
fn dispatch_rare<V: Vendor>(core: &mut Core<V>) -> Served {
    match core.vcpu.rare_exit() {
        Exit::Xsetbv => xsetbv::serve(core),
        Exit::Nmi => kick::nmi(core),
        Exit::ExternalInterrupt { vector } => interrupt::serve(core, vector),
        Exit::Exception { vector, error, .. } => exception::serve(core, vector, error),
        exit => other::serve(core, exit),
    }
}

/// What `exit` will count as. [`dispatch`] says the same once it has served.
pub(crate) fn reason<V: Vendor>(core: &Core<V>, exit: &Exit) -> Reason {
    match *exit {
        Exit::Cpuid => Reason::Cpuid,
        Exit::Rdmsr => Reason::Rdmsr,
        Exit::Wrmsr => Reason::Wrmsr,
        Exit::Port(access) if access.input => Reason::PortIn,
        Exit::Port(_) => Reason::PortOut,
        Exit::Xsetbv => Reason::Xsetbv,
        Exit::Hypercall => Reason::Hypercall,
        Exit::NestedPageFault { gpa, access, .. } if apic::is_write(core, gpa, access) => {
            Reason::ApicWrite
        }
        Exit::NestedPageFault { .. } => Reason::NestedPageFault,
        Exit::Exception { .. } => Reason::Exception,
        Exit::ExternalInterrupt { .. } => Reason::Interrupt,
        Exit::Nmi => Reason::Nmi,
        Exit::Init => Reason::Init,
        Exit::Sipi { .. } => Reason::Sipi,
        Exit::TripleFault => Reason::TripleFault,
        Exit::Halt => Reason::Halt,
        Exit::CacheControl => Reason::CacheControl,
        Exit::ControlRegister { .. } => Reason::ControlRegister,
        Exit::Virtualization => Reason::Virtualization,
        Exit::TaskSwitch => Reason::TaskSwitch,
        Exit::MachineCheck => Reason::MachineCheck,
        Exit::EntryFailure { .. } => Reason::EntryFailure,
        Exit::Other { .. } => Reason::Other,
    }
}
