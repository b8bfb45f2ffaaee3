//! PCI configuration space of segment 0: by the ports 0xcf8 and 0xcfc (PCI
//! Local Bus Specification 3.0 §3.2.2.3.2, "Configuration Mechanism #1"), and
//! in memory what lies past the first 256 bytes (PCI Express Base
//! Specification 5.0 §7.2.2).
//!
//! No guest reaches the ports: whoever does holds [`Config`].

use cloister_core::acpi::Ecam;
use cloister_core::pci::{Address, ConfigSpace};
use spin::{Mutex, MutexGuard, Once};

use crate::arch::{cpu, paging};
use crate::iommu::guest;

/// Configuration address.
const ADDRESS: u16 = 0xcf8;
/// First of the four data ports.
const DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;
/// Registers that the ports reach.
const BY_PORTS: u16 = 0x100;

static PORTS: Mutex<()> = Mutex::new(());
static ECAM: Once<Option<Ecam>> = Once::new();

/// Says where configuration space is in memory, once.
pub(crate) fn note_ecam(ecam: Option<Ecam>) {
    ECAM.call_once(|| ecam);
}

/// Configuration space, while nobody else uses it.
pub(crate) struct Config {
    _ports: MutexGuard<'static, ()>,
}

/// Waits for whoever uses configuration space. Nobody who holds it waits for
/// anybody.
pub(crate) fn lock() -> Config {
    Config {
        _ports: PORTS.lock(),
    }
}

impl Config {
    /// Selects the aligned register at `offset`, and returns the port of the
    /// byte at `offset`. `None`: the ports do not reach it.
    fn select(&self, at: Address, offset: u16) -> Option<u16> {
        if offset >= BY_PORTS {
            return None;
        }
        let register = ENABLE | u32::from(at.0) << 8 | u32::from(offset & !3);
        // SAFETY: selecting a register has no effect, and the lock is ours.
        unsafe { cpu::port_out(ADDRESS, 4, register) };
        Some(DATA + offset % 4)
    }

    /// Reads `width` (1, 2 or 4) bytes at `offset`, inside one register. Of
    /// messages that are remapped, what was written.
    pub(crate) fn read_part(&self, at: Address, offset: u16, width: u8) -> u32 {
        let raw = |offset| self.raw_read(at, offset, 4);
        match guest::read_config(at, offset & !3, raw) {
            Some(register) => cloister_core::pci::part(register, offset, width),
            None => self.raw_read(at, offset, width),
        }
    }

    /// Writes them. What may be written is decided by `cloister_core::pci`.
    pub(crate) fn write_part(&mut self, at: Address, offset: u16, width: u8, value: u32) {
        let this = &mut *self;
        let raw = |offset, value| match value {
            Some(value) => {
                this.raw_write(at, offset, 4, value);
                value
            }
            None => this.raw_read(at, offset, 4),
        };
        if !guest::write_config(at, (offset, width, value), raw) {
            self.raw_write(at, offset, width, value);
        }
    }

    fn raw_read(&self, at: Address, offset: u16, width: u8) -> u32 {
        if let Some(port) = self.select(at, offset) {
            // SAFETY: reading configuration space has no effect on memory.
            return unsafe { cpu::port_in(port, width) };
        }
        let register = in_memory(at, offset & !3).and_then(paging::device_read);
        cloister_core::pci::part(register.unwrap_or(u32::MAX), offset, width)
    }

    fn raw_write(&mut self, at: Address, offset: u16, width: u8, value: u32) {
        if let Some(port) = self.select(at, offset) {
            // SAFETY: the decision is that no function reaches the
            // hypervisor's memory by this.
            unsafe { cpu::port_out(port, width, value) };
        } else if let Some(address) = in_memory(at, offset) {
            paging::device_write_part(address, width, u64::from(value));
        }
    }
}

fn in_memory(at: Address, offset: u16) -> Option<u64> {
    let ecam = ECAM.get().copied().flatten()?;
    Some(ecam.function(at.0)? + u64::from(offset))
}

impl ConfigSpace for Config {
    fn read(&self, at: Address, offset: u16) -> u32 {
        self.read_part(at, offset & !3, 4)
    }

    fn write(&mut self, at: Address, offset: u16, value: u32) {
        self.write_part(at, offset & !3, 4, value);
    }
}
