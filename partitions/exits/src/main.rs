//! Provokes the VM exits that its arguments name, in their order, and checks
//! that its core's counters, read in place, moved by exactly that much: the
//! positive control of every test that sees 0. `step` lists the words.
//!
//! After each step a line `exits: cpuid 3`; at the end `exits: ok`, or a line
//! `exits: MISMATCH cpuid expected 3 got 2` for each difference. Exit codes: 0
//! (or that of `finish=CODE`), 1 mismatch, 2 bad arguments.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

mod run;

use core::fmt;

use cloister_runtime::{Partition, entry, finish, println, provoke};
use program_exits::step::{Action, Step, parse};

use crate::run::Run;

entry!(main);

fn main(partition: &Partition) -> u64 {
    let name = Name(*partition);
    let mut xsetbv = false;
    for step in parse(partition.args()) {
        match step {
            Ok(Step::Repeat(Action::Xsetbv, _)) => xsetbv = true,
            Ok(_) => {}
            Err(error) => {
                println!("{name}: {error}");
                return 2;
            }
        }
    }
    if xsetbv && let Err(fault) = provoke::enable_xsave() {
        println!("{name}: xsetbv: this processor has no XSAVE ({fault})");
        return 2;
    }
    if let Err(error) = provoke::touch_own_pages(partition) {
        println!("{name}: the program's own pages cannot be read: {error}");
        return 1;
    }

    let mut run = Run::new(partition, name);
    let mut code = 0;
    for step in parse(partition.args()).filter_map(Result::ok) {
        if let Step::Finish(wanted) = step {
            code = wanted;
            break;
        }
        if !run.step(step) {
            return 2;
        }
    }
    let ok = run.check();
    run.leave();
    finish(if ok { code } else { 1 })
}

/// `exits`, or `core N: exits` where there are several.
#[derive(Clone, Copy)]
struct Name(Partition);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.cores() > 1 {
            write!(f, "core {}: ", self.0.core())?;
        }
        f.write_str("exits")
    }
}
