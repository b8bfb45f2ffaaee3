//! Does what no partition may: one scenario, named by the argument `do=`.
//!
//! Whatever it does, it ends at worst itself. A scenario that is lived through
//! prints `hostile: NAME: …` and ends with code 0, or 1 if something came back
//! that should not have; 2 for bad arguments.
//!
//! | `do=` | what | how it ends |
//! |---|---|---|
//! | `foreign` | under STRICT, reads, writes and executes what it does not own, one place for each restart | violated, restarted, at last finished |
//! | `frames` | under STRICT, CPUID with nonsense in RSP and RBP, one kind for each restart | the same |
//! | `tables` | under STRICT, CPUID with a frame pointer into page tables that loop, and page tables outside its memory | the same |
//! | `image` | overwrites its own code and data, then breaks STRICT; looks after the restart whether all is clean | the same |
//! | `dma` | has its function, QEMU's `edu` or an e1000, copy to and from memory that is not its own, `storm=N` times more at the end | finished |
//! | `forge` | has QEMU's `edu` write `data=` to `address=`, an interrupt message | finished |
//! | `msrs` | RDMSR and WRMSR of every MSR of both vendors | finished |
//! | `ports` | IN, OUT, INS, OUTS of every port (`step=N`: wide ones of every Nth) | finished |
//! | `instructions` | every instruction of VMX, SVM and their like | finished |
//! | `control` | every bit of CR0, CR3, CR4, CR8, EFER, XCR0; debug registers | finished |
//! | `bad-control` | CR0, CR3 or CR4 without which there is no program (`kind=`) | finished or failed |
//! | `hypercalls` | numbers 0 to 4096 and beyond, with nonsense for arguments | finished |
//! | `console` | a console ring with wild positions | finished |
//! | `ipis` | every delivery mode and shorthand, at every APIC ID | finished |
//! | `apic` | writes of every kind to every APIC register | finished |
//! | `exceptions` | a storm of them | finished |
//! | `nmis` | a storm of NMIs to itself | finished |
//! | `modify` | code that changes itself, between exits | finished |
//! | `task` | leaves long mode and switches tasks by a TSS | failed |
//! | `loop` | core 0 goes into the endless `kind=`, core 1 ends the partition by a triple fault after `wait=` cycles | failed |
#![no_std]
#![no_main]

mod align;
mod apic;
mod dma;
mod image;
mod instructions;
mod memory;
mod nic;
mod raw;
mod storm;
mod task;

use cloister_runtime::{Dataplane, Partition, entry, println, set_dataplane};

entry!(main);

/// How a scenario that comes back has ended: what to print, or what came back
/// that should not have.
type Outcome = Result<Counts, &'static str>;

/// How many of the attempts went through, and how many raised an exception.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    done: u64,
    refused: u64,
}

impl Counts {
    fn add<T>(&mut self, result: Result<T, u8>) {
        match result {
            Ok(_) => self.done += 1,
            Err(_) => self.refused += 1,
        }
    }
}

fn main(partition: &Partition) -> u64 {
    let name = partition.arg("do").unwrap_or_default();
    let outcome = match name {
        "foreign" => memory::foreign(partition),
        "frames" => memory::frames(partition),
        "tables" => memory::tables(partition),
        "image" => image::overwrite(partition),
        "dma" => dma::aim(partition),
        "forge" => dma::forge(partition),
        "msrs" => instructions::msrs(),
        "ports" => instructions::ports(partition),
        "instructions" => instructions::all(),
        "control" => instructions::control(),
        "bad-control" => instructions::bad_control(partition),
        "hypercalls" => instructions::hypercalls(),
        "console" => instructions::console(partition),
        "ipis" => apic::ipis(partition),
        "apic" => apic::registers(partition),
        "exceptions" => storm::exceptions(),
        "nmis" => storm::nmis(partition),
        "modify" => image::modify(),
        "loop" => storm::endless(partition),
        "task" => task::switch(),
        _ => {
            println!("hostile: do={name}: no such scenario");
            return 2;
        }
    };
    match outcome {
        Ok(counts) => {
            println!(
                "hostile: {name}: done={} refused={}",
                counts.done, counts.refused
            );
            0
        }
        Err(what) => {
            println!("hostile: {name}: {what}");
            1
        }
    }
}

/// From here on every exit is a violation.
fn strict() -> Result<(), &'static str> {
    set_dataplane(Dataplane::STRICT | Dataplane::POPULATE)
        .map(|_| ())
        .map_err(|_| "STRICT was refused")
}

/// A number from `state` that looks random (xorshift64, Marsaglia 2003).
fn random(state: &mut u64) -> u64 {
    let mut x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    *state = x;
    x
}
