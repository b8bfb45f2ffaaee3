//! One list of cases, run on each machine: names, filters, a deadline for
//! each, and a last line as `cargo test` prints it.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use cloister_tests::cases::{Bench, Case, On, main};
//!
//! fn two_plus_two(bench: &Bench) -> anyhow::Result<()> {
//!     bench.system("…").run_to_end()?.completed()?;
//!     Ok(())
//! }
//!
//! const CASES: &[Case] =
//!     &[Case { name: "two-plus-two", on: On::Both, deadline: 20, run: two_plus_two }];
//!
//! fn main_of_the_test() -> ExitCode {
//!     main(CASES)
//! }
//! ```

mod runner;

use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::Result;
use xtask::{Accel, MachineKind};

use crate::System;
pub use runner::main;

/// One case: a function that boots machines and checks what came of it.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name; after the machine's in the output: `qemu::demo`.
    pub name: &'static str,
    /// Where it can run.
    pub on: On,
    /// Wall time in seconds that each machine of it may run in QEMU; on Bochs,
    /// [`BOCHS_FACTOR`] times as long.
    pub deadline: u64,
    /// The case.
    pub run: fn(&Bench) -> Result<()>,
}

/// Deadlines are for a host that does nothing else; others run at the same
/// time, so that each is given this much more.
const PATIENCE: u64 = 4;

/// How much longer than in QEMU things may take on Bochs.
pub const BOCHS_FACTOR: u64 = 10;

/// Where a case can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// On both machines.
    Both,
    /// Not on Bochs, and why.
    Qemu(&'static str),
    /// Not in QEMU, and why.
    Bochs(&'static str),
}

impl On {
    /// Why it cannot run on `machine`; [`None`] where it can.
    #[must_use]
    pub const fn obstacle(self, machine: MachineKind) -> Option<&'static str> {
        match (self, machine) {
            (Self::Qemu(why), MachineKind::Bochs) | (Self::Bochs(why), MachineKind::Qemu) => {
                Some(why)
            }
            _ => None,
        }
    }
}

/// What a case boots on: the machine under test.
#[derive(Debug)]
pub struct Bench {
    machine: MachineKind,
    accel: Accel,
    deadline: u64,
    notes: Mutex<Vec<String>>,
}

impl Bench {
    /// Which machine.
    #[must_use]
    pub const fn machine(&self) -> MachineKind {
        self.machine
    }

    /// `qemu` or `bochs`, by the machine.
    #[must_use]
    pub fn choose<T>(&self, qemu: T, bochs: T) -> T {
        match self.machine {
            MachineKind::Qemu => qemu,
            MachineKind::Bochs => bochs,
        }
    }

    /// [`crate::system`] on this machine, with the case's deadline.
    #[must_use]
    pub fn system(&self, text: impl Into<String>) -> System {
        self.on(crate::system(text))
    }

    /// [`crate::system_file`] on this machine, with the case's deadline.
    #[must_use]
    pub fn file(&self, path: impl Into<PathBuf>) -> System {
        self.on(crate::system_file(path))
    }

    /// [`crate::bare`] on this machine, with the case's deadline.
    #[must_use]
    pub fn bare(&self) -> System {
        self.on(crate::bare())
    }

    /// [`crate::bare_with`] on this machine, with the case's deadline.
    #[must_use]
    pub fn bare_with(&self, words: &str) -> System {
        self.on(crate::bare_with(words))
    }

    fn on(&self, system: System) -> System {
        system
            .machine(self.machine)
            .accel(self.accel)
            .deadline(PATIENCE * self.deadline)
    }

    /// Prints `text` with the case's result: what was measured.
    pub fn note(&self, text: impl Into<String>) {
        if let Ok(mut notes) = self.notes.lock() {
            notes.push(text.into());
        }
    }
}
