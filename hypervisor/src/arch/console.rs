//! The hypervisor's console: text for people, and records for machines
//! (`cloister_abi::record`). Also the backend of the `log` crate.

use core::fmt;

use cloister_abi::record::{MARK, Record};
use log::{Level, LevelFilter, Log, Metadata};
use spin::Mutex;

use crate::arch::uart::{COM, Uart};

/// Longest record, bytes of JSON.
const RECORD_BYTES: usize = 2048;

static CONSOLE: Mutex<Console> = Mutex::new(Console {
    uart: None,
    record: [0; RECORD_BYTES],
});

/// Where text goes. One holder at a time.
pub(crate) struct Console {
    uart: Option<Uart>,
    record: [u8; RECORD_BYTES],
}

impl Console {
    fn put(&self, bytes: &[u8]) {
        if let Some(uart) = &self.uart {
            for &byte in bytes {
                uart.send(byte);
            }
        }
    }

    /// Prints `record` as one marked line.
    pub(crate) fn record(&mut self, record: &Record<&str>) {
        match serde_json_core::to_slice(record, &mut self.record) {
            Ok(length) => {
                self.put(&[MARK]);
                self.put(self.record.get(..length).unwrap_or(&[]));
                self.put(b"\n");
            }
            Err(_) => self.put(b"a record was too long to print\n"),
        }
    }

    /// Waits until all has been sent.
    pub(crate) fn flush(&self) {
        if let Some(uart) = &self.uart {
            uart.flush();
        }
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes());
        Ok(())
    }
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        use fmt::Write as _;
        let mut console = CONSOLE.lock();
        let prefix = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            _ => "",
        };
        let _ = writeln!(console, "{prefix}{}", record.args());
    }

    fn flush(&self) {}
}

/// Opens the console that the boot command line names: `console=com1` to
/// `com4`, or `none`; COM2 if it names none.
///
/// # Safety
/// Called once, first of all, on the boot core; that UART is the hypervisor's.
pub(crate) unsafe fn open(command_line: &str) {
    let name = command_line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("console="));
    let base = match name {
        Some("com1") => Some(COM[0]),
        Some("com3") => Some(COM[2]),
        Some("com4") => Some(COM[3]),
        Some("none") => None,
        _ => Some(COM[1]),
    };
    // SAFETY: the caller vouches for it.
    CONSOLE.lock().uart = base.map(|base| unsafe { Uart::new(base) });
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// The console, when nobody else holds it.
pub(crate) fn lock() -> spin::MutexGuard<'static, Console> {
    CONSOLE.lock()
}

/// The console for a dying hypervisor: waits a bounded time for the present
/// holder, who may be the one that died, and then takes it.
pub(crate) fn seize() -> spin::MutexGuard<'static, Console> {
    for _ in 0..10_000_000 {
        if let Some(guard) = CONSOLE.try_lock() {
            return guard;
        }
        core::hint::spin_loop();
    }
    // SAFETY: the holder has not let go in a time in which every message is
    // printed many times over: it is dead, or it is this core.
    unsafe { CONSOLE.force_unlock() };
    CONSOLE.lock()
}
