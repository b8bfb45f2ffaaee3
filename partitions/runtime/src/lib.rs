//! What a partition program links: entry, console, `set_dataplane`, its own
//! exit counters, interrupts.
//!
//! A program is three files. `Cargo.toml`:
//!
//! ```toml
//! [package]
//! name = "program-hello"
//! edition.workspace = true
//!
//! [dependencies]
//! cloister-runtime.workspace = true
//!
//! [[bin]]
//! name = "hello"
//! path = "src/main.rs"
//! test = false
//! bench = false
//! ```
//!
//! `src/main.rs`:
//!
//! ```ignore
//! //! Sums for a while, undisturbed.
//! #![no_std]
//! #![no_main]
//!
//! use cloister_runtime::{Dataplane, Partition, entry, println, set_dataplane};
//!
//! entry!(main);
//!
//! fn main(partition: &Partition) -> u64 {
//!     let rounds = partition.number("rounds", 1_000_000).unwrap_or(0);
//!     println!("core {} of {}: {rounds} rounds", partition.core(), partition.cores());
//!     if let Err(error) = set_dataplane(Dataplane::STRICT | Dataplane::POPULATE) {
//!         println!("no dataplane mode: {error}");
//!         return 1;
//!     }
//!     let sum = (0..rounds).fold(0u64, |sum, n| sum.wrapping_add(core::hint::black_box(n)));
//!     println!("sum {sum}"); // costs no exit, so STRICT allows it
//!     0
//! }
//! ```
//!
//! and a system file, `partitions/hello.toml`:
//!
//! ```toml
//! [hypervisor]
//! memory  = "32M"
//! console = "com2"
//!
//! [[partition]]
//! name      = "hello"
//! cpus      = [1]
//! memory    = "16M"
//! program   = "hello"
//! args      = "rounds=5000000"
//! dataplane = ["quiesce", "strict", "populate"]
//! ```
//!
//! Add the folder to `members` of the workspace; then
//! `cargo xtask qemu-nested --system partitions/hello.toml` builds and boots
//! it. By hand: `cargo build --release -p program-hello --target
//! x86_64-unknown-none`. The linker script comes with this crate; a program
//! needs no build script.
//!
//! # What a program may rely on
//! - `main` runs on each core of the partition, in ring 0, interrupts off, on
//!   a stack of 16 KiB without a guard page. Statics are shared by the cores.
//! - There is no heap, and no floating-point or vector register is used by
//!   compiled code.
//! - All RAM is mapped at its own address. What the image does not take, from
//!   [`provoke::image_end`] to [`Partition::memory`], is free.
//! - [`print!`], reading counters and everything in [`mod@channel`] cost no exit. Everything in
//!   [`mod@hypercall`] costs one.
//!
//! # Devices and packets
//! [`Partition::devices`](device) lists the PCI functions that the system file
//! gives to the partition; [`device::Device`] reads their configuration space,
//! maps their registers and lets them use DMA; [`dma::Dma`] is memory for them.
//! Drivers for network cards are in `cloister-net` (`partitions/net`); its
//! documentation begins with a poll-mode program of 30 lines.
//!
//! # How a program ends
//! | how | exit code |
//! |---|---|
//! | `main` returns, or [`exit`] | its value; the dataplane mode is left first |
//! | [`finish`] | its argument; a violation in STRICT mode |
//! | an exception that nobody foresaw | [`EXIT_EXCEPTION`] + vector, after a message with registers and backtrace |
//! | a panic | [`EXIT_PANIC`], after the message |
//! | built for another hypervisor | [`EXIT_VERSION`], after a message |
//!
//! Each ends its own core; the partition is finished when all have.
#![cfg_attr(target_os = "none", no_std)]

#[cfg(target_os = "none")]
pub mod apic;
pub mod args;
pub mod dma;
mod partition;

#[cfg(target_os = "none")]
pub mod channel;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod device;
#[cfg(target_os = "none")]
mod fault;
#[cfg(target_os = "none")]
pub mod hypercall;
#[cfg(target_os = "none")]
mod idt;
#[cfg(target_os = "none")]
pub mod interrupts;
#[cfg(target_os = "none")]
pub mod measure;
#[cfg(target_os = "none")]
pub mod paging;
#[cfg(target_os = "none")]
pub mod provoke;
#[cfg(target_os = "none")]
mod start;

pub use cloister_abi as abi;
pub use cloister_abi::hypercall::BusySource;
pub use cloister_abi::{CoreCounters, Dataplane, Reason};
pub use partition::{Apic, Partition};

#[cfg(target_os = "none")]
pub use fault::Fault;
#[cfg(target_os = "none")]
pub use hypercall::{DataplaneError, exit, finish, set_dataplane};

/// Exit code after a panic.
pub const EXIT_PANIC: u64 = 0xffff_ffff;
/// Exit code after an exception that nobody foresaw, minus its vector.
pub const EXIT_EXCEPTION: u64 = 0xe000;
/// Exit code of a program that was built for another version of the ABI.
pub const EXIT_VERSION: u64 = 0xe100;

/// Names the function that runs on each core: `fn(&Partition) -> u64`. Its
/// value is the exit code.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        const _: () = {
            #[unsafe(export_name = "cloister_main")]
            extern "Rust" fn cloister_main(partition: &$crate::Partition) -> u64 {
                let main: fn(&$crate::Partition) -> u64 = $main;
                main(partition)
            }
        };
    };
}
