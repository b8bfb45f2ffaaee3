//! What of `bench` can be tested on the host: its statistics.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod samples;
