//! What of `spin` can be tested on the host: its options and its statistics.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod gaps;
pub mod options;
