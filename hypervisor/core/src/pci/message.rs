//! Message-signalled interrupts (PCI Local Bus Specification 3.0 §6.8).

use super::{Bar, ConfigSpace, FunctionInfo, register};

/// What a function writes, and where, to interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Physical address.
    pub address: u64,
    /// What is written there.
    pub data: u32,
}

const MSI_ENABLE: u32 = 1 << 16;
const MSI_WIDE: u32 = 1 << 23;

/// Gives every message of the MSI capability at `capability` to `sink`: none
/// while it is off, else up to 32, of which the low bits of the data are the
/// message's number (§6.8.1). `read` gives the aligned register at an offset.
pub fn msi(read: impl Fn(u16) -> u32, capability: u8, mut sink: impl FnMut(Message)) {
    let at = |offset: u16| read(u16::from(capability) + offset);
    let control = at(0);
    if capability == 0 || control & MSI_ENABLE == 0 {
        return;
    }
    let (high, data) = match control & MSI_WIDE {
        0 => (0, at(8)),
        _ => (at(8), at(12)),
    };
    let address = u64::from(high) << 32 | u64::from(at(4) & !3);
    let count = 1_u32 << (control >> 20 & 7).min(5);
    for number in 0..count {
        let data = (data & 0xffff & !(count - 1)) | number;
        sink(Message { address, data });
    }
}

/// Whether MSI-X messages are sent, when the register of its capability reads
/// `register`: it is on, and not masked as a whole (§6.8.2.3).
#[must_use]
pub const fn msix_is_on(register: u32) -> bool {
    register >> 30 == 0b10
}

/// The message of an entry of an MSI-X table; `None` while it is masked
/// (§6.8.2.9).
#[must_use]
pub const fn msix_message(entry: [u32; 4]) -> Option<Message> {
    let [low, high, data, control] = entry;
    if control & 1 != 0 {
        return None;
    }
    Some(Message {
        address: (high as u64) << 32 | (low & !3) as u64,
        data,
    })
}

/// Where the MSI-X table of `info` is now: its BAR may have been moved since
/// it was found. `None`: it has none, or the BAR has no address.
#[must_use]
pub fn msix_table_address(config: &impl ConfigSpace, info: &FunctionInfo) -> Option<u64> {
    let table = info.msix_table?;
    let Bar::Memory { size, wide, .. } = info.bars.get(usize::from(table.bar))? else {
        return None;
    };
    let end = u64::from(table.offset).checked_add(table.bytes())?;
    if end > *size {
        return None;
    }
    let offset = register::BAR + u16::from(table.bar) * 4;
    let low = config.read(info.address, offset);
    let high = match wide {
        true => config.read(info.address, offset + 4),
        false => 0,
    };
    let base = u64::from(high) << 32 | u64::from(low & !0xf);
    (base != 0)
        .then(|| base.checked_add(u64::from(table.offset)))
        .flatten()
}
