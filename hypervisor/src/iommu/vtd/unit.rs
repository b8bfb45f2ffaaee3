//! One VT-d unit: its registers (VT-d specification 4.1, 11.4) and its queue
//! (6.5.2).

use cloister_core::iommu::vtd::{self, Capabilities, FAULT, Pair, descriptor};
use cloister_core::iommu::{Fault, Unit as Described};
use cloister_core::memory::Range;

use super::super::NO_MEMORY;
use super::super::registers::{Memory, Registers, wait};
use crate::arch::memory::FramePool;
use crate::setup::{Complaint, complaint};

const CAPABILITY: u64 = 0x08;
const EXTENDED_CAPABILITY: u64 = 0x10;
const GLOBAL_COMMAND: u64 = 0x18;
const GLOBAL_STATUS: u64 = 0x1c;
const ROOT_TABLE: u64 = 0x20;
const FAULT_STATUS: u64 = 0x34;
const FAULT_CONTROL: u64 = 0x38;
const FAULT_DATA: u64 = 0x3c;
const FAULT_ADDRESS: u64 = 0x40;
const FAULT_UPPER_ADDRESS: u64 = 0x44;
const PROTECTED_MEMORY: u64 = 0x64;
const QUEUE_HEAD: u64 = 0x80;
const QUEUE_TAIL: u64 = 0x88;
const QUEUE_ADDRESS: u64 = 0x90;
const INTERRUPT_TABLE: u64 = 0xb8;

/// Bits of the global command and status registers (11.4.4.1).
const TRANSLATE: u32 = 1 << 31;
const SET_ROOT: u32 = 1 << 30;
const FLUSH_WRITES: u32 = 1 << 27;
const QUEUE: u32 = 1 << 26;
const REMAP: u32 = 1 << 25;
const SET_INTERRUPTS: u32 = 1 << 24;
/// Those that say what is on: the others are commands, done once.
const STATES: u32 = 0x96ff_ffff;

/// The fault event is masked.
const MASKED: u32 = 1 << 31;
/// Fault status: faults were lost; errors of the queue.
const OVERFLOW: u32 = 1;
const QUEUE_ERRORS: u32 = 0x70;
/// Descriptors of 16 bytes in one page.
const QUEUE_BYTES: u64 = 4096;

/// One unit.
pub(super) struct Unit {
    registers: Registers,
    pub(super) capabilities: Capabilities,
    queue: Memory,
    tail: u64,
    /// What the last wait descriptor wrote to `done`.
    token: u32,
    done: Memory,
}

impl Unit {
    /// The unit that the DMAR describes.
    ///
    /// # Errors
    /// It lacks what is needed, or is out of reach.
    pub(super) fn find(described: &Described, pool: &FramePool) -> Result<Self, Complaint> {
        let at = described.registers;
        let lacks = |what: &str| complaint(format_args!("the VT-d unit at {at:#x} has no {what}"));
        let no_memory = || complaint(format_args!("{NO_MEMORY}"));
        if described.segment != 0 {
            return Err(complaint(format_args!(
                "the VT-d unit at {at:#x} is for PCI segment {}: Cloister knows segment 0 only",
                described.segment
            )));
        }
        let registers = Registers::new(at).ok_or_else(|| {
            complaint(format_args!(
                "the VT-d unit at {at:#x} is not below 4 GiB, or in memory"
            ))
        })?;
        let capabilities = Capabilities {
            cap: registers.read64(CAPABILITY),
            ecap: registers.read64(EXTENDED_CAPABILITY),
        };
        if !capabilities.queue() {
            return Err(lacks("queued invalidation (ECAP_REG bit 1)"));
        }
        if capabilities.levels().is_none() {
            return Err(lacks("tables of three or four levels (CAP_REG bits 9, 10)"));
        }
        let coherent = capabilities.coherent();
        Ok(Self {
            registers,
            capabilities,
            queue: Memory::new(pool, 1, coherent).ok_or_else(no_memory)?,
            tail: 0,
            token: 0,
            done: Memory::new(pool, 1, coherent).ok_or_else(no_memory)?,
        })
    }

    /// Where its registers are.
    pub(super) fn range(&self) -> Range {
        let start = self.registers.base();
        Range {
            start,
            end: start + self.capabilities.register_bytes(),
        }
    }

    fn status(&self) -> u32 {
        self.registers.read32(GLOBAL_STATUS)
    }

    /// Gives a command: `bit` on top of (or, for a state, taken out of) what is
    /// on, and waits for its status.
    fn global(&self, bit: u32, on: bool) -> bool {
        let states = self.status() & STATES;
        let value = if on { states | bit } else { states & !bit };
        // SAFETY: the callers have put tables into place, or switch off what
        // the firmware left on.
        unsafe { self.registers.write32(GLOBAL_COMMAND, value) };
        wait(|| (self.status() & bit != 0) == on)
    }

    /// Switches off what the firmware left on.
    fn reset(&mut self) -> Result<(), &'static str> {
        for (state, what) in [
            (REMAP, "interrupt remapping stays on"),
            (TRANSLATE, "translation stays on"),
        ] {
            if self.status() & state != 0 && !self.global(state, false) {
                return Err(what);
            }
        }
        if self.status() & QUEUE != 0 {
            let empty = || self.registers.read64(QUEUE_HEAD) == self.registers.read64(QUEUE_TAIL);
            if !wait(empty) || !self.global(QUEUE, false) {
                return Err("its queue stays on");
            }
        }
        if self.capabilities.has_protected_memory() {
            // Regions kept from DMA (11.4.15): translation does that now.
            // SAFETY: switched off at boot, before any guest runs.
            unsafe { self.registers.write32(PROTECTED_MEMORY, 0) };
            if !wait(|| self.registers.read32(PROTECTED_MEMORY) & 1 == 0) {
                return Err("protected memory stays on");
            }
        }
        Ok(())
    }

    /// Switches translation on, over the root table at `root`. `event`: see
    /// [`super::Hardware::enable`].
    ///
    /// # Errors
    /// What does not happen.
    pub(super) fn enable(&mut self, root: u64, event: Option<u32>) -> Result<(), &'static str> {
        self.reset()?;
        // SAFETY: queue and root table are ours, and complete.
        unsafe {
            self.registers.write64(QUEUE_TAIL, 0);
            self.registers.write64(QUEUE_ADDRESS, self.queue.address());
        }
        if !self.global(QUEUE, true) {
            return Err("the queue stays off");
        }
        // SAFETY: as above.
        unsafe { self.registers.write64(ROOT_TABLE, root) };
        if !self.global(SET_ROOT, true) {
            return Err("the root table is not taken");
        }
        if !self.forget() {
            return Err("invalidation does not finish");
        }
        self.take_faults(&mut |_| {});
        self.announce(event);
        if !self.global(TRANSLATE, true) {
            return Err("translation stays off");
        }
        Ok(())
    }

    /// Faults are announced by an NMI to `event`, or not at all.
    fn announce(&self, event: Option<u32>) {
        const NMI: u32 = 4 << 8;
        let Some(apic_id) = event else {
            return self.mute_event();
        };
        let [low, ..] = apic_id.to_le_bytes();
        // SAFETY: every core takes NMIs. The upper bits of the APIC ID are
        // where x2APIC has them (11.4.14.4).
        unsafe {
            self.registers.write32(FAULT_DATA, NMI);
            self.registers
                .write32(FAULT_ADDRESS, 0xfee0_0000 | u32::from(low) << 12);
            if self.capabilities.extended_interrupts() {
                self.registers
                    .write32(FAULT_UPPER_ADDRESS, apic_id & 0xffff_ff00);
            }
            self.registers.write32(FAULT_CONTROL, 0);
        }
    }

    fn mute_event(&self) {
        // SAFETY: an event less.
        unsafe { self.registers.write32(FAULT_CONTROL, MASKED) };
    }

    /// Announces no faults any more.
    pub(super) fn mute(&mut self) {
        self.mute_event();
    }

    /// Switches interrupt remapping on, over the table that `table` names with
    /// its size. Compatibility format stays off (CFI).
    ///
    /// # Errors
    /// What does not happen.
    pub(super) fn enable_interrupts(
        &mut self,
        table: u64,
        extended: bool,
    ) -> Result<(), &'static str> {
        const EXTENDED: u64 = 1 << 11;
        let mode = if extended { EXTENDED } else { 0 };
        // SAFETY: the table is ours.
        unsafe { self.registers.write64(INTERRUPT_TABLE, table | mode) };
        if !self.global(SET_INTERRUPTS, true) {
            return Err("the interrupt table is not taken");
        }
        if !self.command(&[descriptor::INTERRUPT]) {
            return Err("invalidation does not finish");
        }
        if !self.global(REMAP, true) {
            return Err("interrupt remapping stays off");
        }
        Ok(())
    }

    /// Has the unit forget entries and translations.
    pub(super) fn forget(&mut self) -> bool {
        if self.capabilities.needs_write_flush() {
            let states = self.status() & STATES;
            // SAFETY: pushes writes out, nothing else.
            unsafe {
                self.registers
                    .write32(GLOBAL_COMMAND, states | FLUSH_WRITES);
            }
            wait(|| self.status() & FLUSH_WRITES == 0);
        }
        let iotlb = descriptor::iotlb(self.capabilities.drains());
        self.command(&[descriptor::CONTEXT]) && self.command(&[iotlb])
    }

    /// Has `commands` done, and says whether they were.
    pub(super) fn command(&mut self, commands: &[Pair]) -> bool {
        if self.status() & QUEUE == 0 {
            // Nothing is cached yet.
            return true;
        }
        self.token = self.token.wrapping_add(1);
        let finish = descriptor::wait(self.done.address(), self.token);
        for command in commands.iter().chain([&finish]) {
            self.queue.write_pair(self.tail, *command);
            self.tail = (self.tail + 16) % QUEUE_BYTES;
        }
        // SAFETY: the descriptors are complete, and only forget.
        unsafe { self.registers.write64(QUEUE_TAIL, self.tail) };
        let token = u64::from(self.token);
        wait(|| self.done.read(0) & 0xffff_ffff == token)
    }

    /// Takes the faults that wait (11.4.14.6).
    pub(super) fn take_faults(&mut self, sink: &mut dyn FnMut(Fault)) {
        let first = self.capabilities.fault_offset();
        for index in 0..self.capabilities.faults() {
            let at = first + index * 16;
            let record = [self.registers.read64(at), self.registers.read64(at + 8)];
            if let Some(fault) = vtd::fault(record) {
                sink(fault);
                // SAFETY: clears what has been read.
                unsafe { self.registers.write32(at + 12, FAULT) };
            }
        }
        let status = self.registers.read32(FAULT_STATUS);
        if status & (OVERFLOW | QUEUE_ERRORS) != 0 {
            // SAFETY: as above.
            unsafe {
                self.registers
                    .write32(FAULT_STATUS, status & (OVERFLOW | QUEUE_ERRORS));
            }
        }
    }
}
