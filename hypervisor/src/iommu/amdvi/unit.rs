//! One IOMMU: its registers (AMD 48882, 3.4), command buffer (2.4) and event
//! log (2.5).

use cloister_core::iommu::amdvi::{Features, command, event};
use cloister_core::iommu::{Fault, Ivhd, Requester};
use cloister_core::memory::Range;
use cloister_core::pci::{Address, ConfigSpace, capabilities};

use super::super::NO_MEMORY;
use super::super::registers::{Memory, Registers, wait};
use crate::arch::memory::FramePool;
use crate::arch::pci;
use crate::setup::{Complaint, complaint};

const DEVICE_TABLE: u64 = 0x00;
const COMMAND_BUFFER: u64 = 0x08;
const EVENT_LOG: u64 = 0x10;
const CONTROL: u64 = 0x18;
const EXCLUSION_BASE: u64 = 0x20;
const EXCLUSION_LIMIT: u64 = 0x28;
const FEATURES: u64 = 0x30;
const COMMAND_HEAD: u64 = 0x2000;
const COMMAND_TAIL: u64 = 0x2008;
const EVENT_HEAD: u64 = 0x2010;
const EVENT_TAIL: u64 = 0x2018;
const STATUS: u64 = 0x2020;

/// Bits of the control register (3.4.1).
const ENABLE: u64 = 1 << 0;
const EVENT_LOG_ENABLE: u64 = 1 << 2;
const EVENT_INTERRUPT: u64 = 1 << 3;
const COHERENT: u64 = 1 << 10;
const COMMANDS_ENABLE: u64 = 1 << 12;
const GUEST_APIC: u64 = 1 << 17;
const X2APIC: u64 = 1 << 50;

/// Bits of the status register (3.4.3).
const OVERFLOW: u64 = 1 << 0;
const EVENT_PENDING: u64 = 1 << 1;
const EVENTS_RUN: u64 = 1 << 3;
const COMMANDS_RUN: u64 = 1 << 4;

/// Length field of both buffers: 2 to the power of 8 entries of 16 bytes, one
/// page.
const LENGTH: u64 = 8 << 56;
const BUFFER_BYTES: u64 = 4096;

/// One unit.
pub(super) struct Unit {
    registers: Registers,
    pub(super) features: Features,
    /// Its own PCI function.
    pub(super) function: Requester,
    /// Control bits that the firmware asks for.
    asked: u64,
    commands: Memory,
    tail: u64,
    token: u64,
    done: Memory,
    events: Memory,
    head: u64,
}

impl Unit {
    /// The unit that the IVRS describes.
    ///
    /// # Errors
    /// It is out of reach, or of another segment.
    pub(super) fn find(described: &Ivhd, pool: &FramePool) -> Result<Self, Complaint> {
        let at = described.registers;
        if described.segment != 0 {
            return Err(complaint(format_args!(
                "the IOMMU at {at:#x} is for PCI segment {}: Cloister knows segment 0 only",
                described.segment
            )));
        }
        let registers = Registers::new(at).ok_or_else(|| {
            complaint(format_args!(
                "the IOMMU at {at:#x} is not below 4 GiB, or in memory"
            ))
        })?;
        let memory =
            || Memory::new(pool, 1, true).ok_or_else(|| complaint(format_args!("{NO_MEMORY}")));
        let flags = u64::from(described.flags);
        // IVHD flags (5.2.2.1): HtTunEn, PassPW, ResPassPW, Isoc.
        let asked = (flags & 1) << 1
            | (flags >> 1 & 1) << 8
            | (flags >> 2 & 1) << 9
            | (flags >> 3 & 1) << 11;
        Ok(Self {
            features: Features(registers.read64(FEATURES)),
            registers,
            function: described.function,
            asked: asked | COHERENT,
            commands: memory()?,
            tail: 0,
            token: 0,
            done: memory()?,
            events: memory()?,
            head: 0,
        })
    }

    /// Where its registers are.
    pub(super) fn range(&self) -> Range {
        let start = self.registers.base();
        Range {
            start,
            end: start + self.features.register_bytes(),
        }
    }

    fn status(&self) -> u64 {
        self.registers.read64(STATUS)
    }

    fn set(&self, offset: u64, value: u64) {
        // SAFETY: buffers and tables are ours; what the callers switch on is
        // complete, and what they switch off was the firmware's or is not
        // needed.
        unsafe { self.registers.write64(offset, value) };
    }

    /// Switches the unit on over the device table that `table` names with its
    /// size, whose last entry is `last`.
    ///
    /// # Errors
    /// What does not happen.
    pub(super) fn enable(
        &mut self,
        table: u64,
        last: u16,
        extended: bool,
        event: Option<u32>,
    ) -> Result<(), &'static str> {
        // Off first, if the firmware left it on.
        self.set(CONTROL, 0);
        if !wait(|| self.status() & (EVENTS_RUN | COMMANDS_RUN) == 0) {
            return Err("it stays on");
        }
        self.set(DEVICE_TABLE, table);
        self.set(EXCLUSION_BASE, 0);
        self.set(EXCLUSION_LIMIT, 0);
        self.set(COMMAND_BUFFER, self.commands.address() | LENGTH);
        self.set(COMMAND_HEAD, 0);
        self.set(COMMAND_TAIL, 0);
        self.clear_log();
        let announces = event.is_some_and(|apic_id| self.announce(apic_id));
        let interrupt = if announces { EVENT_INTERRUPT } else { 0 };
        let format = if extended { GUEST_APIC | X2APIC } else { 0 };
        self.set(
            CONTROL,
            self.asked | format | interrupt | COMMANDS_ENABLE | EVENT_LOG_ENABLE | ENABLE,
        );
        if !wait(|| self.status() & COMMANDS_RUN != 0) {
            return Err("it stays off");
        }
        if !self.forget_all(last) {
            return Err("invalidation does not finish");
        }
        Ok(())
    }

    fn forget_all(&mut self, last: u16) -> bool {
        if self.features.invalidate_all() {
            return self.command(&[command::ALL]);
        }
        // Domains have small numbers; the firmware's may have been any.
        (0..=last).all(|requester| {
            let requester = Requester(requester);
            self.command(&[command::device(requester), command::interrupts(requester)])
        }) && (0..=u16::MAX).all(|domain| self.command(&[command::pages(domain)]))
    }

    /// Starts an empty event log.
    fn clear_log(&mut self) {
        (0..BUFFER_BYTES)
            .step_by(8)
            .for_each(|at| self.events.write(at, 0));
        self.head = 0;
        self.set(EVENT_LOG, self.events.address() | LENGTH);
        self.set(EVENT_HEAD, 0);
        self.set(EVENT_TAIL, 0);
        self.set(STATUS, OVERFLOW | EVENT_PENDING);
    }

    /// Sets the function's MSI capability up (PCI Local Bus Specification 3.0,
    /// 6.8.1); only before Linux runs, which uses configuration space too.
    fn message(&self, address: u32, data: u32) -> bool {
        const ENABLE: u32 = 1 << 16;
        const MULTIPLE: u32 = 7 << 20;
        const WIDE: u32 = 1 << 23;
        let function = Address(self.function.0);
        let mut config = pci::lock();
        let at = capabilities(&config, function).msi;
        if at == 0 {
            return false;
        }
        let at = u16::from(at);
        let header = config.read(function, at);
        let mut write = |offset: u16, value: u32| config.write(function, at + offset, value);
        write(4, address);
        if header & WIDE != 0 {
            write(8, 0);
            write(12, data);
        } else {
            write(8, data);
        }
        write(0, header & !MULTIPLE | ENABLE);
        true
    }

    /// Has events announced by an NMI to the core `apic_id`; says whether the
    /// unit can.
    fn announce(&self, apic_id: u32) -> bool {
        const NMI: u32 = 4 << 8;
        apic_id < 0xff && self.message(0xfee0_0000 | apic_id << 12, NMI)
    }

    /// Announces no events any more.
    pub(super) fn mute(&mut self) {
        // QEMU 7.2 sends its message for every event, whatever the control
        // register says: without a log there is none. The MSI capability
        // stays: configuration space is shared with Linux by now.
        let control = self.registers.read64(CONTROL);
        self.set(CONTROL, control & !(EVENT_INTERRUPT | EVENT_LOG_ENABLE));
    }

    /// Has `commands` done, and says whether they were.
    pub(super) fn command(&mut self, commands: &[[u64; 2]]) -> bool {
        self.token = self.token.wrapping_add(1);
        let finish = command::completion_wait(self.done.address(), self.token);
        for command in commands.iter().chain([&finish]) {
            self.commands.write_pair(self.tail, *command);
            self.tail = (self.tail + 16) % BUFFER_BYTES;
        }
        self.set(COMMAND_TAIL, self.tail);
        wait(|| self.done.read(0) == self.token)
    }

    /// Takes the events that wait, at most as many as the log holds. An entry
    /// counts as written when its code is not 0, whatever the tail register
    /// says: QEMU 7.2 does not show it.
    pub(super) fn take_faults(&mut self, sink: &mut dyn FnMut(Fault)) {
        self.set(STATUS, EVENT_PENDING);
        for _ in 0..BUFFER_BYTES / 16 {
            let entry = [self.events.read(self.head), self.events.read(self.head + 8)];
            if entry[0] >> 60 == 0 {
                break;
            }
            if let Some(fault) = event(entry) {
                sink(fault);
            }
            self.events.write(self.head + 8, 0);
            self.events.write(self.head, 0);
            self.head = (self.head + 16) % BUFFER_BYTES;
        }
        self.set(EVENT_HEAD, self.head);
        if self.status() & OVERFLOW != 0 {
            // The log has stopped (2.5.1): start it anew.
            let control = self.registers.read64(CONTROL);
            self.set(CONTROL, control & !EVENT_LOG_ENABLE);
            wait(|| self.status() & EVENTS_RUN == 0);
            self.clear_log();
            self.set(CONTROL, control);
        }
    }
}
