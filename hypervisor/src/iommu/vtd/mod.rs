//! VT-d (Intel VT-d specification 4.1), legacy mode, one set of tables for all
//! units.

mod unit;

use cloister_core::iommu::vtd::{
    Pair, context_entry, descriptor, interrupt_entry, message, redirection, root_entry,
    without_faults,
};
use cloister_core::iommu::{
    Blocks, Fault, Interrupt, IoApicSource, MAX_IO_APICS, MAX_RESERVED, MAX_UNITS, Message, PINS,
    Requester, Reserved, Source, dmar,
};
use cloister_core::memory::Range;
use cloister_core::nested::VtdTable;
use heapless::Vec;

use super::domain::{self, Domain, IoTables};
use super::registers::Memory;
use super::{Hardware, NO_MEMORY};
use crate::arch::apic;
use crate::arch::memory::FramePool;
use crate::setup::{Complaint, complaint};
use unit::Unit;

/// Entries of the interrupt table: 2 to the power of 12.
const INTERRUPTS: u16 = 4096;
const INTERRUPTS_LOG2: u64 = 12;

/// All units.
pub(super) struct Vtd {
    pool: &'static FramePool,
    units: Vec<Unit, MAX_UNITS>,
    io_apics: Vec<IoApicSource, MAX_IO_APICS>,
    /// What all of them can do.
    levels: u8,
    largest_page: u8,
    address_end: u64,
    domains: u32,
    coherent: bool,
    remaps: bool,
    extended: bool,
    root: Memory,
    /// Context tables, by bus.
    contexts: Vec<(u8, Memory), 256>,
    interrupts: Memory,
    blocks: Blocks,
    on: bool,
}

impl Vtd {
    /// Reads the DMAR, and finds what the units can do.
    ///
    /// # Errors
    /// The table is damaged, or a unit lacks what is needed.
    pub(super) fn find(
        table: &[u8],
        pool: &'static FramePool,
    ) -> Result<(Self, Vec<Reserved, MAX_RESERVED>), Complaint> {
        let no_memory = || complaint(format_args!("{NO_MEMORY}"));
        let dmar = dmar(table).map_err(|error| complaint(format_args!("{error}")))?;
        let mut units: Vec<Unit, MAX_UNITS> = Vec::new();
        for described in &dmar.units {
            let unit = Unit::find(described, pool)?;
            let _ = units.push(unit);
        }
        if units.is_empty() {
            return Err(complaint(format_args!("the ACPI DMAR names no VT-d unit")));
        }
        let all = |can: fn(&Unit) -> bool| units.iter().all(can);
        let least = |number: fn(&Unit) -> u8| units.iter().map(number).min().unwrap_or(0);
        let coherent = all(|unit| unit.capabilities.coherent());
        let remaps = dmar.interrupt_remapping && all(|unit| unit.capabilities.interrupts());
        let extended =
            apic::is_x2apic_machine() && all(|unit| unit.capabilities.extended_interrupts());
        let ends = units.iter().map(|unit| unit.capabilities.address_end());
        let domains = units.iter().map(|unit| unit.capabilities.domains());
        let vtd = Self {
            pool,
            io_apics: dmar.io_apics,
            levels: least(|unit| unit.capabilities.levels().unwrap_or(0)),
            largest_page: least(|unit| unit.capabilities.largest_page()),
            address_end: ends.min().unwrap_or(0),
            domains: domains.min().unwrap_or(0),
            coherent,
            remaps,
            extended,
            root: Memory::new(pool, 1, coherent).ok_or_else(no_memory)?,
            contexts: Vec::new(),
            interrupts: Memory::new(pool, u64::from(INTERRUPTS) * 16 / 4096, coherent)
                .ok_or_else(no_memory)?,
            blocks: Blocks::default(),
            on: false,
            units,
        };
        Ok((vtd, dmar.reserved))
    }

    /// The context table of `bus`: made if there is none.
    fn contexts(&mut self, bus: u8) -> Result<&Memory, Complaint> {
        let full = || complaint(format_args!("{NO_MEMORY}"));
        let known = self.contexts.iter().position(|(of, _)| *of == bus);
        let index = match known {
            Some(index) => index,
            None => {
                let table = Memory::new(self.pool, 1, self.coherent).ok_or_else(full)?;
                let entry = root_entry(table.address());
                self.contexts.push((bus, table)).map_err(|_| full())?;
                self.root.write_pair(u64::from(bus) * 16, entry);
                self.contexts.len() - 1
            }
        };
        let (_, table) = self.contexts.get(index).ok_or_else(full)?;
        Ok(table)
    }

    /// Gives every unit commands, and waits until they are done.
    fn command(&mut self, commands: &[Pair]) -> bool {
        self.units.iter_mut().all(|unit| unit.command(commands))
    }

    /// Has every unit forget entries and translations, if translation is on.
    fn forget(&mut self) -> Result<(), Complaint> {
        if !self.on {
            return Ok(());
        }
        let forgotten = self.units.iter_mut().all(Unit::forget);
        forgotten
            .then_some(())
            .ok_or_else(|| complaint(format_args!("VT-d: invalidation did not finish")))
    }

    fn set_interrupt(
        &mut self,
        source: Source,
        count: u16,
        index: u16,
        requester: Requester,
        interrupt: &Interrupt,
    ) -> Option<(u16, u16)> {
        let first = self.blocks.first(source, count, INTERRUPTS)?;
        let at = first.checked_add(index)?;
        let entry = interrupt_entry(interrupt, requester, self.extended);
        self.interrupts.write_pair(u64::from(at) * 16, entry);
        self.command(&[descriptor::INTERRUPT])
            .then_some((first, at))
    }
}

impl Hardware for Vtd {
    fn name(&self) -> &'static str {
        "vt-d"
    }

    fn describe(&self, to: &mut dyn core::fmt::Write) -> core::fmt::Result {
        write!(
            to,
            "{} unit(s), {} bits, pages up to {}, interrupt remapping {}{}",
            self.units.len(),
            self.address_end.trailing_zeros(),
            ["4K", "2M", "1G"]
                .get(usize::from(self.largest_page).saturating_sub(1))
                .unwrap_or(&"4K"),
            if self.remaps { "possible" } else { "absent" },
            if self.extended { " (x2APIC)" } else { "" },
        )
    }

    fn registers(&self) -> Vec<Range, MAX_UNITS> {
        self.units.iter().map(Unit::range).collect()
    }

    fn functions(&self) -> Vec<Requester, MAX_UNITS> {
        Vec::new()
    }

    fn can_remap(&self) -> bool {
        self.remaps
    }

    fn domain(&mut self, id: u16, ranges: &[(u64, Range)]) -> Result<Domain, Complaint> {
        let reach = self
            .address_end
            .min(if self.levels == 3 { 1 << 39 } else { 1 << 48 });
        let beyond = |(address, range): &&(u64, Range)| {
            address
                .checked_add(range.len())
                .is_none_or(|end| end > reach)
        };
        if let Some((_, range)) = ranges.iter().find(beyond) {
            return Err(complaint(format_args!(
                "VT-d: devices reach {reach:#x} bytes, which {range} is not in"
            )));
        }
        if u32::from(id) >= self.domains {
            return Err(complaint(format_args!(
                "VT-d: {} domains are too few",
                self.domains
            )));
        }
        let tables = &mut IoTables {
            pool: self.pool,
            coherent: self.coherent,
            absent: 0,
        };
        let fail = |error| complaint(format_args!("VT-d: {error}"));
        let ranges = ranges.iter().copied();
        let builder = domain::build::<VtdTable>(tables, self.largest_page, ranges).map_err(fail)?;
        let root = match self.levels {
            3 => builder.table_of_zero(tables).map_err(fail)?,
            _ => builder.root(),
        };
        Ok(Domain { id, root })
    }

    fn assign(&mut self, requester: Requester, domain: Option<Domain>) -> Result<(), Complaint> {
        let levels = self.levels;
        let [devfn, bus] = requester.0.to_le_bytes();
        let table = self.contexts(bus)?;
        let entry = domain.map_or([0, 0], |domain| {
            context_entry(domain.root, levels, domain.id)
        });
        table.write_pair(u64::from(devfn) * 16, entry);
        self.forget()
    }

    fn enable(&mut self, event: Option<u32>) -> Result<(), Complaint> {
        let root = self.root.address();
        for (index, unit) in self.units.iter_mut().enumerate() {
            unit.enable(root, event).map_err(|what| {
                complaint(format_args!("VT-d unit {index} does not answer: {what}"))
            })?;
        }
        self.on = true;
        Ok(())
    }

    fn mute(&mut self) {
        self.units.iter_mut().for_each(Unit::mute);
    }

    fn enable_interrupts(&mut self) -> Result<(), Complaint> {
        let table = self.interrupts.address() | (INTERRUPTS_LOG2 - 1);
        for (index, unit) in self.units.iter_mut().enumerate() {
            unit.enable_interrupts(table, self.extended)
                .map_err(|what| {
                    complaint(format_args!("VT-d unit {index} does not answer: {what}"))
                })?;
        }
        Ok(())
    }

    fn message(
        &mut self,
        requester: Requester,
        messages: u16,
        index: u16,
        interrupt: &Interrupt,
    ) -> Option<Message> {
        let source = Source::Function(requester);
        let (_, at) = self.set_interrupt(source, messages, index, requester, interrupt)?;
        // Of several MSIs, the first says where all of them are.
        Some(message(at, index == 0 && messages > 1))
    }

    fn redirection(&mut self, io_apic: u8, pin: u8, interrupt: &Interrupt) -> Option<u64> {
        let known = self.io_apics.iter().find(|known| known.id == io_apic);
        let requester = known?.requester;
        let source = Source::IoApic(io_apic);
        let count = u16::from(PINS);
        let (_, at) = self.set_interrupt(source, count, u16::from(pin), requester, interrupt)?;
        Some(redirection(at, interrupt))
    }

    fn take_faults(&mut self, sink: &mut dyn FnMut(Fault)) {
        for unit in &mut self.units {
            unit.take_faults(sink);
        }
    }

    fn silence(&mut self, requester: Requester) {
        let [devfn, bus] = requester.0.to_le_bytes();
        if let Ok(table) = self.contexts(bus) {
            let at = u64::from(devfn) * 16;
            let entry = [table.read(at), table.read(at + 8)];
            table.write_pair(at, without_faults(entry));
            let _ = self.forget();
        }
    }
}
