//! What Linux may write to the configuration space of its own functions:
//! everything but what would reach for what is not Linux's. Neither BARs,
//! expansion ROMs or bridge windows may decode it, nor messages go to a core
//! that is not Linux's; and buses keep their numbers.

use super::own::bar_index;
use super::{Address, Bar, FunctionInfo, Kind, Message, lanes, msi, register};

/// What a function would decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Memory, first and last byte.
    Memory(u64, u64),
    /// Ports, first and last.
    Ports(u64, u64),
}

/// What is asked before a write is done.
pub trait Judge {
    /// Whether anything in the range is not Linux's.
    fn is_foreign(&self, claim: Claim) -> bool;
    /// Whether the message goes to Linux's own cores, by its vector.
    fn may_send(&self, message: Message) -> bool;
    /// Whether every message of the function's MSI-X table that is not masked
    /// may be sent.
    fn may_send_table(&self, info: &FunctionInfo) -> bool;
    /// Whether a partition owns a function on bus `first` to `last`.
    fn is_way_to_partition(&self, first: u8, last: u8) -> bool;
}

/// Windows of a bridge (PCI-to-PCI Bridge Architecture Specification 1.2
/// §3.2.5).
const IO_WINDOW: u16 = 0x1c;
const MEMORY_WINDOW: u16 = 0x20;
const PREFETCHABLE_WINDOW: u16 = 0x24;
const PREFETCHABLE_BASE: u16 = 0x28;
const PREFETCHABLE_LIMIT: u16 = 0x2c;
const IO_UPPER: u16 = 0x30;
/// Primary, secondary and subordinate bus; the upper byte is a timer.
const BUS_NUMBERS: u32 = 0x00ff_ffff;
/// What the header is for in a function of this kind, and what the
/// specification leaves to the device.
const DEVICE_SPECIFIC: u16 = 0x40;

/// Decides about a write of the low `width` bytes of `value` at `offset`.
/// `read` gives the aligned register at an offset as it is now. Says whether it
/// is to be done: a host bridge's BARs are not even asked for their sizes.
///
/// # Errors
/// Why it must not be done.
pub fn decide(
    info: &FunctionInfo,
    (offset, width, value): (u16, u8, u32),
    read: impl Fn(u16) -> u32,
    judge: &impl Judge,
) -> Result<bool, &'static str> {
    let lanes = lanes(offset, width).ok_or("across the end of a register")?;
    let aligned = offset & !3;
    let before = read(aligned);
    let after = before & !lanes | (value << (offset % 4 * 8)) & lanes;
    let changed = before ^ after;
    if changed == 0 && aligned != register::COMMAND {
        return Ok(true);
    }
    let new = |at: u16| if at == aligned { after } else { read(at) };
    match info.kind {
        Kind::HostBridge if bar_index(aligned).is_some() && value == u32::MAX => {
            return Ok(false);
        }
        Kind::HostBridge if bar_index(aligned).is_some() || aligned >= DEVICE_SPECIFIC => {
            return Err("a host bridge's registers say where memory is");
        }
        Kind::Other if (register::BAR..DEVICE_SPECIFIC).contains(&aligned) => {
            return Err("a header of an unknown type");
        }
        Kind::Bridge {
            secondary,
            subordinate,
            ..
        } => {
            if judge.is_way_to_partition(secondary, subordinate) {
                return Err("a bridge on the way to a partition's function");
            }
            if aligned == register::BUS_NUMBERS && changed & BUS_NUMBERS != 0 {
                return Err("bus numbers stay as the firmware gave them");
            }
        }
        _ => {}
    }
    if info.is_fixed(aligned) {
        return Err("the sizes and the number of functions stay as they are");
    }
    if decodes(info, aligned) {
        let mut foreign = false;
        claims(info, new, |claim| foreign |= judge.is_foreign(claim));
        if foreign {
            return Err("it would decode what is not Linux's");
        }
    }
    messages(info, aligned, new, judge)?;
    Ok(true)
}

/// Whether the register has a say in what the function decodes.
fn decodes(info: &FunctionInfo, aligned: u16) -> bool {
    let header = (register::BAR..DEVICE_SPECIFIC).contains(&aligned);
    let endpoint = bar_index(aligned).is_some() || aligned == register::ROM;
    match info.kind {
        Kind::Bridge { .. } => header || aligned == register::COMMAND,
        _ => endpoint || aligned == register::COMMAND,
    }
}

/// Gives everything that the function would decode to `sink`.
fn claims(info: &FunctionInfo, new: impl Fn(u16) -> u32, mut sink: impl FnMut(Claim)) {
    let command = new(register::COMMAND);
    let memory = command & register::MEMORY_SPACE != 0;
    let ports = command & register::IO_SPACE != 0;
    for (offset, bar) in (register::BAR..).step_by(4).zip(info.bars) {
        match bar {
            Bar::Memory { size, wide, .. } if memory => {
                let high = if wide { new(offset + 4) } else { 0 };
                let base = u64::from(high) << 32 | u64::from(new(offset) & !0xf);
                let base = base & !(size - 1);
                sink(Claim::Memory(base, base.saturating_add(size - 1)));
            }
            Bar::Ports { size, .. } if ports => {
                let base = u64::from(new(offset) & 0xfffc & !(size - 1));
                sink(Claim::Ports(base, base + u64::from(size) - 1));
            }
            _ => {}
        }
    }
    let rom = match info.kind {
        Kind::Bridge { .. } => register::BRIDGE_ROM,
        _ => register::ROM,
    };
    if memory && info.rom_size != 0 && new(rom) & 1 != 0 {
        let base = u64::from(new(rom) & !(info.rom_size - 1));
        sink(Claim::Memory(base, base + u64::from(info.rom_size) - 1));
    }
    if let Kind::Bridge { .. } = info.kind {
        windows(&new, memory, ports, sink);
    }
}

fn windows(new: &impl Fn(u16) -> u32, memory: bool, ports: bool, mut sink: impl FnMut(Claim)) {
    // Base in bits 15:4 and limit in bits 31:20, of addresses' bits 31:20.
    let megabytes = |register: u32, base: u32, limit: u32| {
        let first = u64::from(base) << 32 | u64::from(register & 0xfff0) << 16;
        let last = u64::from(limit) << 32 | u64::from(register & 0xfff0_0000) | 0xf_ffff;
        (first, last)
    };
    let (first, last) = megabytes(new(MEMORY_WINDOW), 0, 0);
    if memory && first <= last {
        sink(Claim::Memory(first, last));
    }
    let register = new(PREFETCHABLE_WINDOW);
    let wide = register & 1 != 0;
    let upper = |offset| if wide { new(offset) } else { 0 };
    let (base, limit) = (upper(PREFETCHABLE_BASE), upper(PREFETCHABLE_LIMIT));
    let (first, last) = megabytes(register, base, limit);
    if memory && first <= last {
        sink(Claim::Memory(first, last));
    }
    // Base in bits 7:4 and limit in bits 15:12, of ports' bits 15:12.
    let register = new(IO_WINDOW);
    let upper = if register & 1 != 0 { new(IO_UPPER) } else { 0 };
    let first = u64::from(upper & 0xffff) << 16 | u64::from(register & 0xf0) << 8;
    let last = u64::from(upper >> 16) << 16 | u64::from(register & 0xf000) | 0xfff;
    if ports && first <= last {
        sink(Claim::Ports(first, last));
    }
}

/// Whether messages that follow from the write may be sent.
fn messages(
    info: &FunctionInfo,
    aligned: u16,
    new: impl Fn(u16) -> u32,
    judge: &impl Judge,
) -> Result<(), &'static str> {
    const MSI_BYTES: u16 = 24;
    const REFUSED: &str = "a message to a core that is not Linux's, or no interrupt";
    let start = u16::from(info.capabilities.msi);
    if start != 0 && (start..start + MSI_BYTES).contains(&aligned) {
        let mut allowed = true;
        msi(&new, info.capabilities.msi, |message| {
            allowed &= judge.may_send(message);
        });
        if !allowed {
            return Err(REFUSED);
        }
    }
    let msix = u16::from(info.capabilities.msix);
    let turned_on = msix != 0 && aligned == msix && super::msix_is_on(new(msix));
    if turned_on && !judge.may_send_table(info) {
        return Err(REFUSED);
    }
    Ok(())
}

impl FunctionInfo {
    /// Whether the register at `aligned` is one that changes sizes of BARs or
    /// makes further functions: resizable BARs, virtual functions.
    fn is_fixed(&self, aligned: u16) -> bool {
        const RESIZABLE_BYTES: u16 = 0x34;
        const VIRTUAL_BYTES: u16 = 0x40;
        let within =
            |start: u16, bytes: u16| start != 0 && aligned >= start && aligned - start < bytes;
        within(self.capabilities.resizable, RESIZABLE_BYTES)
            || within(self.capabilities.virtual_functions, VIRTUAL_BYTES)
    }

    /// Whether `at` is one of the buses behind this bridge.
    #[must_use]
    pub fn leads_to(&self, at: Address) -> bool {
        match self.kind {
            Kind::Bridge {
                secondary,
                subordinate,
                ..
            } => secondary != 0 && (secondary..=subordinate).contains(&at.bus()),
            _ => false,
        }
    }
}
