//! Turning the machine off when nothing runs any more (ACPI 6.5 §4.8.3.2,
//! §16.1.1).

use crate::arch::cpu;
use crate::boot::acpi::Firmware;

/// Enters S5. Where the firmware does not say how, the core just stops: the
/// report is out.
pub(crate) fn off(firmware: &Firmware) -> ! {
    const SLP_EN: u32 = 1 << 13;
    if let (Some(fadt), Some((a, b))) = (&firmware.fadt, firmware.sleep_types[4]) {
        let command = |kind: u8| u32::from(kind) << 10 | SLP_EN;
        // SAFETY: the registers are the firmware's for this very purpose, and
        // nothing runs any more.
        unsafe {
            if let Some(port) = fadt.pm1a_control {
                cpu::port_out(port, 2, command(a));
            }
            if let Some(port) = fadt.pm1b_control {
                cpu::port_out(port, 2, command(b));
            }
        }
    }
    cpu::halt_forever();
}
