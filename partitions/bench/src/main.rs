//! Times single exits by the time-stamp counter.
//!
//! Each instruction is timed `repetitions=N` times (1000; at most 1024), after
//! [`WARM_UP`] rounds that do not count: [`measure`] reads the counter, loads
//! the instruction's registers, executes it and reads the counter again. The
//! same sequence without the instruction is the empty one. What is printed is
//!
//! ```text
//! added = (sequence with the instruction) - (empty sequence) - 1
//! ```
//!
//! where 1 is the instruction itself: what the exit adds over executing the
//! instruction natively. It is a number of *instructions* where the counter
//! advances by one for each: on QEMU with `-icount shift=0,sleep=off` and on
//! Bochs, both with one CPU. The line `clock` says whether it does, by a loop
//! of known length; elsewhere the unit is cycles.
//!
//! An access to the local APIC is timed only where the partition has one
//! (`apic = true`): writes to the xAPIC page, or the x2APIC's ICR. The
//! interrupt that the core sends to itself stays pending, since interrupts are
//! off: the first one is taken at the end, and all others merge with it.
//!
//! Exit codes: 0 done, 1 an interrupt did not come, 2 bad arguments.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use cloister_runtime::interrupts;
use cloister_runtime::measure::{self, ApicWrite};
use cloister_runtime::{Apic, Partition, cpu, entry, println};
use program_bench::samples::{CAPACITY, Summary};

entry!(main);

/// Rounds that do not count: they touch memory for the first time, and the
/// hypervisor prints its first 32 refusals of the port.
const WARM_UP: usize = 64;
/// Iterations of the loop that finds the counter's unit.
const LOOP: u32 = 1_000_000;
/// PCI configuration address: a port that no partition of the bench has.
const FILTERED_PORT: u16 = 0xcf8;
/// The highest basic leaf: a leaf that depends on nothing.
const PLAIN_LEAF: u32 = 0;
/// What the core sends to itself.
const VECTOR: u8 = 0x41;
/// Cycles in which an interrupt that is pending must come.
const PATIENCE: u64 = 100_000;

fn main(partition: &Partition) -> u64 {
    let repetitions = match partition.number("repetitions", 1000) {
        Ok(count) => match usize::try_from(count) {
            Ok(count @ 1..=CAPACITY) => count,
            _ => {
                println!("bench: args: repetitions: {count} is not between 1 and {CAPACITY}");
                return 2;
            }
        },
        Err(error) => {
            println!("bench: args: repetitions: {error}");
            return 2;
        }
    };
    println!(
        "bench: clock instructions={} cycles={}",
        measure::loop_instructions(LOOP),
        measure::counted_loop(LOOP)
    );
    let empty = Summary::take(repetitions, measure::nothing);
    println!("bench: empty cycles={}", empty.min);

    let time = |name: &str, sample: &mut dyn FnMut() -> u32| {
        for _ in 0..WARM_UP {
            sample();
        }
        let added = Summary::take(repetitions, sample).added(empty.min);
        println!(
            "bench: {name} min={} median={} max={} n={repetitions}",
            added.min, added.median, added.max
        );
    };
    time("cpuid", &mut || measure::cpuid(PLAIN_LEAF));
    time("null-hypercall", &mut measure::null_hypercall);
    time("rdmsr", &mut measure::read_efer);
    time("port-in", &mut || measure::read_port(FILTERED_PORT));
    match partition.apic() {
        None => {}
        Some(Apic::X2apic) => {
            time("x2apic-icr", &mut || measure::send_self_x2apic(VECTOR));
            return take_interrupt();
        }
        Some(Apic::Xapic) => {
            let write = |name, what| time(name, &mut || measure::write_apic(what));
            write("xapic-eoi", ApicWrite::Eoi);
            write("xapic-timer", ApicWrite::TimerInitialCount(0));
            write("xapic-icr", ApicWrite::SendSelf(VECTOR));
            return take_interrupt();
        }
    }
    0
}

/// Lets the interrupt in that the core has sent to itself: a send that was
/// dropped would have been cheap.
fn take_interrupt() -> u64 {
    interrupts::enable();
    cpu::wait(PATIENCE);
    interrupts::disable();
    let count = interrupts::count(VECTOR);
    println!("bench: interrupts taken={count}");
    u64::from(count == 0)
}
