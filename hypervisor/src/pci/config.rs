//! What a guest finds in configuration space, whichever way it reaches for it.

use core::sync::atomic::Ordering;

use cloister_abi::Reason;
use cloister_core::pci::{self, Address, Bar, ConfigSpace, Verdict, register};

use super::{Assigned, interrupts, linux, memory};
use crate::arch::pci as hardware;
use crate::control;
use crate::iommu::Iommu;
use crate::partition::Partition;
use crate::report;
use crate::run::Core;
use crate::virt::Vendor;

/// An access to configuration space.
#[derive(Clone, Copy)]
pub(crate) struct Access {
    pub(crate) at: Address,
    /// 0 to 0xfff; the access stays inside an aligned register.
    pub(crate) offset: u16,
    /// 1, 2 or 4 bytes.
    pub(crate) width: u8,
    /// What is written; `None`: it is a read.
    pub(crate) value: Option<u32>,
    /// What an access that is refused counts as.
    pub(crate) reason: Reason,
}

/// Serves `access` by the guest on this core; returns what a read finds.
pub(super) fn serve<V: Vendor>(core: &mut Core<V>, access: Access) -> u32 {
    match core.partition {
        Some(partition) => of_partition(core, partition, access),
        None => of_linux(core, access),
    }
}

fn refuse<V: Vendor>(core: &Core<V>, access: &Access, why: &str) {
    let Access {
        at, offset, value, ..
    } = access;
    let value = value.unwrap_or(0);
    report::refused(
        core,
        access.reason,
        format_args!("pci {at} offset {offset:#x} value {value:#x}: {why}"),
    );
}

/// A partition finds its own functions there, and nothing else.
fn of_partition<V: Vendor>(core: &Core<V>, partition: &Partition<V>, access: Access) -> u32 {
    let mut devices = partition.devices.iter();
    let Some(device) = devices.find(|device| device.info.address == access.at) else {
        if access.value.is_some() {
            refuse(core, &access, "no function of this partition");
        }
        return u32::MAX;
    };
    let mut config = hardware::lock();
    let Some(value) = access.value else {
        let register = access.offset & !3;
        let read = device.read(&config, register);
        return pci::part(read, access.offset, access.width);
    };
    let read = |offset| config.read(access.at, offset);
    let done = match pci::decide_own(device.info, access.offset, access.width, value, read) {
        Verdict::Pass => true,
        Verdict::Messages => may_send(core, device, &config, &access, value),
        Verdict::Size(bar, on) => {
            device.size(bar, on);
            return 0;
        }
        Verdict::Refuse => false,
    };
    if done {
        config.write_part(access.at, access.offset, access.width, value);
    } else {
        drop(config);
        refuse(core, &access, "not to be written by a partition");
    }
    0
}

/// Whether the messages that a write to a message capability leads to stay with
/// the partition.
fn may_send<V: Vendor>(
    core: &Core<V>,
    device: &Assigned,
    config: &hardware::Config,
    access: &Access,
    value: u32,
) -> bool {
    let aligned = access.offset & !3;
    let Some(lanes) = pci::lanes(access.offset, access.width) else {
        return false;
    };
    let new = |offset: u16| {
        let old = config.read(access.at, offset);
        match offset == aligned {
            true => old & !lanes | (value << (access.offset % 4 * 8)) & lanes,
            false => old,
        }
    };
    let own = interrupts::own_cores(core);
    let found = &device.info.capabilities;
    let mut allowed = true;
    pci::msi(new, found.msi, |message| {
        allowed &= interrupts::may_send(core.system, own, message);
    });
    if found.msix != 0 && pci::msix_is_on(new(u16::from(found.msix))) {
        allowed &= memory::own_table(device.info).is_some_and(|(table, at)| {
            !own.is_empty() && interrupts::may_send_table(core.system, own, table, at.entries)
        });
    }
    allowed
}

/// Linux finds everything there that no partition owns.
fn of_linux<V: Vendor>(core: &mut Core<V>, access: Access) -> u32 {
    if let Some(read) = control::config(core, &access) {
        return read;
    }
    let mut iommus = core.system.iommu.iter().flat_map(Iommu::functions);
    if iommus.any(|own| own.0 == access.at.0) {
        if access.value.is_some() {
            refuse(core, &access, "the IOMMU's function");
        }
        return u32::MAX;
    }
    let info = match core.system.pci.function(access.at) {
        Some((info, None)) => info,
        Some((_, Some(_))) => {
            if access.value.is_some() {
                refuse(core, &access, "a partition's function");
            }
            return u32::MAX;
        }
        None => return u32::MAX,
    };
    let Some(value) = access.value else {
        return hardware::lock().read_part(access.at, access.offset, access.width);
    };
    if let Err(why) = linux::write(core, info, &access, value) {
        refuse(core, &access, why);
    }
    0
}

impl Assigned {
    /// The aligned register at `offset`, as the partition reads it.
    fn read(&self, config: &hardware::Config, offset: u16) -> u32 {
        let read = config.read(self.info.address, offset);
        match offset {
            // It has no expansion ROM here.
            register::ROM => 0,
            _ => match self.size_of(offset) {
                Some(size) => size | read & FLAGS,
                None => read,
            },
        }
    }

    /// What the register at `offset` reads while its size is asked for.
    fn size_of(&self, offset: u16) -> Option<u32> {
        let index = usize::from(offset.checked_sub(register::BAR)? / 4);
        if index >= pci::BARS || self.sized.load(Ordering::Relaxed) & 1 << index == 0 {
            return None;
        }
        let bars = &self.info.bars;
        let below = index.checked_sub(1).and_then(|below| bars.get(below));
        let mask = match (bars.get(index)?, below) {
            (
                _,
                Some(Bar::Memory {
                    size, wide: true, ..
                }),
            ) => (!(size - 1)) >> 32,
            (Bar::Memory { size, .. }, _) => !(size - 1),
            (Bar::Ports { size, .. }, _) => u64::from(!(size - 1)),
            (Bar::None, _) => 0,
        };
        let [a, b, c, d, ..] = mask.to_le_bytes();
        Some(u32::from_le_bytes([a, b, c, d]))
    }

    fn size(&self, bar: usize, on: bool) {
        let bit = 1 << (bar % 8);
        if on {
            self.sized.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.sized.fetch_and(!bit, Ordering::Relaxed);
        }
    }
}

/// Bits of a BAR that say what it is.
const FLAGS: u32 = 0xf;
