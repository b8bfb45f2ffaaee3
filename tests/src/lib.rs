//! Boots machines and counts exits: from a Rust test, in a few lines.
//!
//! In a repository of your own, with `cloister-tests` and `anyhow` as
//! `[dev-dependencies]` and a package `packet-loop` that links
//! `cloister-runtime`, this is `tests/zero_exits.rs`:
//!
//! ```no_run
//! use anyhow::Result;
//! use cloister_tests::{build_program, part, partitions, system};
//!
//! # fn main() -> Result<()> { zero_exits() }
//! // #[test]
//! fn zero_exits() -> Result<()> {
//!     let elf = build_program(".", "packet-loop")?;
//!     let ours = part("ours", "packet-loop").cores("[1]").args("packets=1000000").may("strict populate");
//!     system(partitions([ours]))
//!         .program("packet-loop", elf)
//!         .run_to_end()?
//!         .completed()?
//!         .partition("ours")?
//!         .finished(0)?
//!         .since_quiesce(0)?
//!         .interrupts(0)?;
//!     Ok(())
//! }
//! ```
//!
//! With Linux next door, a system file of your own, and something to do while
//! the machine runs:
//!
//! ```no_run
//! use anyhow::Result;
//! use cloister_tests::{Console, system_file};
//!
//! # fn main() -> Result<()> {
//! let mut machine = system_file("systems/router.toml").deadline(120).start()?;
//! machine.wait_for(Console::Linux, " # ", 60)?;
//! machine.type_line("modprobe dummy && echo loaded=$((1 + 1))")?;
//! machine.wait_for(Console::Linux, "loaded=2", 10)?;
//! machine.type_line("poweroff -f")?;
//! machine.finish()?.completed()?.partition("router")?.since_quiesce(0)?;
//! # Ok(())
//! # }
//! ```
//!
//! Every wait has a deadline. A check that fails returns an error with the
//! last lines of each console and the table of exits, so that a test which
//! returns [`anyhow::Result`] shows them.
//!
//! [`System`] is what to boot and where; [`Running`] a machine that runs;
//! [`Ended`] the checks on one that has ended, and [`Ended::report`] the whole
//! report. [`cases`] is the runner of our own cases, for whoever wants one
//! list of cases on more than one machine.

pub mod cases;
mod check;
mod compose;
mod ended;

mod program;
mod running;
pub mod storm;
mod system;

pub use check::{LinuxCheck, PartitionCheck, ViolationCheck};
pub use cloister_abi::{LinuxState, PartitionState};
pub use compose::{LinuxPart, Part, channel, linux, part, partitions, with_linux};
pub use ended::Ended;
pub use program::build_program;
pub use running::Running;
pub use system::{System, bare, bare_with, system, system_file};
pub use xtask::net;
pub use xtask::report::{self, Report};
pub use xtask::{Accel, Clock, Console, Iommu, MachineKind, Nic, NicModel, Outcome};

/// QEMU: AMD SVM by TCG, or nested KVM where the machine can.
pub const QEMU: MachineKind = MachineKind::Qemu;
/// Bochs: Intel VMX and EPT, emulated.
pub const BOCHS: MachineKind = MachineKind::Bochs;
