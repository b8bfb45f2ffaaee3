//! What of `telemetry` can be tested on the host: commands and text.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod command;
pub mod line;
