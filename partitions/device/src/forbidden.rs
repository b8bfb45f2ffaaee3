//! Writes that must change nothing, each of which the hypervisor records.

use cloister_runtime::device::Device;

use crate::raw::{read, write};
use crate::{INTX_OFF, Test, function};

/// Offset, width, and what is changed in the register.
const HEADER: &[(u8, u8, u32)] = &[
    // IDs; INTx on; error reporting; class; BIST.
    (0x00, 4, u32::MAX),
    (0x04, 2, INTX_OFF),
    (0x04, 2, 1 << 8),
    (0x08, 4, 0xff00_0000),
    (0x0f, 1, 0x40),
    // BARs moved, in whole and in part.
    (0x10, 4, 0x10_0000),
    (0x10, 2, 0xf000),
    (0x13, 1, 0x01),
    // Subsystem, ROM with and without its enable bit, capability list.
    (0x2c, 4, 1),
    (0x30, 4, 0xffff_f800),
    (0x30, 4, 0x0000_0001),
    (0x34, 1, 0x40),
    // Interrupt pin, latency wishes.
    (0x3d, 1, 0x02),
    (0x3e, 2, 0xffff),
    // Where a bridge has its bus numbers and windows are BARs here.
    (0x18, 1, 0x55),
    (0x20, 2, 0xfff0),
];

/// Power management: state D3. MSI: on, at core 0. MSI-X: on. PCI Express:
/// reset. Vendor-specific (of virtio: a window to registers): anything.
fn of_capability(id: u8) -> &'static [(u8, u8, u32)] {
    match id {
        0x01 => &[(4, 2, 3)],
        0x09 => &[(4, 1, 1), (8, 4, 0x10), (12, 4, 4)],
        0x10 => &[(8, 2, 1 << 15), (8, 2, 1 << 0), (16, 2, 0x10)],
        0x13 => &[(4, 1, 1)],
        _ => &[],
    }
}

/// Of a function of this partition. Returns how many were tried.
pub(crate) fn own(test: &mut Test<'_>, device: &Device) -> u64 {
    let at = function(device);
    let mut tries = 0;
    let mut refuse = |offset: u8, width: u8, change: u32| {
        let before = read(at, offset, width);
        write(at, offset, width, before ^ change);
        test.compare(
            "a register after a forbidden write",
            read(at, offset, width),
            before,
        );
        tries += 1;
    };
    // Bochs' card cannot switch INTx off, and so not on.
    let is_there = |offset: u8, change: u32| {
        (offset, change) != (0x04, INTX_OFF) || read(at, 0x04, 2) & INTX_OFF != 0
    };
    for &(offset, width, change) in HEADER {
        if is_there(offset, change) {
            refuse(offset, width, change);
        }
    }
    for (start, id) in device.capabilities() {
        for &(offset, width, change) in of_capability(id) {
            refuse(start + offset, width, change);
        }
    }
    // The partition has no local APIC: no message may be switched on.
    for (start, id) in device.capabilities() {
        match id {
            0x05 => refuse(start + 2, 2, 1),
            0x11 => refuse(start + 2, 2, 1 << 15),
            _ => {}
        }
    }
    tries
}

/// To the host bridge, and to a place where nothing is.
pub(crate) fn others(test: &mut Test<'_>) -> u64 {
    let mut tries = 0;
    for at in [0, 0xff, 0xff00] {
        for (offset, value) in [(0x04, 0), (0x10, u32::MAX), (0x60, u32::MAX), (0xfc, 0)] {
            write(at, offset, 4, value);
            test.compare("a foreign function", read(at, offset, 4), u32::MAX);
            tries += 1;
        }
    }
    tries
}
