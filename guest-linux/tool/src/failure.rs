//! What can go wrong, by exit status.

use std::fmt;

/// A failure with an exit status of its own. All others end with 1.
#[derive(Debug)]
pub(crate) enum Failure {
    /// This Linux does not run in Cloister, or may not see it: status 3.
    NoDevice(String),
    /// No partition is called so: status 4.
    NoPartition(String),
    /// The hypervisor refused the call: status 5.
    Refused(String),
    /// It was done, and did not take effect in time: status 6.
    TooLate(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice(text)
            | Self::NoPartition(text)
            | Self::Refused(text)
            | Self::TooLate(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Failure {}

/// The exit status for `error`; clap's own for wrong usage is 2.
pub(crate) fn status(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(Failure::NoDevice(_)) => 3,
        Some(Failure::NoPartition(_)) => 4,
        Some(Failure::Refused(_)) => 5,
        Some(Failure::TooLate(_)) => 6,
        None => 1,
    }
}
