//! What the verbs of `cargo xtask` share, and what a test that boots a machine
//! needs: build, make an image, boot it, watch its consoles, fold its records
//! into a report.
//!
//! ```no_run
//! use std::time::Duration;
//! use xtask::{Console, Run};
//!
//! # fn main() -> anyhow::Result<()> {
//! let mut live = Run::file("partitions/demo.toml")
//!     .timeout(Duration::from_secs(120))
//!     .start()?;
//! live.wait_for(Console::Linux, "# ", Duration::from_secs(60))?;
//! live.send(b"poweroff -f\n")?;
//! let finished = live.finish()?;
//! assert_eq!(finished.report.partition("spin")?.exits.since_quiesce, 0);
//! # Ok(())
//! # }
//! ```

pub mod bench;
pub mod build;
pub mod check;
pub mod image;
pub mod kvm;
pub mod machine;
pub mod net;
pub mod paths;
pub mod report;
pub mod run;
pub mod stream;
pub mod symbols;
pub mod system;
pub mod terminal;
pub mod tools;

pub use machine::{Accel, Clock, Iommu, MachineKind, Nic, NicModel};
pub use report::{Outcome, Report};
pub use run::{Console, Finished, Live, Run};
pub use system::System;
