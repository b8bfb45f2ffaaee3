//! PCI configuration access by the ports 0xcf8 and 0xcfc (PCI Local Bus
//! Specification 3.0 §3.2.2.3.2, "Configuration Mechanism #1").

use crate::arch::cpu;

/// Configuration address.
const ADDRESS: u16 = 0xcf8;
/// First of the four data ports.
pub(crate) const DATA: u16 = 0xcfc;

/// Which function and register the data ports reach now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) bus: u8,
    /// 0 to 31.
    pub(crate) device: u8,
    /// 0 to 7.
    pub(crate) function: u8,
    /// Offset of the register, a multiple of four.
    pub(crate) register: u8,
}

/// What the guest has selected; `None` while the data ports are no window to
/// configuration space.
pub(crate) fn selected() -> Option<Selected> {
    const ENABLE: u32 = 1 << 31;
    // SAFETY: reading the address back has no effect.
    let address = unsafe { cpu::port_in(ADDRESS, 4) };
    let [register, low, bus, _] = address.to_le_bytes();
    (address & ENABLE != 0).then_some(Selected {
        bus,
        device: low >> 3,
        function: low & 7,
        register: register & !3,
    })
}

/// The device numbers of bus 0 at which nothing answers, the highest first.
/// Only before Linux runs.
pub(crate) fn free_devices() -> impl Iterator<Item = u8> {
    (1..32).rev().filter(|&device| {
        let address = 1 << 31 | u32::from(device) << 11;
        // SAFETY: reading vendor IDs has no effect, and no guest is between
        // the two accesses.
        let vendor = unsafe {
            cpu::port_out(ADDRESS, 4, address);
            cpu::port_in(DATA, 2)
        };
        vendor & 0xffff == 0xffff
    })
}
