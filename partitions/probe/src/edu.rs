//! QEMU's device `edu` (docs/specs/edu.txt), the partition's first PCI
//! function, as a source of MSIs: its capability is at 40h.
#![allow(
    unsafe_code,
    reason = "whoever has a device's registers can have it do DMA"
)]

use cloister_runtime::Partition;

const CAPABILITY: u8 = 0x40;
/// Message control: enable, in the upper half of the capability's first word.
const ENABLE: u32 = 1 << 16;
const MESSAGES: u32 = 0xfee0_0000;
/// Registers that raise the interrupt, and that take it back.
const RAISE: usize = 0x60;
const ACKNOWLEDGE: usize = 0x64;

/// Has it send `vector` to the core with APIC ID `id`; `None`: nothing.
pub(crate) fn aim(partition: &Partition, message: Option<(u32, u8)>) -> bool {
    let Some(device) = partition.devices().next() else {
        return false;
    };
    let header = device.config(CAPABILITY) & !ENABLE;
    // SAFETY: it was reset and has no address to write to but the message's,
    // which is no memory.
    unsafe {
        device.enable();
        match message {
            Some((id, vector)) => {
                device.set_config(CAPABILITY + 4, MESSAGES | id << 12);
                device.set_config(CAPABILITY + 8, 0);
                device.set_config(CAPABILITY + 12, vector.into());
                device.set_config(CAPABILITY, header | ENABLE);
            }
            None => device.set_config(CAPABILITY, header),
        }
    }
    true
}

/// Raises its interrupt once.
pub(crate) fn raise(partition: &Partition) -> bool {
    let Some(device) = partition.devices().next() else {
        return false;
    };
    // SAFETY: only its interrupt registers are written.
    let Ok(registers) = (unsafe { device.map(0) }) else {
        return false;
    };
    registers.write::<u32>(RAISE, 1);
    registers.write::<u32>(ACKNOWLEDGE, 1);
    true
}
