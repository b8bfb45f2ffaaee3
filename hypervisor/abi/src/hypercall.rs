//! Hypercalls: VMCALL (Intel) or VMMCALL (AMD), from ring 0 of a guest.
//!
//! The number is in RAX, the arguments in RDI, RSI and RDX. RAX returns a
//! value of at least 0, or a negative [`Error`]. No other register changes.

/// A hypercall's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Hypercall {
    /// Does nothing and returns 0: the cost of the way in and out.
    Null = 0,
    /// RDI = [`crate::Dataplane`] bits. Returns the previous flags.
    SetDataplane = 1,
    /// Asks for the console ring of this partition to be printed now. A hint:
    /// what is in the ring is printed at the end in any case. Returns 0.
    ConsoleFlush = 2,
    /// Ends this core's program. RDI = exit code. The partition is finished
    /// when the last of its cores has called this. Does not return.
    Finish = 3,
}

impl Hypercall {
    /// The hypercall with this number.
    #[must_use]
    pub const fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Null),
            1 => Some(Self::SetDataplane),
            2 => Some(Self::ConsoleFlush),
            3 => Some(Self::Finish),
            _ => None,
        }
    }
}

/// Why a hypercall was refused. Returned in RAX as the negative value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Error {
    /// No such hypercall.
    UnknownCall = -1,
    /// An argument has a bit or value that means nothing.
    InvalidArgument = -2,
    /// The manifest does not allow this partition that flag.
    NotAllowed = -3,
    /// The core could not be made quiet in bounded time. RAX is
    /// `-(0x100 + source)`; see [`BusySource`].
    Busy = -0x100,
}

/// What kept a core from becoming quiet. [`Error::Busy`] carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BusySource {
    /// An interrupt vector is pending in the local APIC's IRR.
    Pending = 0,
    /// An interrupt vector is in service in the local APIC's ISR.
    InService = 1,
    /// The local APIC timer is armed.
    Timer = 2,
    /// Another LVT entry is unmasked.
    Lvt = 3,
    /// Management requests (stop, restart, flags, flush) do not cease, or other
    /// cores did not stand still for a look at the routes.
    Management = 4,
    /// An interrupt is routed at this core.
    Route = 5,
}

impl BusySource {
    /// Name in records, kebab-case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending-vector",
            Self::InService => "in-service-vector",
            Self::Timer => "apic-timer",
            Self::Lvt => "lvt",
            Self::Management => "management",
            Self::Route => "route",
        }
    }

    /// The source in `raw`, a value that RAX returned.
    #[must_use]
    pub const fn from_return(raw: i64) -> Option<Self> {
        match raw.wrapping_neg() {
            0x100 => Some(Self::Pending),
            0x101 => Some(Self::InService),
            0x102 => Some(Self::Timer),
            0x103 => Some(Self::Lvt),
            0x104 => Some(Self::Management),
            0x105 => Some(Self::Route),
            _ => None,
        }
    }

    /// The value that RAX returns for a core that is busy because of this.
    #[must_use]
    pub const fn to_return(self) -> i64 {
        -(0x100 + self as i64)
    }
}
