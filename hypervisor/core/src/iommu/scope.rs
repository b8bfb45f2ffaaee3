//! What both kinds of tables tell.

use super::Requester;
use crate::memory::Range;

/// An I/O APIC as a sender of interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApicSource {
    /// Its ID in the MADT.
    pub id: u8,
    /// The requester that its interrupts come from.
    pub requester: Requester,
}

/// Memory that the firmware wants a device to reach, always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Whole pages.
    pub range: Range,
    /// The function; `None`: all, or more than are told apart.
    pub requester: Option<Requester>,
}
