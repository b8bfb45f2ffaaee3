//! What of `exits` can be tested on the host: its words and its bookkeeping.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod expect;
pub mod step;
