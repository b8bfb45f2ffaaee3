//! Calls of the hypervisor. Each is one exit.

use core::arch::asm;
use core::fmt;

use cloister_abi::hypercall::{BusySource, Error};
use cloister_abi::{Dataplane, Hypercall};

use crate::start;

/// Calls hypercall `number` with RDI, RSI and RDX = `a`, `b` and `c`, and
/// returns RAX: at least 0, or a negative [`Error`]. Any number may be tried:
/// an unknown one returns [`Error::UnknownCall`].
pub fn hypercall(number: u64, a: u64, b: u64, c: u64) -> i64 {
    let result: i64;
    match start::call_by() {
        // SAFETY: VMMCALL leaves to the hypervisor, which changes RAX alone
        // (cloister_abi::hypercall); no call has an address as an argument.
        CallBy::Vmmcall => unsafe {
            asm!("vmmcall", inlateout("rax") number => result,
                 in("rdi") a, in("rsi") b, in("rdx") c, options(nostack));
        },
        // SAFETY: as above, for Intel's VMCALL.
        CallBy::Vmcall => unsafe {
            asm!("vmcall", inlateout("rax") number => result,
                 in("rdi") a, in("rsi") b, in("rdx") c, options(nostack));
        },
        CallBy::Near(function) => result = function(number, a, b, c),
    }
    result
}

/// How this machine's hypercalls are made.
#[derive(Clone, Copy)]
pub(crate) enum CallBy {
    Vmcall,
    Vmmcall,
    /// There is no hypervisor: what started the program takes the call.
    Near(NearCall),
}

/// Number and arguments; returns what RAX would have.
pub(crate) type NearCall = extern "sysv64" fn(u64, u64, u64, u64) -> i64;

/// Does nothing: the cost of the way in and out. Returns 0.
pub fn null() -> i64 {
    hypercall(Hypercall::Null as u64, 0, 0, 0)
}

/// Enters, changes or leaves (no flags) the dataplane mode of this core, and
/// returns the flags that were in force.
///
/// With QUIESCE (which STRICT and DEBUG imply) it returns when the core is
/// quiet. With STRICT every exit from then on ends the partition, except
/// another call of this function: leave the mode before [`finish`].
///
/// # Errors
/// See [`DataplaneError`]; an error changes nothing.
pub fn set_dataplane(flags: Dataplane) -> Result<Dataplane, DataplaneError> {
    let raw = hypercall(Hypercall::SetDataplane as u64, flags.bits(), 0, 0);
    u64::try_from(raw)
        .map(Dataplane::from_bits_retain)
        .map_err(|_| DataplaneError::from_return(raw))
}

/// Why [`set_dataplane`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataplaneError {
    /// The core did not become quiet in bounded time because of this.
    Busy(BusySource),
    /// The partition's `dataplane` key does not list one of the flags.
    NotAllowed,
    /// A bit that is no flag.
    InvalidArgument,
    /// A value that this version does not know: what RAX returned.
    Unknown(i64),
}

impl DataplaneError {
    fn from_return(raw: i64) -> Self {
        if let Some(source) = BusySource::from_return(raw) {
            Self::Busy(source)
        } else if raw == Error::NotAllowed as i64 {
            Self::NotAllowed
        } else if raw == Error::InvalidArgument as i64 {
            Self::InvalidArgument
        } else {
            Self::Unknown(raw)
        }
    }
}

impl fmt::Display for DataplaneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy(source) => write!(f, "busy: {}", source.name()),
            Self::NotAllowed => f.write_str(
                "not allowed: list the flag under `dataplane` of the partition in the system file",
            ),
            Self::InvalidArgument => f.write_str("a bit that is no dataplane flag"),
            Self::Unknown(raw) => write!(f, "unknown error {raw}"),
        }
    }
}

/// Ends this core's program. The partition is finished when the last of its
/// cores has called this; of their codes the report has the highest.
///
/// In STRICT mode this is an exit like any other, hence a violation:
/// [`exit`] leaves the mode first.
pub fn finish(code: u64) -> ! {
    loop {
        hypercall(Hypercall::Finish as u64, code, 0, 0);
    }
}

/// Leaves the dataplane mode if this core is in one, then [`finish`]. What
/// returning from `main` does.
pub fn exit(code: u64) -> ! {
    if start::in_dataplane_mode() {
        hypercall(Hypercall::SetDataplane as u64, 0, 0, 0);
    }
    finish(code)
}
