//! Exceptions that are intercepted only so that a guest cannot keep the
//! processor busy delivering them for ever (CVE-2015-5307, CVE-2015-8104):
//! they are given back, and the exit between two of them lets kicks in.

use cloister_abi::Reason;

use crate::exit::Served;
use crate::run::Core;
use crate::virt::{Event, Vcpu, Vendor};

/// Gives the exception to the guest.
pub(crate) fn serve<V: Vendor>(core: &mut Core<V>, vector: u8, error: Option<u32>) -> Served {
    core.vcpu.inject(Event::Exception { vector, error });
    Served::resume(Reason::Exception)
}
