//! The contract between the hypervisor, the partition programs and the host
//! tools: hypercall numbers, flags, error codes, exit reasons, the layouts of
//! shared pages, and the records the hypervisor prints.
//!
//! This crate imports nothing of ours. A layout that two sides read in memory
//! is `repr(C)` and carries a size assertion.
#![no_std]
#[cfg(feature = "std")]
extern crate std;

pub mod channel;
pub mod control;
pub mod counters;
pub mod dataplane;
pub mod device;
pub mod hypercall;
pub mod interrupts;
pub mod reason;
#[cfg(feature = "serde")]
pub mod record;
pub mod shared;
pub mod state;
pub mod trace;

pub use channel::MAX_CHANNELS;
pub use counters::CoreCounters;
pub use dataplane::Dataplane;
pub use hypercall::{Error, Hypercall};
pub use reason::Reason;
pub use state::{LinuxState, PartitionState};

/// The most cores one machine may have: bounds every fixed per-core table.
pub const MAX_CORES: usize = 64;
/// The most partitions one manifest may declare.
pub const MAX_PARTITIONS: usize = 32;
/// Longest partition, channel and module name, in bytes.
pub const MAX_NAME: usize = 31;
/// The most frames a recorded guest backtrace has.
pub const BACKTRACE_FRAMES: usize = 16;
/// CPUID leaf 0x4000_0000, EBX:ECX:EDX (Intel SDM vol. 2, CPUID; the range
/// 0x4000_0000..=0x4000_00ff is left to hypervisors by both vendors).
pub const CPUID_SIGNATURE: [u8; 12] = *b"CloisterHv\0\0";
/// Highest hypervisor CPUID leaf that Cloister answers. Leaf 0x4000_0001
/// returns in EAX the ABI version, [`VERSION`].
pub const CPUID_MAX_LEAF: u32 = 0x4000_0001;
/// Version of everything in this crate. Bumped when a layout changes.
pub const VERSION: u32 = 3;
