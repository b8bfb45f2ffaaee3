//! Where a virtio device's registers are, and the common ones (§4.1.4).

use cloister_runtime::device::{Device, Registers};

use crate::OpenError;

/// A vendor-specific capability (PCI Local Bus Specification 3.0, appendix H).
const VENDOR_SPECIFIC: u8 = 0x09;
/// Kinds of structure (§4.1.4).
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const DEVICE: u8 = 4;
/// Bytes of the structures that are used.
const COMMON_BYTES: usize = 56;
const DEVICE_BYTES: usize = 8;

/// Registers of the common structure (§4.1.4.3).
mod register {
    pub(super) const DEVICE_FEATURE_SELECT: usize = 0;
    pub(super) const DEVICE_FEATURE: usize = 4;
    pub(super) const DRIVER_FEATURE_SELECT: usize = 8;
    pub(super) const DRIVER_FEATURE: usize = 12;
    pub(super) const CONFIG_MSIX_VECTOR: usize = 16;
    pub(super) const DEVICE_STATUS: usize = 20;
    pub(super) const QUEUE_SELECT: usize = 22;
    pub(super) const QUEUE_SIZE: usize = 24;
    pub(super) const QUEUE_MSIX_VECTOR: usize = 26;
    pub(super) const QUEUE_ENABLE: usize = 28;
    pub(super) const QUEUE_NOTIFY_OFF: usize = 30;
    pub(super) const QUEUE_ADDRESSES: [usize; 3] = [32, 40, 48];
}
/// No interrupt.
const NO_VECTOR: u16 = 0xffff;

/// The device's registers.
#[derive(Debug)]
pub(super) struct Transport {
    pub(super) common: Common,
    /// `struct virtio_net_config`; it begins with the MAC address.
    pub(super) device: Registers,
    notify: Registers,
    /// Bytes between two queues' notification registers, for each unit of
    /// their offset.
    multiplier: u32,
}

impl Transport {
    /// Finds and maps the structures that the capabilities name. Of several of
    /// one kind the first counts (§4.1.4.1).
    pub(super) fn find(device: Device) -> Result<Self, OpenError> {
        let (mut common, mut notify, mut specific) = (None, None, None);
        let mut multiplier = 0;
        for (at, _) in device
            .capabilities()
            .filter(|(_, id)| *id == VENDOR_SPECIFIC)
        {
            let [_, _, _, kind] = device.config(at).to_le_bytes();
            let [bar, ..] = device.config(at.wrapping_add(4)).to_le_bytes();
            let offset = device.config(at.wrapping_add(8));
            let length = device.config(at.wrapping_add(12));
            let place = match kind {
                COMMON => &mut common,
                NOTIFY => &mut notify,
                DEVICE => &mut specific,
                _ => continue,
            };
            if place.is_none() {
                *place = Some(region(&device, bar, offset, length)?);
                if kind == NOTIFY {
                    multiplier = device.config(at.wrapping_add(16));
                }
            }
        }
        let part = |region: Option<Registers>, bytes| {
            let region = region.and_then(|region: Registers| region.part(0, bytes));
            region.ok_or(OpenError::Registers)
        };
        Ok(Self {
            common: Common(part(common, COMMON_BYTES)?),
            device: part(specific, DEVICE_BYTES)?,
            notify: notify.ok_or(OpenError::Registers)?,
            multiplier,
        })
    }

    /// The notification register of a queue with this offset (§4.1.4.4).
    pub(super) fn doorbell(&self, offset: u16) -> Option<Registers> {
        let at = self.multiplier.checked_mul(offset.into())?;
        self.notify.part(usize::try_from(at).ok()?, 2)
    }
}

fn region(device: &Device, bar: u8, offset: u32, length: u32) -> Result<Registers, OpenError> {
    // SAFETY: this driver gives the device no address but those of the queues
    // and of the pool's buffers, all of them DMA memory.
    let bar = unsafe { device.map(bar.into()) }.map_err(OpenError::Bar)?;
    let range = usize::try_from(offset)
        .ok()
        .zip(usize::try_from(length).ok());
    let part = range.and_then(|(offset, length)| bar.part(offset, length));
    part.ok_or(OpenError::Registers)
}

/// The common structure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Common(Registers);

impl Common {
    pub(super) fn status(self) -> u8 {
        self.0.read(register::DEVICE_STATUS)
    }

    pub(super) fn set_status(self, status: u8) {
        self.0.write(register::DEVICE_STATUS, status);
    }

    /// The features that the device offers.
    pub(super) fn features(self) -> u64 {
        let half = |number: u32| -> u64 {
            self.0.write(register::DEVICE_FEATURE_SELECT, number);
            self.0.read::<u32>(register::DEVICE_FEATURE).into()
        };
        half(0) | half(1) << 32
    }

    /// Tells the device which features are used.
    pub(super) fn accept(self, features: u64) {
        for (number, half) in halves(features) {
            self.0.write(register::DRIVER_FEATURE_SELECT, number);
            self.0.write(register::DRIVER_FEATURE, half);
        }
        self.0.write(register::CONFIG_MSIX_VECTOR, NO_VECTOR);
    }

    /// Makes queue `index` the one that is meant; returns its size, 0 where
    /// there is none.
    pub(super) fn select_queue(self, index: u16) -> u16 {
        self.0.write(register::QUEUE_SELECT, index);
        self.0.read(register::QUEUE_SIZE)
    }

    /// Tells where the selected queue is and switches it on; returns the
    /// offset of its notification register.
    pub(super) fn enable_queue(self, size: u16, addresses: [u64; 3]) -> u16 {
        self.0.write(register::QUEUE_SIZE, size);
        self.0.write(register::QUEUE_MSIX_VECTOR, NO_VECTOR);
        for (at, address) in register::QUEUE_ADDRESSES.into_iter().zip(addresses) {
            for (number, half) in halves(address) {
                self.0.write(at + 4 * number as usize, half);
            }
        }
        let bell = self.0.read(register::QUEUE_NOTIFY_OFF);
        self.0.write(register::QUEUE_ENABLE, 1_u16);
        bell
    }
}

/// The low and the high half, numbered.
#[expect(clippy::cast_possible_truncation, reason = "takes halves")]
fn halves(value: u64) -> [(u32, u32); 2] {
    [(0, value as u32), (1, (value >> 32) as u32)]
}
