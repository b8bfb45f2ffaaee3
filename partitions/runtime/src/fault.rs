//! Exceptions: recovered from where the code foresaw them, else the end of
//! this core's program.

use core::fmt;

use crate::idt::Frame;
use crate::{EXIT_EXCEPTION, cpu, interrupts, start};

/// First vector that no exception has.
const FIRST_INTERRUPT: u64 = 32;
const NMI: u64 = 2;
const PAGE_FAULT: u64 = 14;

/// An exception that an instruction of [`crate::provoke`] raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its vector, 0 to 31.
    pub vector: u8,
    /// Its error code; 0 where it has none.
    pub error: u32,
}

impl Fault {
    /// R10 after a recovery: bit 63, the error code from bit 8, the vector.
    const MARK: u64 = 1 << 63;

    fn encode(frame: &Frame) -> u64 {
        Self::MARK | (frame.error & 0xffff_ffff) << 8 | frame.vector
    }

    /// The fault in R10 after an instruction with a recovery; `None` for 0.
    #[expect(clippy::cast_possible_truncation, reason = "takes fields apart")]
    pub(crate) const fn decode(r10: u64) -> Option<Self> {
        if r10 & Self::MARK == 0 {
            return None;
        }
        Some(Self {
            vector: r10 as u8,
            error: (r10 >> 8) as u32,
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} error {:#x}", name(self.vector.into()), self.error)
    }
}

/// An entry of the section `.recovery`: an exception with RIP = `at` goes on
/// at `resume`, with R10 = [`Fault::encode`].
#[repr(C)]
struct Recovery {
    at: u64,
    resume: u64,
}

unsafe extern "C" {
    safe static __recovery_start: Recovery;
    safe static __recovery_end: Recovery;
}

fn recoveries() -> &'static [Recovery] {
    let start = &raw const __recovery_start;
    let bytes = (&raw const __recovery_end).addr() - start.addr();
    // SAFETY: program.ld puts these symbols around the section's entries,
    // which nobody writes.
    unsafe { core::slice::from_raw_parts(start, bytes / size_of::<Recovery>()) }
}

/// Where every stub of the interrupt descriptor table leads.
pub(crate) extern "C" fn dispatch(frame: &mut Frame) {
    if frame.vector >= FIRST_INTERRUPT || frame.vector == NMI {
        interrupts::dispatch(frame.vector);
    } else if let Some(recovery) = recoveries().iter().find(|r| r.at == frame.rip) {
        frame.r10 = Fault::encode(frame);
        frame.rip = recovery.resume;
    } else {
        unhandled(frame);
    }
}

fn unhandled(frame: &Frame) -> ! {
    start::die(EXIT_EXCEPTION + frame.vector, |core| {
        crate::println!(
            "cloister: core {core}: unhandled {} (vector {}) error {:#x} rip {:#x} rsp {:#x} rflags {:#x}",
            name(frame.vector),
            frame.vector,
            frame.error,
            frame.rip,
            frame.rsp,
            frame.rflags,
        );
        if frame.vector == PAGE_FAULT {
            crate::println!("cloister: core {core}: fault address {:#x}", cpu::cr2());
        }
        crate::print!("cloister: core {core}: backtrace {:#x}", frame.rip);
        start::backtrace(frame.rbp, |address| crate::print!(" {address:#x}"));
        crate::println!();
    })
}

/// Mnemonic of exception `vector` (Intel SDM vol. 3, table 6-1).
const fn name(vector: u64) -> &'static str {
    match vector {
        0 => "#DE",
        1 => "#DB",
        2 => "NMI",
        3 => "#BP",
        4 => "#OF",
        5 => "#BR",
        6 => "#UD",
        7 => "#NM",
        8 => "#DF",
        10 => "#TS",
        11 => "#NP",
        12 => "#SS",
        13 => "#GP",
        14 => "#PF",
        16 => "#MF",
        17 => "#AC",
        18 => "#MC",
        19 => "#XM",
        20 => "#VE",
        21 => "#CP",
        29 => "#VC",
        30 => "#SX",
        _ => "exception",
    }
}
