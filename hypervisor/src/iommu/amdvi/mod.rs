//! AMD-Vi (AMD I/O Virtualization Technology specification 48882), one set of
//! tables for all units.

mod unit;

use cloister_core::iommu::amdvi::{
    DeviceEntry, INTERRUPTS, command, extended_interrupt_entry, interrupt_entry, message,
    redirection,
};
use cloister_core::iommu::{
    Fault, Interrupt, Ivrs, MAX_RESERVED, MAX_UNITS, Message, PinTable, Requester, Reserved, ivrs,
};
use cloister_core::memory::Range;
use cloister_core::nested::{AmdViTable, GPA_END};
use heapless::Vec;

use super::domain::{self, Domain, IoTables};
use super::registers::Memory;
use super::{Hardware, NO_MEMORY};
use crate::arch::apic;
use crate::arch::memory::{FramePool, PAGE};
use crate::setup::{Complaint, complaint};
use unit::Unit;

/// Bytes of a device table entry.
const ENTRY: u64 = 32;
/// Most functions that raise interrupts.
const SOURCES: usize = 128;

/// The interrupts of one requester.
struct Table {
    requester: Requester,
    entries: Memory,
}

/// All units.
pub(super) struct AmdVi {
    pool: &'static FramePool,
    units: Vec<Unit, MAX_UNITS>,
    tables: Ivrs,
    /// All of them have interrupt tables with destinations of 32 bits.
    extended: bool,
    devices: Memory,
    /// A domain in which nothing is mapped: what is blocked is reported.
    empty: Option<Domain>,
    interrupts: Vec<Table, SOURCES>,
    pins: Vec<(u8, PinTable), { cloister_core::iommu::MAX_IO_APICS }>,
    remaps: bool,
    on: bool,
}

impl AmdVi {
    /// Reads the IVRS, and finds what the units can do. `functions` is what
    /// this machine has.
    ///
    /// # Errors
    /// The table is damaged, or a unit lacks what is needed.
    pub(super) fn find(
        table: &[u8],
        functions: &[Requester],
        pool: &'static FramePool,
    ) -> Result<(Self, Vec<Reserved, MAX_RESERVED>), Complaint> {
        let no_memory = || complaint(format_args!("{NO_MEMORY}"));
        let tables = ivrs(table).map_err(|error| complaint(format_args!("{error}")))?;
        let mut units: Vec<Unit, MAX_UNITS> = Vec::new();
        for described in &tables.units {
            let _ = units.push(Unit::find(described, pool)?);
        }
        if units.is_empty() {
            return Err(complaint(format_args!("the ACPI IVRS names no IOMMU")));
        }
        let extended = apic::is_x2apic_machine()
            && units.iter().all(|unit| unit.features.extended_interrupts());
        // Whoever is beyond the table is refused by hardware (2.2.2).
        let io_apics = tables.io_apics.iter().map(|source| source.requester);
        let aliases = tables.aliases.iter().map(|&(_, alias)| alias);
        let all = functions.iter().copied().chain(io_apics).chain(aliases);
        let highest = all.max().map_or(0, |requester| requester.0);
        let pages = ((u64::from(highest) + 1) * ENTRY).div_ceil(PAGE);
        let devices = Memory::new(pool, pages, true).ok_or_else(no_memory)?;
        let reserved = tables.reserved.clone();
        let mut amdvi = Self {
            pool,
            units,
            tables,
            extended,
            devices,
            empty: None,
            interrupts: Vec::new(),
            pins: Vec::new(),
            remaps: false,
            on: false,
        };
        amdvi.empty = Some(amdvi.domain(0, &[])?);
        for requester in 0..=amdvi.last() {
            amdvi.assign(Requester(requester), None)?;
        }
        Ok((amdvi, reserved))
    }

    /// The last requester that has an entry.
    fn last(&self) -> u16 {
        u16::try_from(self.devices.len() / ENTRY - 1).unwrap_or(u16::MAX)
    }

    /// The requester that requests of `device` come from.
    fn alias(&self, device: Requester) -> Requester {
        let aliases = self.tables.aliases.iter();
        aliases
            .copied()
            .find(|&(of, _)| of == device)
            .map_or(device, |(_, alias)| alias)
    }

    fn entry(&self, requester: Requester) -> DeviceEntry {
        let at = u64::from(requester.0) * ENTRY;
        DeviceEntry([0, 8, 16, 24].map(|offset| self.devices.read(at + offset)))
    }

    /// Changes an entry: two halves of 128 bits, the one with the interrupts
    /// first.
    fn set_entry(&mut self, requester: Requester, entry: DeviceEntry) -> Result<(), Complaint> {
        let at = u64::from(requester.0) * ENTRY;
        let [first, second, third, last] = entry.0;
        self.devices.write_pair(at + 16, [third, last]);
        self.devices.write_pair(at, [first, second]);
        let [low, high, ..] = second.to_le_bytes();
        self.forget(requester, u16::from_le_bytes([low, high]))
    }

    /// What the interrupts of `requester` are: through its table, or as they
    /// were before remapping was switched on.
    fn interrupts_of(&self, requester: Requester, entry: DeviceEntry) -> DeviceEntry {
        if !self.remaps {
            return entry;
        }
        let mut tables = self.interrupts.iter();
        let entry = match tables.find(|table| table.requester == requester) {
            Some(table) => entry.with_interrupts(table.entries.address()),
            None => entry.without_interrupts(),
        };
        let mut units = self.units.iter();
        match units.any(|unit| unit.function == requester) {
            true => entry.with_nmi(),
            false => entry,
        }
    }

    /// Has every unit forget the entry of `requester` and the translations of
    /// `domain`, if translation is on.
    fn forget(&mut self, requester: Requester, domain: u16) -> Result<(), Complaint> {
        let commands = [
            command::device(requester),
            command::pages(domain),
            command::interrupts(requester),
        ];
        self.command(&commands)
            .then_some(())
            .ok_or_else(|| complaint(format_args!("AMD-Vi: invalidation did not finish")))
    }

    fn command(&mut self, commands: &[[u64; 2]]) -> bool {
        !self.on || self.units.iter_mut().all(|unit| unit.command(commands))
    }

    /// The table of interrupts of `requester`: made if there is none.
    fn table(&mut self, requester: Requester) -> Option<usize> {
        let known = |table: &Table| table.requester == requester;
        if let Some(index) = self.interrupts.iter().position(known) {
            return Some(index);
        }
        let bytes = u64::from(INTERRUPTS) * if self.extended { 16 } else { 4 };
        let entries = Memory::new(self.pool, bytes.div_ceil(PAGE), true)?;
        let table = Table { requester, entries };
        self.interrupts.push(table).ok()?;
        let entry = self.interrupts_of(requester, self.entry(requester));
        self.set_entry(requester, entry).ok()?;
        Some(self.interrupts.len() - 1)
    }

    fn set_interrupt(
        &mut self,
        requester: Requester,
        index: u16,
        interrupt: &Interrupt,
    ) -> Option<()> {
        let extended = self.extended;
        if requester.0 > self.last() {
            return None;
        }
        let table = self.table(requester)?;
        let table = self.interrupts.get(table)?;
        if extended {
            let entry = extended_interrupt_entry(interrupt);
            table.entries.write_pair(u64::from(index) * 16, entry);
        } else {
            let entry = interrupt_entry(interrupt);
            table.entries.write32(u64::from(index) * 4, entry);
        }
        self.command(&[command::interrupts(requester)])
            .then_some(())
    }
}

impl Hardware for AmdVi {
    fn name(&self) -> &'static str {
        "amd-vi"
    }

    fn describe(&self, to: &mut dyn core::fmt::Write) -> core::fmt::Result {
        write!(
            to,
            "{} unit(s), {} requesters, interrupt remapping possible{}",
            self.units.len(),
            u32::from(self.last()) + 1,
            if self.extended { " (x2APIC)" } else { "" },
        )
    }

    fn registers(&self) -> Vec<Range, MAX_UNITS> {
        self.units.iter().map(Unit::range).collect()
    }

    fn functions(&self) -> Vec<Requester, MAX_UNITS> {
        self.units.iter().map(|unit| unit.function).collect()
    }

    fn can_remap(&self) -> bool {
        true
    }

    fn domain(&mut self, id: u16, ranges: &[(u64, Range)]) -> Result<Domain, Complaint> {
        let beyond = |(address, range): &&(u64, Range)| {
            address
                .checked_add(range.len())
                .is_none_or(|end| end > GPA_END)
        };
        if let Some((_, range)) = ranges.iter().find(beyond) {
            return Err(complaint(format_args!(
                "AMD-Vi: {range} is beyond tables of four levels"
            )));
        }
        let tables = &mut IoTables {
            pool: self.pool,
            coherent: true,
            absent: AmdViTable::ABSENT,
        };
        let ranges = ranges.iter().copied();
        // Every level can hold pages (2.2.3).
        let builder = domain::build::<AmdViTable>(tables, 3, ranges)
            .map_err(|error| complaint(format_args!("AMD-Vi: {error}")))?;
        Ok(Domain {
            id,
            root: builder.root(),
        })
    }

    fn assign(&mut self, requester: Requester, domain: Option<Domain>) -> Result<(), Complaint> {
        let requester = self.alias(requester);
        if requester.0 > self.last() {
            return Err(complaint(format_args!(
                "AMD-Vi: requester {requester} is beyond the device table"
            )));
        }
        let entry = match domain.or(self.empty) {
            Some(domain) => DeviceEntry::translated(domain.root, domain.id),
            None => DeviceEntry::BLOCKED,
        };
        self.set_entry(requester, self.interrupts_of(requester, entry))
    }

    fn enable(&mut self, event: Option<u32>) -> Result<(), Complaint> {
        let table = self.devices.address() | (self.devices.len() / PAGE - 1);
        let last = self.last();
        for (index, unit) in self.units.iter_mut().enumerate() {
            unit.enable(table, last, self.extended, event)
                .map_err(|what| {
                    complaint(format_args!("AMD-Vi unit {index} does not answer: {what}"))
                })?;
        }
        self.on = true;
        Ok(())
    }

    fn mute(&mut self) {
        self.units.iter_mut().for_each(Unit::mute);
    }

    fn enable_interrupts(&mut self) -> Result<(), Complaint> {
        self.remaps = true;
        for requester in (0..=self.last()).map(Requester) {
            let entry = self.interrupts_of(requester, self.entry(requester));
            self.set_entry(requester, entry)?;
        }
        Ok(())
    }

    fn message(
        &mut self,
        requester: Requester,
        _: u16,
        index: u16,
        interrupt: &Interrupt,
    ) -> Option<Message> {
        let requester = self.alias(requester);
        self.set_interrupt(requester, index, interrupt)?;
        Some(message(index))
    }

    fn redirection(&mut self, io_apic: u8, pin: u8, interrupt: &Interrupt) -> Option<u64> {
        let mut known = self.tables.io_apics.iter();
        let requester = known.find(|known| known.id == io_apic)?.requester;
        let position = self.pins.iter().position(|(of, _)| *of == io_apic);
        let position = match position {
            Some(position) => position,
            None => {
                self.pins.push((io_apic, PinTable::new())).ok()?;
                self.pins.len() - 1
            }
        };
        let (_, pins) = self.pins.get_mut(position)?;
        let index = pins.index(pin, interrupt.vector, interrupt.level)?;
        self.set_interrupt(requester, index, interrupt)?;
        Some(redirection(index, interrupt.level))
    }

    fn take_faults(&mut self, sink: &mut dyn FnMut(Fault)) {
        for unit in &mut self.units {
            unit.take_faults(sink);
        }
    }

    fn silence(&mut self, requester: Requester) {
        if requester.0 <= self.last() {
            let entry = self.entry(requester).without_faults();
            let _ = self.set_entry(requester, entry);
        }
    }
}
