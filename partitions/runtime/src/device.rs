//! The PCI functions of a partition: configuration space, and registers in
//! memory.

use core::arch::asm;
use core::fmt;
use core::ptr::NonNull;

use cloister_abi::device::{DeviceInfo, DeviceTable};

use crate::dma::Plain;
use crate::paging::{MapError, map_device_page};
use crate::{Partition, cpu};

/// Ports of configuration mechanism #1 (PCI Local Bus Specification 3.0
/// §3.2.2.3.2).
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
/// Registers and bits (§6.2.2, §6.2.3, §6.7).
const COMMAND: u8 = 0x04;
const COMMAND_MEMORY: u32 = 1 << 1;
const COMMAND_MASTER: u32 = 1 << 2;
const COMMAND_INTX_OFF: u32 = 1 << 10;
const STATUS_CAPABILITIES: u32 = 1 << 20;
const CAPABILITIES: u8 = 0x34;
/// More capabilities than fit into configuration space: a chain that is a
/// circle ends here.
const MAX_CAPABILITIES: usize = 48;

impl Partition {
    /// The PCI functions that the partition owns, in the order of the system
    /// file.
    pub fn devices(&self) -> impl Iterator<Item = Device> + use<> {
        let address = usize::try_from(self.info().devices_gpa).unwrap_or(0);
        let table = core::ptr::with_exposed_provenance::<DeviceTable>(address);
        // SAFETY: null, or a table that is mapped read-only and never changes
        // (cloister_abi::shared).
        let table: Option<&'static DeviceTable> = unsafe { table.as_ref() };
        table.into_iter().flat_map(|table| {
            let count = usize::try_from(table.count).unwrap_or(0);
            table.devices.iter().take(count).map(|info| Device { info })
        })
    }
}

/// A PCI function of the partition.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    info: &'static DeviceInfo,
}

impl Device {
    /// What the hypervisor says of it.
    #[must_use]
    pub const fn info(&self) -> &'static DeviceInfo {
        self.info
    }

    /// The address that the function has to use to reach guest-physical
    /// `address`.
    #[must_use]
    pub const fn dma_address(&self, address: u64) -> u64 {
        address.wrapping_add(self.info.dma_offset)
    }

    /// The 32 bits of configuration space at `register`, a multiple of four.
    /// Two exits.
    #[must_use]
    pub fn config(&self, register: u8) -> u32 {
        self.select(register);
        let value;
        // SAFETY: reading configuration space has no effect on memory.
        unsafe { asm!("in eax, dx", in("dx") CONFIG_DATA, out("eax") value, options(nostack)) };
        value
    }

    /// Writes 32 bits of configuration space. Two exits. What may be written
    /// is the hypervisor's to say.
    ///
    /// # Safety
    /// The function must not be made to write to memory that is in use.
    pub unsafe fn set_config(&self, register: u8, value: u32) {
        self.select(register);
        // SAFETY: the caller's promise.
        unsafe { asm!("out dx, eax", in("dx") CONFIG_DATA, in("eax") value, options(nostack)) };
    }

    fn select(&self, register: u8) {
        let address = 1 << 31 | (self.info.address & 0xffff) << 8 | u32::from(register & !3);
        // SAFETY: selects a register and nothing else.
        unsafe {
            asm!("out dx, eax", in("dx") CONFIG_ADDRESS, in("eax") address, options(nostack));
        }
    }

    /// Lets the function answer at its BARs and use DMA, and keeps it from
    /// raising INTx.
    ///
    /// # Safety
    /// It has been reset: it has no address left to write to.
    pub unsafe fn enable(&self) {
        // Writing zeros to the status half changes nothing.
        let command = self.config(COMMAND) & 0xffff;
        let bits = COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_OFF;
        // SAFETY: the caller's promise.
        unsafe { self.set_config(COMMAND, command | bits) };
    }

    /// Lets the function answer at its BARs, but use no DMA.
    pub fn enable_registers(&self) {
        let command = self.config(COMMAND) & 0xffff & !COMMAND_MASTER;
        // SAFETY: without bus mastering it writes nowhere.
        unsafe { self.set_config(COMMAND, command | COMMAND_MEMORY | COMMAND_INTX_OFF) };
    }

    /// Offset and ID of each capability.
    pub fn capabilities(&self) -> impl Iterator<Item = (u8, u8)> + use<> {
        let device = *self;
        let listed = device.config(COMMAND) & STATUS_CAPABILITIES != 0;
        let mut next = if listed {
            device.config(CAPABILITIES)
        } else {
            0
        };
        let chain = core::iter::from_fn(move || {
            let [at, ..] = (next & 0xfc).to_le_bytes();
            if at < 0x40 {
                return None;
            }
            let header = device.config(at);
            let [id, ..] = header.to_le_bytes();
            next = header >> 8;
            Some((at, id))
        });
        chain.take(MAX_CAPABILITIES)
    }

    /// Maps BAR `index`, uncached, at its own address.
    ///
    /// # Errors
    /// See [`BarError`].
    ///
    /// # Safety
    /// The registers can make the function write to any memory of the
    /// partition: whoever has them gives it no address but of
    /// [`crate::dma::Dma`].
    pub unsafe fn map(&self, index: usize) -> Result<Registers, BarError> {
        let bar = self.info.bars.get(index).filter(|bar| bar.size != 0);
        let bar = bar.ok_or(BarError::None)?;
        if bar.kind != 0 {
            return Err(BarError::Ports);
        }
        let end = bar
            .base
            .checked_add(bar.size)
            .ok_or(BarError::Map(MapError::TooHigh))?;
        for page in (bar.base & !0xfff..end).step_by(0x1000) {
            map_device_page(page).map_err(BarError::Map)?;
        }
        let range = usize::try_from(bar.base)
            .ok()
            .zip(usize::try_from(bar.size).ok());
        let (base, length) = range.ok_or(BarError::Map(MapError::TooHigh))?;
        let start = NonNull::new(core::ptr::with_exposed_provenance_mut(base));
        Ok(Registers {
            start: start.ok_or(BarError::None)?,
            length,
        })
    }
}

/// Why a BAR was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarError {
    /// The function has no such BAR.
    None,
    /// It is one of ports.
    Ports,
    /// No page table for it.
    Map(MapError),
}

impl fmt::Display for BarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("there is no such BAR"),
            Self::Ports => f.write_str("the BAR is one of ports"),
            Self::Map(error) => error.fmt(f),
        }
    }
}

/// A function's registers in memory, or a part of them.
#[derive(Clone, Copy, Debug)]
pub struct Registers {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a device's registers may be used from any core.
unsafe impl Send for Registers {}

impl Registers {
    /// Reads the register at byte `at`.
    ///
    /// # Panics
    /// It does not lie within, or `at` is no multiple of its size.
    #[inline(always)]
    #[must_use]
    pub fn read<T: Plain>(&self, at: usize) -> T {
        // SAFETY: within the BAR, which is mapped, and aligned.
        unsafe { self.place::<T>(at).read_volatile() }
    }

    /// Writes the register at byte `at`.
    ///
    /// # Panics
    /// As [`Registers::read`].
    #[inline(always)]
    pub fn write<T: Plain>(&self, at: usize, value: T) {
        // SAFETY: as above; what the device then does, [`Device::map`] says.
        unsafe { self.place::<T>(at).write_volatile(value) }
    }

    #[inline(always)]
    fn place<T: Plain>(&self, at: usize) -> NonNull<T> {
        assert!(
            at < self.length
                && self.length - at >= size_of::<T>()
                && at.is_multiple_of(size_of::<T>()),
            "outside of a device's registers"
        );
        // SAFETY: checked above.
        unsafe { self.start.add(at).cast() }
    }

    /// The registers from byte `at` on, `length` bytes; `None` where they do
    /// not lie within.
    #[must_use]
    pub fn part(&self, at: usize, length: usize) -> Option<Self> {
        if at > self.length || self.length - at < length {
            return None;
        }
        Some(Self {
            // SAFETY: checked above.
            start: unsafe { self.start.add(at) },
            length,
        })
    }
}

/// Waits until `condition` holds, for at most `cycles` of the time-stamp
/// counter; says whether it does.
pub fn wait(cycles: u64, mut condition: impl FnMut() -> bool) -> bool {
    let first = cpu::rdtsc();
    loop {
        if condition() {
            return true;
        }
        if cpu::rdtsc().wrapping_sub(first) > cycles {
            return condition();
        }
        core::hint::spin_loop();
    }
}
