//! What stands for the hypervisor once the program runs: its calls, and the
//! end.

use core::sync::atomic::{AtomicU64, Ordering};

use cloister_abi::hypercall::{Error, Hypercall};
use cloister_abi::record::{self, Record};
use cloister_abi::shared::CONSOLE_BYTES;
use cloister_abi::{Dataplane, PartitionState};

use crate::{console, load, machine};

/// How much of the program's console ring has been printed.
static PRINTED: AtomicU64 = AtomicU64::new(0);

/// Takes the program's hypercalls (`PartitionInfo::call`). Modes are accepted
/// and mean nothing: there is nobody who could disturb or exit.
pub(crate) extern "sysv64" fn call(number: u64, argument: u64, _: u64, _: u64) -> i64 {
    match Hypercall::from_number(number) {
        Some(Hypercall::Null) => 0,
        Some(Hypercall::SetDataplane) => match Dataplane::from_bits(argument) {
            Some(flags) => load::set_flags(flags),
            None => Error::InvalidArgument as i64,
        },
        Some(Hypercall::ConsoleFlush) => {
            drain();
            0
        }
        Some(Hypercall::Finish) => finish(argument),
        None => Error::UnknownCall as i64,
    }
}

/// Says that the program starts.
pub(crate) fn started() {
    console::record(&Record::Boot(record::Boot {
        version: env!("CARGO_PKG_VERSION"),
        vendor: "bare",
        cpus: 1,
    }));
    state(PartitionState::Running, None, "");
}

/// Says why there is nothing to start.
pub(crate) fn refuse(complaint: &'static str) -> ! {
    console::text("bare: ");
    console::text(complaint);
    console::text("\n");
    end("hypervisor-panic", complaint)
}

fn finish(code: u64) -> ! {
    drain();
    state(PartitionState::Finished, Some(code), "");
    end("completed", "the program has finished")
}

fn state(state: PartitionState, exit_code: Option<u64>, detail: &str) {
    console::record(&Record::Partition(record::Partition {
        name: load::name(),
        state,
        exit_code,
        restarts: 0,
        detail,
    }));
}

fn end(outcome: &str, detail: &str) -> ! {
    console::record(&Record::End(record::End { outcome, detail }));
    machine::reset()
}

/// Prints what the program has written since the last time.
fn drain() {
    const PIECE: usize = 256;
    let ring = load::ring();
    let written = ring.written.load(Ordering::Acquire);
    let oldest = written.saturating_sub(CONSOLE_BYTES as u64);
    let mut at = PRINTED.load(Ordering::Relaxed).clamp(oldest, written);
    while at < written {
        let end = written.min(at.saturating_add(PIECE as u64));
        let mut text = heapless::String::<PIECE>::new();
        for index in at..end {
            let slot = usize::try_from(index % CONSOLE_BYTES as u64).unwrap_or(0);
            let byte = ring.bytes.get(slot);
            let plain = match byte.map_or(0, |byte| byte.load(Ordering::Relaxed)) {
                byte @ (b'\n' | b'\t' | b' '..=b'~') => char::from(byte),
                _ => '?',
            };
            // There is room for a piece of ASCII.
            let _ = text.push(plain);
        }
        at = end;
        console::record(&Record::Console(record::Text {
            name: load::name(),
            text: &text,
        }));
    }
    PRINTED.store(written, Ordering::Relaxed);
}
