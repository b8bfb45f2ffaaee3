//! virtio-net over PCI (Virtual I/O Device 1.2, §4.1 and §5.1): modern devices
//! and the modern side of transitional ones.

mod pci;

use cloister_runtime::device::{Device, Registers, wait};

use crate::pool::{Batch, Frame, Pool, ROOM};
use crate::queue::Queue;
use crate::{Mac, Nic, OpenError};
use pci::{Common, Transport};

/// Feature bits (§5.1.3, §6): the address is in the configuration; a modern
/// device; it uses the addresses that the platform gives it (an IOMMU).
const F_MAC: u64 = 1 << 5;
const F_VERSION_1: u64 = 1 << 32;
const F_ACCESS_PLATFORM: u64 = 1 << 33;

/// Device status (§2.1).
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;

/// Bytes of `struct virtio_net_hdr` in a modern device (§5.1.6).
const HEADER: u32 = 12;
/// Bytes of a buffer: header and frame.
#[expect(clippy::cast_possible_truncation, reason = "2060")]
const BUFFER: u32 = HEADER + ROOM as u32;
/// Most entries of a queue that we use.
const QUEUE: u16 = 256;
/// How long a reset may take, TSC cycles.
const PATIENCE: u64 = 2_000_000_000;

/// A virtio network card.
#[derive(Debug)]
pub struct Virtio {
    device: Device,
    mac: Mac,
    receive: Queue,
    transmit: Queue,
    /// Notification registers of the two queues.
    doorbells: [Registers; 2],
    bad_frames: u64,
}

impl Virtio {
    /// Whether it is one.
    pub(crate) fn is(device: &Device) -> bool {
        // §4.1.2: modern ID, or transitional network card.
        device.info().vendor == 0x1af4 && matches!(device.info().device, 0x1041 | 0x1000)
    }

    /// Resets the card and starts it with buffers of `pool`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) fn open(device: Device, pool: &mut Pool) -> Result<Self, OpenError> {
        device.enable_registers();
        let transport = Transport::find(device)?;
        let common = transport.common;
        common.set_status(0);
        if !wait(PATIENCE, || common.status() == 0) {
            return Err(OpenError::Reset);
        }
        // SAFETY: it has been reset and has no queue yet.
        unsafe { device.enable() };
        common.set_status(ACKNOWLEDGE | DRIVER);
        let offered = common.features();
        if offered & F_VERSION_1 == 0 {
            return Err(OpenError::Legacy);
        }
        common.accept(offered & (F_MAC | F_VERSION_1 | F_ACCESS_PLATFORM));
        common.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
        if common.status() & FEATURES_OK == 0 {
            return Err(OpenError::Features);
        }
        let (receive, receive_bell) = make_queue(&transport, &device, 0)?;
        let (transmit, transmit_bell) = make_queue(&transport, &device, 1)?;
        let mut nic = Self {
            device,
            mac: Mac(core::array::from_fn(|at| transport.device.read(at))),
            receive,
            transmit,
            doorbells: [receive_bell, transmit_bell],
            bad_frames: 0,
        };
        common.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        nic.refill(pool);
        Ok(nic)
    }

    /// Gives the device as many buffers as it has room for.
    #[inline]
    fn refill(&mut self, pool: &mut Pool) {
        while self.receive.free() != 0 {
            let Some(buffer) = pool.take() else { break };
            let address = self.address(pool, buffer);
            self.receive.push(buffer, address, BUFFER);
        }
        if self.receive.publish() {
            self.doorbells[0].write(0, 0_u16);
        }
    }

    /// Where the device finds the header before a buffer's frame.
    #[inline]
    fn address(&self, pool: &Pool, buffer: u16) -> u64 {
        self.device.dma_address(pool.address(buffer)) - u64::from(HEADER)
    }
}

/// Makes queue `index` and tells the device where it is (§4.1.5.1.3).
fn make_queue(
    transport: &Transport,
    device: &Device,
    index: u16,
) -> Result<(Queue, Registers), OpenError> {
    let common: &Common = &transport.common;
    let size = common.select_queue(index).min(QUEUE);
    // A power of two, as it has to be (§2.7); the device's own may be greater.
    let size = size.checked_ilog2().map(|log| 1 << log);
    let size = size.ok_or(OpenError::Queues)?;
    let queue = Queue::new(size, index == 0).ok_or(OpenError::Memory)?;
    let addresses = queue.addresses().map(|at| device.dma_address(at));
    let bell = common.enable_queue(size, addresses);
    let bell = transport.doorbell(bell).ok_or(OpenError::Registers)?;
    Ok((queue, bell))
}

impl Nic for Virtio {
    fn mac(&self) -> Mac {
        self.mac
    }

    #[inline]
    fn receive(&mut self, pool: &mut Pool, batch: &mut Batch) {
        let before = batch.len();
        while !batch.is_full() {
            let Some((buffer, length)) = self.receive.pop() else {
                break;
            };
            let frame = length
                .checked_sub(HEADER)
                .filter(|length| *length >= crate::MIN_FRAME)
                .and_then(|length| Frame::received(buffer, length));
            match frame {
                // There is room.
                Some(frame) => drop(batch.push_back(frame)),
                None => {
                    self.bad_frames += 1;
                    pool.put(buffer);
                }
            }
        }
        if batch.len() != before || self.receive.free() != 0 {
            self.refill(pool);
        }
    }

    #[inline]
    fn transmit(&mut self, pool: &mut Pool, batch: &mut Batch) {
        while self.transmit.free() != 0 {
            let Some(frame) = batch.pop_front() else {
                break;
            };
            pool.clear_header(frame.buffer);
            let address = self.address(pool, frame.buffer);
            let length = HEADER + u32::from(u16::try_from(frame.len()).unwrap_or(0));
            self.transmit.push(frame.buffer, address, length);
        }
        if self.transmit.publish() {
            self.doorbells[1].write(0, 1_u16);
        }
    }

    #[inline]
    fn reclaim(&mut self, pool: &mut Pool) {
        while let Some((buffer, _)) = self.transmit.pop() {
            pool.put(buffer);
        }
    }

    fn bad(&self) -> u64 {
        self.bad_frames + self.receive.bad() + self.transmit.bad()
    }
}
