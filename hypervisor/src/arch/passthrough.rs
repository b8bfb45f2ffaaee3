//! What is done on the hardware for a guest. Each function asks the policy
//! itself, so that nobody can have it do what the policy does not allow.

use core::arch::asm;

use cloister_core::policy::Guest;
use cloister_core::policy::io::{self, IoAction, IoFacts};
use cloister_core::policy::msr::{self as policy, MsrAction, MsrContext};

use crate::arch::{cpu, msr};

/// Reads MSR `index` if the policy lets `context.guest` have it; `None` if it
/// does not, or the processor has no such MSR.
pub(crate) fn read_msr(index: u32, context: &MsrContext) -> Option<u64> {
    match policy::read(index, context) {
        // SAFETY: an MSR of the guest's own core that the policy gives it; a
        // missing one is caught.
        MsrAction::PassThrough => unsafe { msr::try_read(index) },
        // SAFETY: as above.
        MsrAction::ReadWith(bits) => Some(unsafe { msr::try_read(index) }.unwrap_or(0) | bits),
        _ => None,
    }
}

/// Writes MSR `index` if the policy lets `context.guest` write `value`. Says
/// whether it was written.
pub(crate) fn write_msr(index: u32, value: u64, context: &MsrContext) -> bool {
    policy::write(index, value, context) == MsrAction::PassThrough
        // SAFETY: an MSR of the guest's own core that the policy gives it; an
        // invalid value is caught.
        && unsafe { msr::try_write(index, value) }
}

/// Does the port access `access` if the policy allows it. An input returns
/// what was read, an output 0; `None` if it was not done.
pub(crate) fn port(access: &io::PortAccess, guest: Guest, facts: &IoFacts) -> Option<u32> {
    match io::decide(access, guest, facts) {
        IoAction::Pass | IoAction::PowerOff | IoAction::Reset => {}
        IoAction::Sleep(_) | IoAction::Drop | IoAction::Ones => return None,
    }
    match access.output {
        // SAFETY: the policy gives the guest this port.
        None => Some(unsafe { cpu::port_in(access.port, access.width) }),
        Some(value) => {
            // SAFETY: as above.
            unsafe { cpu::port_out(access.port, access.width, value) };
            Some(0)
        }
    }
}

/// Writes all caches back, and empties them (WBINVD).
pub(crate) fn write_back_caches() {
    // SAFETY: nothing is lost.
    unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
}
