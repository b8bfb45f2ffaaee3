//! Intel 82540EM (the `e1000` of QEMU and Bochs) and 82574L (QEMU's `e1000e`
//! and real cards): what the two have in common suffices. Sections are those of
//! the PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's
//! Manual (317453) unless said otherwise.

use cloister_runtime::device::{Device, Registers, wait};

use crate::pool::{Batch, Pool};
use crate::rings::{ReceiveRing, Received, TransmitRing};
use crate::{Mac, Nic, OpenError};

/// Registers (§13.2).
mod register {
    pub(super) const CONTROL: usize = 0x0000;
    pub(super) const STATUS: usize = 0x0008;
    pub(super) const EEPROM_READ: usize = 0x0014;
    pub(super) const INTERRUPT_CAUSE: usize = 0x00c0;
    pub(super) const INTERRUPT_MASK_CLEAR: usize = 0x00d8;
    pub(super) const RECEIVE_CONTROL: usize = 0x0100;
    pub(super) const TRANSMIT_CONTROL: usize = 0x0400;
    pub(super) const TRANSMIT_GAP: usize = 0x0410;
    pub(super) const RECEIVE_RING: usize = 0x2800;
    pub(super) const RECEIVE_TAIL: usize = 0x2818;
    pub(super) const TRANSMIT_RING: usize = 0x3800;
    pub(super) const TRANSMIT_TAIL: usize = 0x3818;
    pub(super) const TRANSMIT_DESCRIPTOR_CONTROL: usize = 0x3828;
    pub(super) const RECEIVE_ADDRESS: usize = 0x5400;
    /// Bytes of registers that are needed.
    pub(super) const END: usize = 0x5408;
}

/// Device control (§13.4.1): detect the speed, link up, reset; and what must
/// be 0: link reset, loss of signal inverted, PHY reset.
const DETECT_SPEED: u32 = 1 << 5;
const LINK_UP: u32 = 1 << 6;
const RESET: u32 = 1 << 26;
const CONTROL_OFF: u32 = 1 << 3 | 1 << 7 | 1 << 31;
/// EEPROM read: start, done, and where address and data are (§13.4.4).
const EEPROM_START: u32 = 1;
const EEPROM_DONE: u32 = 1 << 4;
const EEPROM_ADDRESS_SHIFT: u32 = 8;
const EEPROM_DATA_SHIFT: u32 = 16;
/// Receive address high: the address is valid (§13.5.3).
const ADDRESS_VALID: u32 = 1 << 31;
/// Device status: link up (§13.4.2).
const STATUS_LINK: u32 = 1 << 1;
/// Receive control (§13.4.22): on, all addresses, broadcast, buffers of 2048
/// bytes, no frame longer than the standard's, check sequence stripped.
const RECEIVE: u32 = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 15 | 1 << 26;
/// Transmit control (§13.4.33): on, short frames padded, collision threshold
/// and distance as recommended.
const TRANSMIT: u32 = 1 << 1 | 1 << 3 | 0x0f << 4 | 0x40 << 12;
/// Inter-packet gaps as recommended (§13.4.34).
const GAPS: u32 = 10 | 8 << 10 | 6 << 20;
/// TXDCTL bit 22 must be 1 (82574 data sheet, §10.2.6.11).
const TXDCTL_82574: u32 = 1 << 22;

const VENDOR: u16 = 0x8086;
const E1000: u16 = 0x100e;
const E1000E: u16 = 0x10d3;

/// Descriptors of a ring.
const RING: u16 = 256;
/// The device is told of new buffers when there are so many.
const REFILL: usize = 32;
/// How long reset and link may take, TSC cycles.
const PATIENCE: u64 = 10_000_000_000;

/// An Intel network card.
#[derive(Debug)]
pub struct E1000 {
    device: Device,
    registers: Registers,
    mac: Mac,
    receive: ReceiveRing,
    transmit: TransmitRing,
    /// Buffers in the receive ring of which the device does not know yet.
    untold: usize,
    bad: u64,
}

impl E1000 {
    /// Whether it is one.
    pub(crate) fn is(device: &Device) -> bool {
        device.info().vendor == VENDOR && matches!(device.info().device, E1000 | E1000E)
    }

    /// Resets the card and starts it with buffers of `pool`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) fn open(device: Device, pool: &mut Pool) -> Result<Self, OpenError> {
        device.enable_registers();
        // SAFETY: this driver gives the device no address but those of the
        // rings and of the pool's buffers, all of them DMA memory.
        let registers = unsafe { device.map(0) }.map_err(OpenError::Bar)?;
        let registers = registers
            .part(0, register::END)
            .ok_or(OpenError::Registers)?;
        reset(registers)?;
        // SAFETY: it has been reset: receiver and transmitter are off.
        unsafe { device.enable() };
        let mut nic = Self {
            device,
            registers,
            mac: mac(registers),
            receive: ReceiveRing::new(RING).ok_or(OpenError::Memory)?,
            transmit: TransmitRing::new(RING).ok_or(OpenError::Memory)?,
            untold: 0,
            bad: 0,
        };
        let rings = [
            (register::RECEIVE_RING, nic.receive.place()),
            (register::TRANSMIT_RING, nic.transmit.place()),
        ];
        for (at, (address, bytes)) in rings {
            nic.set_ring(at, device.dma_address(address), bytes);
        }
        if device.info().device == E1000E {
            let control: u32 = registers.read(register::TRANSMIT_DESCRIPTOR_CONTROL);
            registers.write(
                register::TRANSMIT_DESCRIPTOR_CONTROL,
                control | TXDCTL_82574,
            );
        }
        registers.write(register::TRANSMIT_GAP, GAPS);
        registers.write(register::TRANSMIT_CONTROL, TRANSMIT);
        registers.write(register::RECEIVE_CONTROL, RECEIVE);
        nic.refill(pool);
        nic.tell();
        Ok(nic)
    }

    /// Base, length, head and tail (§13.4.25 to §13.4.28).
    #[expect(
        clippy::cast_possible_truncation,
        reason = "takes halves; rings are small"
    )]
    fn set_ring(&self, at: usize, address: u64, bytes: usize) {
        self.registers.write(at, address as u32);
        self.registers.write(at + 4, (address >> 32) as u32);
        self.registers.write(at + 8, bytes as u32);
        self.registers.write(at + 0x10, 0_u32);
        self.registers.write(at + 0x18, 0_u32);
    }

    #[inline]
    fn refill(&mut self, pool: &mut Pool) {
        while self.receive.has_room() {
            let Some(buffer) = pool.take() else { break };
            let address = self.device.dma_address(pool.address(buffer));
            self.receive.push(buffer, address);
            self.untold += 1;
        }
    }

    /// Tells the device of all buffers.
    #[inline]
    fn tell(&mut self) {
        self.untold = 0;
        set_tail(self.registers, register::RECEIVE_TAIL, self.receive.tail());
    }
}

/// What was written before, then the tail register: x86 keeps the order, the
/// compiler is told.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "rings are small")]
fn set_tail(registers: Registers, at: usize, tail: usize) {
    core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
    registers.write(at, tail as u32);
}

/// Resets the device and brings the link up (§14.3).
fn reset(registers: Registers) -> Result<(), OpenError> {
    registers.write(register::INTERRUPT_MASK_CLEAR, u32::MAX);
    registers.write(register::RECEIVE_CONTROL, 0_u32);
    registers.write(register::TRANSMIT_CONTROL, 0_u32);
    let control = || registers.read::<u32>(register::CONTROL);
    registers.write(register::CONTROL, control() | RESET);
    if !wait(PATIENCE, || control() & RESET == 0) {
        return Err(OpenError::Reset);
    }
    registers.write(register::INTERRUPT_MASK_CLEAR, u32::MAX);
    // Reading clears it.
    let _ = registers.read::<u32>(register::INTERRUPT_CAUSE);
    let on = (control() & !CONTROL_OFF) | DETECT_SPEED | LINK_UP;
    registers.write(register::CONTROL, on);
    // A cable may be plugged in later.
    wait(PATIENCE, || {
        registers.read::<u32>(register::STATUS) & STATUS_LINK != 0
    });
    Ok(())
}

/// What the card has put into its first receive address (§13.5.2); where it
/// has not, what is in the first three words of its EEPROM (§5.6.1).
fn mac(registers: Registers) -> Mac {
    let low = registers.read::<u32>(register::RECEIVE_ADDRESS);
    let high = registers.read::<u32>(register::RECEIVE_ADDRESS + 4);
    let [a, b, c, d] = low.to_le_bytes();
    let [e, f, ..] = high.to_le_bytes();
    if high & ADDRESS_VALID != 0 {
        return Mac([a, b, c, d, e, f]);
    }
    let [[a, b], [c, d], [e, f]] = [0, 1, 2].map(|word| eeprom(registers, word));
    Mac([a, b, c, d, e, f])
}

/// A word of the 82540EM's EEPROM; zeros where it does not answer.
fn eeprom(registers: Registers, word: u32) -> [u8; 2] {
    let read = || registers.read::<u32>(register::EEPROM_READ);
    let command = word << EEPROM_ADDRESS_SHIFT | EEPROM_START;
    registers.write(register::EEPROM_READ, command);
    if !wait(PATIENCE, || read() & EEPROM_DONE != 0) {
        return [0; 2];
    }
    let [low, high, ..] = (read() >> EEPROM_DATA_SHIFT).to_le_bytes();
    [low, high]
}

impl Nic for E1000 {
    fn mac(&self) -> Mac {
        self.mac
    }

    #[inline]
    fn receive(&mut self, pool: &mut Pool, batch: &mut Batch) {
        while !batch.is_full() {
            match self.receive.pop() {
                // There is room.
                Some(Received::Frame(frame)) => drop(batch.push_back(frame)),
                Some(Received::Bad(buffer)) => {
                    self.bad += 1;
                    pool.put(buffer);
                }
                None => break,
            }
        }
        self.refill(pool);
        if self.untold >= REFILL {
            self.tell();
        }
    }

    #[inline]
    fn transmit(&mut self, pool: &mut Pool, batch: &mut Batch) {
        let before = self.transmit.tail();
        while self.transmit.has_room() {
            let Some(frame) = batch.pop_front() else {
                break;
            };
            let address = self.device.dma_address(pool.address(frame.buffer));
            self.transmit.push(&frame, address);
        }
        if self.transmit.tail() != before {
            set_tail(
                self.registers,
                register::TRANSMIT_TAIL,
                self.transmit.tail(),
            );
        }
    }

    #[inline]
    fn reclaim(&mut self, pool: &mut Pool) {
        while let Some(buffer) = self.transmit.pop() {
            pool.put(buffer);
        }
    }

    fn bad(&self) -> u64 {
        self.bad
    }
}
