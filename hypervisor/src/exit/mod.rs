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
use crate::virt::{Exit, Frequent, Vendor};

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

/// Serves an everyday exit: inlined into the hot path, where each arm follows
/// the vendor's decoding at once.
#[inline(always)]
pub(crate) fn serve_frequent<V: Vendor>(core: &mut Core<V>, exit: Frequent) -> Served {
    match exit {
        Frequent::Cpuid => cpuid::serve(core),
        Frequent::Rdmsr => msr::read(core),
        Frequent::Wrmsr => msr::write(core),
        Frequent::Hypercall => hypercall::serve(core),
        Frequent::Port(access) => port::serve(core, access),
        Frequent::NestedPageFault {
            gpa,
            access,
            during_walk,
        } => nested::serve(core, gpa, access, during_walk),
    }
}

/// Serves `exit`.
#[cold]
#[inline(never)]
pub(crate) fn serve<V: Vendor>(core: &mut Core<V>, exit: Exit) -> Served {
    match exit {
        Exit::Frequent(exit) => serve_frequent(core, exit),
        Exit::Xsetbv => xsetbv::serve(core),
        Exit::Nmi => kick::nmi(core),
        Exit::ExternalInterrupt { vector } => interrupt::serve(core, vector),
        Exit::Exception { vector, error, .. } => exception::serve(core, vector, error),
        exit => other::serve(core, exit),
    }
}

/// What `exit` will count as. [`serve`] says the same once it has served.
pub(crate) fn reason<V: Vendor>(core: &mut Core<V>, exit: &Exit) -> Reason {
    match *exit {
        Exit::Frequent(exit) => match exit {
            Frequent::Cpuid => Reason::Cpuid,
            Frequent::Rdmsr => Reason::Rdmsr,
            Frequent::Wrmsr if msr::is_icr_write(core) => Reason::ApicWrite,
            Frequent::Wrmsr => Reason::Wrmsr,
            Frequent::Port(access) if access.is_input() => Reason::PortIn,
            Frequent::Port(_) => Reason::PortOut,
            Frequent::Hypercall => Reason::Hypercall,
            Frequent::NestedPageFault { gpa, access, .. } if apic::is_write(core, gpa, access) => {
                Reason::ApicWrite
            }
            Frequent::NestedPageFault { .. } => Reason::NestedPageFault,
        },
        Exit::Xsetbv => Reason::Xsetbv,
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
