//! The system file: TOML schema, validation, compiled form.
#![cfg_attr(not(feature = "std"), no_std)]

mod blob;
mod cpuset;
mod hardware;
mod model;
mod problem;
mod size;
#[cfg(feature = "std")]
mod source;
mod validate;

#[cfg(feature = "std")]
pub use blob::encode;
pub use blob::{BlobError, FORMAT, MAGIC, decode, decode_into};
pub use cpuset::CpuSet;
pub use hardware::{Console, Device, Dma, NotPciAddress, PciAddress, PortRange};
pub use model::{
    Channel, DEFAULT_HYPERVISOR_MEMORY, DEFAULT_MAX_RESTARTS, Hypervisor, LINUX, Linux,
    MANIFEST_MODULE, MAX_CHANNELS, MAX_CMDLINE, MAX_DEVICES, MAX_PORT_RANGES, Manifest, ModuleKind,
    Name, OnViolation, Owner, Partition,
};
pub use problem::{Problem, Severity};
pub use size::Size;
#[cfg(feature = "std")]
pub use source::{Diagnostic, Errors, Loaded, load, parse};
pub use validate::machine::{Machine, machine_problems, validate_machine};
pub use validate::{limits, problems, validate};
