//! What a partition may write to the configuration space of its own
//! functions: an allow-list, register by register.

use super::{BARS, FunctionInfo, lanes, register};

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Pass,
    /// It is done if the messages that follow from it go where they may.
    Messages,
    /// It is not done: from now on this register of BAR space reads as its
    /// size (`true`) or as its address.
    Size(usize, bool),
    /// It is not done, and recorded.
    Refuse,
}

/// Bits of a register that can be written.
#[derive(Clone, Copy, Default)]
struct Writable {
    /// Those that may change.
    free: u32,
    /// Those of which any value may be written, for it does not stay.
    status: u32,
    /// They have to do with messages.
    messages: bool,
}

/// Command: I/O space, memory space, bus master. INTx is not switched on, for
/// its wire may be Linux's as well; error reporting is the whole machine's.
const COMMAND: u32 = register::IO_SPACE | register::MEMORY_SPACE | register::BUS_MASTER;
/// Status: errors, which a 1 clears, and what no write changes.
const STATUS: u32 = 0xffff_0000;
/// Cache line size, latency timer.
const CACHE_LINE: u32 = 0xffff;
/// Interrupt line: software's notebook.
const INTERRUPT_LINE: u32 = 0xff;
/// PCI Express device control: relaxed ordering, no snoop, read request size.
/// Error reporting is the machine's, payload size the link's, reset the
/// hypervisor's (PCI Express Base Specification 5.0 §7.5.3.4).
const DEVICE_CONTROL: u32 = 1 << 4 | 1 << 11 | 7 << 12;
/// PCI Express device status: the same.
const DEVICE_STATUS: u32 = 0xffff_0000;
/// MSI message control: enable, messages in use; 64-bit, maskable.
const MSI_CONTROL: u32 = 1 << 16 | 7 << 20;
const MSI_WIDE: u32 = 1 << 23;
const MSI_MASKABLE: u32 = 1 << 24;
/// MSI-X message control: function mask, enable.
const MSIX_CONTROL: u32 = 3 << 30;

/// Decides about a write of the low `width` bytes of `value` at `offset`.
/// `read` gives the aligned register at an offset as it is now.
///
/// A bit that may not change can be written as it is.
#[must_use]
pub fn decide(
    info: &FunctionInfo,
    offset: u16,
    width: u8,
    value: u32,
    read: impl Fn(u16) -> u32,
) -> Verdict {
    let Some(lanes) = lanes(offset, width) else {
        return Verdict::Refuse;
    };
    let aligned = offset & !3;
    let value = value << (offset % 4 * 8);
    if let Some(index) = bar_index(aligned) {
        return match (width, value) {
            (4, u32::MAX) => Verdict::Size(index, true),
            (4, value) if value == read(aligned) => Verdict::Size(index, false),
            _ => Verdict::Refuse,
        };
    }
    let writable = writable(info, aligned, &read);
    let fixed = lanes & !writable.free & !writable.status;
    // INTx may be switched off by whoever thinks that it is on.
    let off = match aligned {
        register::COMMAND => value & register::INTX_DISABLE,
        _ => 0,
    };
    let changes = (value ^ read(aligned)) & fixed & !off;
    match (changes, writable.messages) {
        (0, true) => Verdict::Messages,
        (0, false) => Verdict::Pass,
        _ => Verdict::Refuse,
    }
}

/// Which BAR the register at `aligned` is, or half of one.
#[must_use]
pub(super) fn bar_index(aligned: u16) -> Option<usize> {
    let index = usize::from(aligned.checked_sub(register::BAR)? / 4);
    (index < BARS).then_some(index)
}

fn writable(info: &FunctionInfo, aligned: u16, read: &impl Fn(u16) -> u32) -> Writable {
    let capabilities = &info.capabilities;
    let at = |capability: u8| {
        let start = u16::from(capability);
        aligned.checked_sub(start).filter(|_| start != 0)
    };
    match aligned {
        register::COMMAND => {
            return Writable {
                free: COMMAND,
                status: STATUS,
                messages: false,
            };
        }
        register::HEADER_TYPE => return free(CACHE_LINE),
        register::INTERRUPT => return free(INTERRUPT_LINE),
        0..0x40 => return Writable::default(),
        _ => {}
    }
    if let Some(0) = at(capabilities.msix) {
        return messages(MSIX_CONTROL);
    }
    if let Some(8) = at(capabilities.express) {
        return Writable {
            free: DEVICE_CONTROL,
            status: DEVICE_STATUS,
            messages: false,
        };
    }
    match at(capabilities.msi) {
        Some(0) => messages(MSI_CONTROL),
        Some(within) => {
            let control = read(u16::from(capabilities.msi));
            let data = if control & MSI_WIDE != 0 { 12 } else { 8 };
            let mask = (control & MSI_MASKABLE != 0).then_some(data + 4);
            if within < data {
                messages(u32::MAX)
            } else if within == data {
                messages(0xffff)
            } else if Some(within) == mask {
                free(u32::MAX)
            } else {
                Writable::default()
            }
        }
        None => Writable::default(),
    }
}

const fn free(free: u32) -> Writable {
    Writable {
        free,
        status: 0,
        messages: false,
    }
}

const fn messages(free: u32) -> Writable {
    Writable {
        free,
        status: 0,
        messages: true,
    }
}
