//! Pure logic of the hypervisor, tested on the host.
#![no_std]
#![forbid(unsafe_code)]

pub mod decode;
pub mod memory;
pub mod nested;
pub mod walk;
