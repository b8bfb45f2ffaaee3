//! The IOMMU: what devices may reach, and whom they may interrupt.
//!
//! Which kind it is does not depend on the processor: a machine with a DMAR
//! has VT-d, one with an IVRS has AMD-Vi. All units of a machine use the same
//! tables, so that it does not matter which of them a device is behind.
//!
//! A function reaches the memory of its owner and nothing else; one that was
//! not there at boot reaches nothing. What a device tries beyond that is
//! blocked by hardware, reported, counted for its owner, and printed
//! ([`report`]).

mod amdvi;
mod domain;
pub(crate) mod guest;
mod registers;
pub(crate) mod report;
mod vtd;

use cloister_core::iommu::{Fault, Interrupt, Message, PINS, Requester, Reserved};
use cloister_core::memory::Range;
use cloister_core::pci::Kind;
use heapless::Vec;
use spin::Mutex;

use crate::arch::memory::{FramePool, PAGE};
use crate::boot::acpi::Firmware;
use crate::pci::Pci;
use crate::setup::{Complaint, complaint};

pub(crate) use domain::Domain;

/// Domain number of Linux; partition `i` (from 0) has `i + FIRST_PARTITION`.
const LINUX: u16 = 1;
const FIRST_PARTITION: u16 = 2;
const NO_MEMORY: &str = "hypervisor.memory is too small for the IOMMU's tables";
/// Most functions of one machine.
const MAX_FUNCTIONS: usize = 256;
/// Most ranges of memory that Linux has.
const MAX_RANGES: usize = 192;

/// What the two kinds do, each in its way. Everything that fails says why.
trait Hardware: Send {
    /// `vt-d` or `amd-vi`.
    fn name(&self) -> &'static str;
    /// What it has, for people.
    fn describe(&self, to: &mut dyn core::fmt::Write) -> core::fmt::Result;
    /// Where each unit's registers are.
    fn registers(&self) -> Vec<Range, { cloister_core::iommu::MAX_UNITS }>;
    /// PCI functions that are its own.
    fn functions(&self) -> Vec<Requester, { cloister_core::iommu::MAX_UNITS }>;
    /// Whether interrupts can be remapped.
    fn can_remap(&self) -> bool;
    /// Tables of a domain.
    fn domain(&mut self, id: u16, ranges: &[(u64, Range)]) -> Result<Domain, Complaint>;
    /// Lets `requester` into `domain`, or blocks it.
    fn assign(&mut self, requester: Requester, domain: Option<Domain>) -> Result<(), Complaint>;
    /// Switches translation on. `event`: APIC ID of the core to which faults
    /// are announced by NMI.
    fn enable(&mut self, event: Option<u32>) -> Result<(), Complaint>;
    /// Announces no faults any more.
    fn mute(&mut self);
    /// Switches the remapping of interrupts on: what has not been set up
    /// before is blocked.
    fn enable_interrupts(&mut self) -> Result<(), Complaint>;
    /// See [`Iommu::message`].
    fn message(
        &mut self,
        requester: Requester,
        messages: u16,
        index: u16,
        interrupt: &Interrupt,
    ) -> Option<Message>;
    /// See [`Iommu::redirection`].
    fn redirection(&mut self, io_apic: u8, pin: u8, interrupt: &Interrupt) -> Option<u64>;
    /// Takes the faults that wait, at most a few hundred.
    fn take_faults(&mut self, sink: &mut dyn FnMut(Fault));
    /// Has no further faults of `requester` recorded, where hardware can.
    fn silence(&mut self, requester: Requester);
}

/// The IOMMU of this machine.
pub(crate) struct Iommu {
    name: &'static str,
    registers: Vec<Range, { cloister_core::iommu::MAX_UNITS }>,
    own: Vec<Requester, { cloister_core::iommu::MAX_UNITS }>,
    reserved: Vec<Reserved, { cloister_core::iommu::MAX_RESERVED }>,
    can_remap: bool,
    hardware: Mutex<&'static mut dyn Hardware>,
    state: Mutex<State>,
    report: report::Reporter,
}

/// Who owns what.
#[derive(Default)]
struct State {
    /// Functions of this machine, and what bridges make of those behind them.
    functions: Vec<Requester, MAX_FUNCTIONS>,
    /// Those that partitions own, and the number of the partition.
    assigned: Vec<(Requester, usize), MAX_FUNCTIONS>,
}

/// Finds the IOMMU of the machine.
///
/// # Errors
/// It is described wrongly, or lacks what is needed.
pub(crate) fn find(
    firmware: &Firmware,
    pci: &Pci,
    pool: &'static FramePool,
) -> Result<Option<Iommu>, Complaint> {
    let mut state = State::default();
    let mut all = true;
    for info in pci.functions {
        all &= state.functions.push(Requester(info.address.0)).is_ok();
        // Requests that a bridge to conventional PCI takes over come from the
        // first function of the bus behind it (PCI Express to PCI/PCI-X Bridge
        // Specification 1.0, 2.3).
        if let Kind::Bridge { secondary, .. } = info.kind {
            let first = Requester(u16::from(secondary) << 8);
            all &= secondary == 0 || state.functions.push(first).is_ok();
        }
    }
    if !all {
        return Err(complaint(format_args!(
            "more than {MAX_FUNCTIONS} PCI functions: Cloister's IOMMU tables have no room for them"
        )));
    }
    let hardware: &'static mut dyn Hardware;
    let reserved;
    if let Some(table) = firmware.table(b"DMAR") {
        let (vtd, regions) = vtd::Vtd::find(table, pool)?;
        reserved = regions;
        hardware = keep(vtd, pool)?;
    } else if let Some(table) = firmware.table(b"IVRS") {
        let (amdvi, regions) = amdvi::AmdVi::find(table, &state.functions, pool)?;
        reserved = regions;
        hardware = keep(amdvi, pool)?;
    } else {
        return Ok(None);
    }
    let mut features = Complaint::new();
    let _ = hardware.describe(&mut features);
    log::info!("IOMMU: {}: {features}", hardware.name());
    Ok(Some(Iommu {
        name: hardware.name(),
        registers: hardware.registers(),
        own: hardware.functions(),
        can_remap: hardware.can_remap(),
        reserved,
        hardware: Mutex::new(hardware),
        state: Mutex::new(state),
        report: report::Reporter::new(),
    }))
}

/// Moves `hardware` to where it lives for ever.
fn keep<T>(hardware: T, pool: &FramePool) -> Result<&'static mut T, Complaint> {
    let pages = (size_of::<T>() as u64).div_ceil(PAGE);
    let frame = pool.pages(pages, PAGE);
    frame
        .and_then(|frame| frame.place(hardware))
        .ok_or_else(|| complaint(format_args!("{NO_MEMORY}")))
}

impl Iommu {
    /// `vt-d` or `amd-vi`.
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// Its registers, which are nobody's.
    pub(crate) fn registers(&self) -> impl Iterator<Item = Range> + '_ {
        self.registers.iter().copied()
    }

    /// PCI functions that are its own, and nobody else's: one of AMD-Vi's
    /// raises the interrupts that announce faults.
    pub(crate) fn functions(&self) -> &[Requester] {
        &self.own
    }

    /// Tables for the devices of partition `index`, in which a device's
    /// address is the partition's guest-physical one: `ranges` are
    /// guest-physical addresses and the memory that is there.
    ///
    /// # Errors
    /// The pool is empty, or the hardware does not reach that far.
    pub(crate) fn partition_domain(
        &self,
        index: usize,
        ranges: &[(u64, Range)],
    ) -> Result<Domain, Complaint> {
        let id = u16::try_from(index).unwrap_or(u16::MAX - FIRST_PARTITION);
        self.hardware.lock().domain(FIRST_PARTITION + id, ranges)
    }

    /// Lets every function into Linux's memory (`memory`, in whole pages, at
    /// its own addresses, and what the firmware reserves for devices), except
    /// those that have been or will be given to partitions. `foreign` is what
    /// is not Linux's.
    ///
    /// # Errors
    /// As [`Self::partition_domain`]; or a region that the firmware reserves
    /// for devices is foreign.
    pub(crate) fn give_to_linux(
        &self,
        memory: &[Range],
        foreign: &[Range],
    ) -> Result<(), Complaint> {
        for region in &self.reserved {
            if foreign.iter().any(|range| range.overlaps(&region.range)) {
                return Err(complaint(format_args!(
                    "the firmware reserves {} for a device's DMA, which is in use otherwise",
                    region.range
                )));
            }
        }
        let beyond = domain::beyond(memory, &self.reserved)
            .ok_or_else(|| complaint(format_args!("too many regions are reserved for devices")))?;
        let mut ranges: Vec<(u64, Range), MAX_RANGES> = Vec::new();
        for range in memory.iter().chain(&beyond) {
            ranges
                .push((range.start, *range))
                .map_err(|_| complaint(format_args!("Linux's memory is in too many pieces")))?;
        }
        let state = self.state.lock();
        let mut hardware = self.hardware.lock();
        let domain = hardware.domain(LINUX, &ranges)?;
        for &function in &state.functions {
            let is_given = state.assigned.iter().any(|(given, _)| *given == function);
            if !is_given {
                hardware.assign(function, Some(domain))?;
            }
        }
        Ok(())
    }

    /// Gives `requester` to partition `index` with `domain`.
    ///
    /// # Errors
    /// There is no such function, the firmware reserves memory for its DMA, or
    /// the pool is empty.
    pub(crate) fn assign(
        &self,
        requester: Requester,
        index: usize,
        domain: Domain,
    ) -> Result<(), Complaint> {
        let mut state = self.state.lock();
        if !state.functions.contains(&requester) {
            return Err(complaint(format_args!(
                "there is no PCI function {requester}"
            )));
        }
        let reserved = |region: &&Reserved| region.requester == Some(requester);
        if let Some(region) = self.reserved.iter().find(reserved) {
            return Err(complaint(format_args!(
                "the firmware reserves {} for the DMA of {requester}: it cannot be given away",
                region.range
            )));
        }
        state.assigned.retain(|(given, _)| *given != requester);
        let _ = state.assigned.push((requester, index));
        self.hardware.lock().assign(requester, Some(domain))
    }

    /// The partition that owns `requester`.
    pub(crate) fn owner(&self, requester: Requester) -> Option<usize> {
        let state = self.state.lock();
        let owned = state.assigned.iter().find(|(given, _)| *given == requester);
        owned.map(|&(_, index)| index)
    }

    /// Switches translation on: from here on no device reaches what is not its
    /// owner's. `event`: APIC ID of the core that is told of faults by NMI;
    /// without one they wait for [`report::look`].
    ///
    /// # Errors
    /// The hardware does not answer.
    pub(crate) fn enable(&self, event: Option<u32>) -> Result<(), Complaint> {
        self.hardware.lock().enable(event)
    }

    /// Whether the hardware can remap interrupts.
    pub(crate) const fn remaps_interrupts(&self) -> bool {
        self.can_remap
    }

    /// Switches the remapping of interrupts on: from here on a message in
    /// compatibility format, or one that was not set up, reaches nobody.
    ///
    /// # Errors
    /// The hardware does not answer.
    pub(crate) fn enable_interrupts(&self) -> Result<(), Complaint> {
        self.hardware.lock().enable_interrupts()
    }

    /// Sets up `interrupt` as number `index` of the `messages` (1 to 512) that
    /// `requester` has, and returns what the function is to be programmed
    /// with. Nobody else can raise it. For MSI with more than one message, what
    /// number 0 returns is for all of them: the function adds the number.
    ///
    /// `None`: no room, or an interrupt that cannot be remapped.
    pub(crate) fn message(
        &self,
        requester: Requester,
        messages: u16,
        index: u16,
        interrupt: &Interrupt,
    ) -> Option<Message> {
        let possible = index < messages && messages <= 512 && interrupt.vector >= 16;
        let mut hardware = self.hardware.lock();
        possible
            .then(|| hardware.message(requester, messages, index, interrupt))
            .flatten()
    }

    /// Sets up `interrupt` for pin `pin` (0 to 239) of the I/O APIC whose ID in
    /// the MADT is `io_apic`, and returns the redirection entry, not masked and
    /// with polarity 0: the caller adds both.
    ///
    /// `None`: as for [`Self::message`], or the firmware does not tell which
    /// requester that I/O APIC is.
    pub(crate) fn redirection(&self, io_apic: u8, pin: u8, interrupt: &Interrupt) -> Option<u64> {
        let mut hardware = self.hardware.lock();
        (interrupt.vector >= 16 && pin < PINS)
            .then(|| hardware.redirection(io_apic, pin, interrupt))
            .flatten()
    }
}
