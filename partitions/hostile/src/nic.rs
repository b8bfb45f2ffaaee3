//! An e1000 that sends to itself (PHY loopback), and so copies memory: from
//! where a transmit descriptor points to where a receive descriptor does.
//! Sections are those of the PCI/PCI-X Family of Gigabit Ethernet Controllers
//! Software Developer's Manual (317453).

use cloister_runtime::device::{Device, Registers, wait};
use cloister_runtime::dma::Dma;

use crate::dma::{BYTES, Copier, PATIENCE};

/// Registers (§13.2): device control, MDI control, receive and transmit
/// control, the two rings.
const CONTROL: usize = 0x0000;
const MDI: usize = 0x0020;
const RECEIVE_CONTROL: usize = 0x0100;
const TRANSMIT_CONTROL: usize = 0x0400;
const RECEIVE_RING: usize = 0x2800;
const TRANSMIT_RING: usize = 0x3800;
/// Of a ring: bytes, head, tail.
const RING_LENGTH: usize = 0x08;
const RING_HEAD: usize = 0x10;
const RING_TAIL: usize = 0x18;

const RESET: u32 = 1 << 26;
const LINK_UP: u32 = 1 << 6;
/// MDI write (§13.4.8) to register 0 of PHY 1: loopback, 1000 Mb/s, full
/// duplex (IEEE 802.3, table 22-7).
const LOOPBACK: u32 = 1 << 26 | 1 << 21 | 0x4140;
/// On, all addresses, broadcast, check sequence stripped.
const RECEIVE: u32 = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 15 | 1 << 26;
const TRANSMIT: u32 = 1 << 1;
/// A frame that ends here, whose status is reported (§3.3.3).
const SEND: u64 = (1 | 2 | 8) << 24 | BYTES as u64;
/// The device has done with a descriptor.
const DONE: u64 = 1 << 32;
/// Descriptors of a ring: 128 bytes at least.
const RING: u32 = 8;
/// A frame is sent again after so many TSC cycles, so often: QEMU's receiver
/// takes a second to come up, and what comes before is lost.
const RETRY: u64 = 1 << 30;
const TRIES: usize = 64;

/// The card.
pub(crate) struct Card {
    registers: Registers,
    /// Two words for each descriptor.
    receive: Dma<u64>,
    transmit: Dma<u64>,
    /// Descriptors so far, of both.
    received: u32,
    sent: u32,
}

impl Card {
    pub(crate) fn is(device: &Device) -> bool {
        (device.info().vendor, device.info().device) == (0x8086, 0x100e)
    }

    pub(crate) fn open(device: Device) -> Result<Self, &'static str> {
        let ring = || Dma::allocate(2 * RING as usize).ok_or("no memory for DMA");
        // SAFETY: it was reset, and knows no address of this program.
        unsafe { device.enable() };
        // SAFETY: all addresses are of memory for devices, or not our own.
        let registers = unsafe { device.map(0) }.map_err(|_| "its registers cannot be mapped")?;
        registers.write(CONTROL, RESET);
        wait(PATIENCE, || registers.read::<u32>(CONTROL) & RESET == 0);
        registers.write(CONTROL, LINK_UP);
        registers.write(MDI, LOOPBACK);
        let card = Self {
            registers,
            receive: ring()?,
            transmit: ring()?,
            received: 0,
            sent: 0,
        };
        card.place(RECEIVE_RING, device.dma_address(card.receive.address()));
        card.place(TRANSMIT_RING, device.dma_address(card.transmit.address()));
        registers.write(RECEIVE_CONTROL, RECEIVE);
        registers.write(TRANSMIT_CONTROL, TRANSMIT);
        Ok(card)
    }

    fn place(&self, ring: usize, address: u64) {
        let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
        let halves = [[a, b, c, d], [e, f, g, h]].map(u32::from_le_bytes);
        self.registers.write(ring, halves[0]);
        self.registers.write(ring + 4, halves[1]);
        self.registers.write(ring + RING_LENGTH, RING * 16);
        self.registers.write(ring + RING_HEAD, 0_u32);
        self.registers.write(ring + RING_TAIL, 0_u32);
    }

    /// Sends what is at `from`.
    fn send(&mut self, from: u64) {
        let at = 2 * (self.sent % RING) as usize;
        self.transmit.set(at, from);
        self.transmit.set(at + 1, SEND);
        self.sent += 1;
        self.registers
            .write(TRANSMIT_RING + RING_TAIL, self.sent % RING);
    }
}

impl Copier for Card {
    fn copy(&mut self, from: u64, to: u64) -> Result<(), &'static str> {
        let at = 2 * (self.received % RING) as usize;
        self.receive.set(at, to);
        self.receive.set(at + 1, 0);
        self.received += 1;
        self.registers
            .write(RECEIVE_RING + RING_TAIL, self.received % RING);
        for _ in 0..TRIES {
            self.send(from);
            let receive = &self.receive;
            if wait(RETRY, || receive.get(at + 1) & DONE != 0) {
                return Ok(());
            }
        }
        Err("the card does not finish")
    }
}
