//! The records of `cloister_abi::record`, on the serial port that the
//! hypervisor would use, so that the host reads a bare run like any other.

use core::sync::atomic::{AtomicU16, Ordering};

use cloister_abi::record::{MARK, Record};

use crate::machine::{inb, outb};

/// COM1 to COM4, by name.
const PORTS: [(&str, u16); 4] = [
    ("com1", 0x3f8),
    ("com2", 0x2f8),
    ("com3", 0x3e8),
    ("com4", 0x2e8),
];

static PORT: AtomicU16 = AtomicU16::new(0x2f8);

/// Opens the UART that the boot command line names (`console=com2`), COM2
/// without one: 115200 8N1, FIFOs on, interrupts off (PC16550D data sheet).
pub(crate) fn open(command_line: Option<&str>) {
    let name = command_line
        .iter()
        .flat_map(|line| line.split_whitespace())
        .find_map(|word| word.strip_prefix("console="));
    let port = PORTS.iter().find(|(known, _)| Some(*known) == name);
    let port = port.map_or(0x2f8, |(_, port)| *port);
    PORT.store(port, Ordering::Relaxed);
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
        // SAFETY: the UART is ours.
        unsafe { outb(port + register, value) };
    }
}

fn send(byte: u8) {
    const TRANSMIT_EMPTY: u8 = 0x20;
    let port = PORT.load(Ordering::Relaxed);
    // SAFETY: the UART is ours.
    unsafe {
        for _ in 0..100_000 {
            if inb(port + 5) & TRANSMIT_EMPTY != 0 {
                break;
            }
        }
        outb(port, byte);
    }
}

/// Prints text for people.
pub(crate) fn text(text: &str) {
    text.bytes().for_each(send);
}

/// Prints a record.
pub(crate) fn record(record: &Record<&str>) {
    let mut buffer = [0; 4096];
    let length = serde_json_core::to_slice(record, &mut buffer).unwrap_or(0);
    send(MARK);
    buffer.iter().take(length).copied().for_each(send);
    send(b'\n');
}
