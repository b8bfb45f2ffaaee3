//! Pure logic of the hypervisor, tested on the host.
#![no_std]
#![forbid(unsafe_code)]

pub mod nested;
