//! Text output through the partition's console ring. Writing costs no exit.

use core::fmt::{self, Write};
use core::sync::atomic::Ordering;

use cloister_abi::Hypercall;
use cloister_abi::shared::{CONSOLE_BYTES, ConsoleRing};

use crate::hypercall::hypercall;
use crate::start;

/// Bytes that one [`print!`](crate::print) gives to the ring in one piece. Longer text is
/// split, and another core's may come between.
pub const PIECE: usize = 512;

/// Asks the hypervisor to print what is in the ring now: one exit. Without it
/// the text appears at the end, or when the hypervisor looks by itself.
pub fn flush() {
    hypercall(Hypercall::ConsoleFlush as u64, 0, 0, 0);
}

/// Writes formatted text; use [`print!`](crate::print) or [`println!`](crate::println).
#[doc(hidden)]
pub fn write(arguments: fmt::Arguments<'_>) {
    let mut piece = Piece {
        bytes: [0; PIECE],
        length: 0,
    };
    if piece.write_fmt(arguments).is_err() {
        piece.append(b"<a Display implementation failed>\n");
    }
    piece.emit();
}

/// Text that is gathered before it goes to the ring, so that a line stays in
/// one piece.
struct Piece {
    bytes: [u8; PIECE],
    length: usize,
}

impl Piece {
    fn append(&mut self, mut text: &[u8]) {
        while !text.is_empty() {
            if self.length == PIECE {
                self.emit();
            }
            let free = &mut self.bytes[self.length..];
            let count = free.len().min(text.len());
            let (now, later) = text.split_at(count);
            free[..count].copy_from_slice(now);
            self.length += count;
            text = later;
        }
    }

    fn emit(&mut self) {
        if let Some(ring) = start::console() {
            put(ring, &self.bytes[..self.length]);
        }
        self.length = 0;
    }
}

impl Write for Piece {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.append(text.as_bytes());
        Ok(())
    }
}

/// Reserves room by moving `written`, then fills it.
fn put(ring: &ConsoleRing, text: &[u8]) {
    let first = ring.written.fetch_add(text.len() as u64, Ordering::Relaxed);
    for (position, &byte) in (first..).zip(text) {
        // The remainder is below CONSOLE_BYTES, a usize.
        #[expect(clippy::cast_possible_truncation)]
        let slot = (position % CONSOLE_BYTES as u64) as usize;
        ring.bytes[slot].store(byte, Ordering::Relaxed);
    }
    // The next flush or exit of this core sees the bytes: they are stores of
    // the same core, which x86 keeps in order.
}

/// Prints to the console ring, without an exit.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => { $crate::console::write(::core::format_args!($($argument)*)) };
}

/// Prints a line to the console ring, without an exit.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($format:literal $($argument:tt)*) => {
        $crate::print!("{}\n", ::core::format_args!($format $($argument)*))
    };
}
