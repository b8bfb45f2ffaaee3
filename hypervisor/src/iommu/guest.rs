//! What guests have programmed into I/O APICs and message capabilities, where
//! interrupts are remapped: hardware holds what names an entry of the IOMMU's
//! table, and what the guest wrote is kept here. Whoever reads it back (the
//! guest, the filter, the search for routes) finds that.
//!
//! What comes here has been looked at: it goes to cores of its owner.

use cloister_core::acpi::IoApic;
use cloister_core::iommu::{Interrupt, PINS, Requester};
use cloister_core::pci::{self, Address, FunctionInfo, MsixTable};
use heapless::Vec;
use spin::{Mutex, Once};

use super::{Iommu, MAX_FUNCTIONS};
use crate::arch::memory::{FramePool, PAGE};
use crate::arch::paging::device_write;
use crate::arch::routes::raw_msix_entry;
use crate::arch::window::Window;

/// Redirection entry: masked; polarity.
const MASKED: u32 = 1 << 16;
const POLARITY: u32 = 1 << 13;
/// Control register of MSI, as the upper half of its word: on; 64-bit address;
/// how many are used.
const MSI_ENABLE: u32 = 1 << 16;
const MSI_WIDE: u32 = 1 << 23;
const MSI_COUNT: u32 = 20;
/// Most messages of MSI.
const MSI_MESSAGES: u16 = 32;
/// Most MSI-X tables, and I/O APICs.
const MAX_TABLES: usize = 96;
const MAX_IO_APICS: usize = 8;

/// What is needed to translate.
struct Remapping {
    iommu: &'static Iommu,
    functions: &'static [FunctionInfo],
    pool: &'static FramePool,
}

static REMAPPING: Once<Remapping> = Once::new();

/// What guests wrote.
struct Written {
    /// Redirection entries, by the I/O APIC's address.
    pins: Vec<(u32, [u64; PINS as usize]), MAX_IO_APICS>,
    /// Address, upper address, data.
    messages: Vec<(Address, [u32; 3]), MAX_FUNCTIONS>,
    /// MSI-X tables, by address.
    tables: Vec<(u64, Window), MAX_TABLES>,
}

static WRITTEN: Mutex<Written> = Mutex::new(Written {
    pins: Vec::new(),
    messages: Vec::new(),
    tables: Vec::new(),
});

/// From now on everything is translated. All pins are masked, and no function
/// sends messages.
pub(crate) fn begin(
    iommu: &'static Iommu,
    functions: &'static [FunctionInfo],
    pool: &'static FramePool,
) {
    REMAPPING.call_once(|| Remapping {
        iommu,
        functions,
        pool,
    });
}

/// Whether interrupts are remapped.
pub(crate) fn is_on() -> bool {
    REMAPPING.get().is_some()
}

/// The halves of the redirection entry of `pin`, as Linux wrote them.
pub(crate) fn pin(io_apic: &IoApic, pin: u32) -> (u32, u32) {
    let written = WRITTEN.lock();
    let mut all = written.pins.iter();
    let found = all.find(|(address, _)| *address == io_apic.address);
    let entry = found.and_then(|(_, pins)| pins.get(pin as usize)).copied();
    halves(entry.unwrap_or(u64::from(MASKED)))
}

fn halves(entry: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = entry.to_le_bytes();
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

/// Remembers the halves that Linux writes for `pin`, and returns those that
/// hardware gets: masked if it cannot be remapped.
pub(crate) fn set_pin(io_apic: &IoApic, pin: u32, low: u32, high: u32) -> (u32, u32) {
    let mut written = WRITTEN.lock();
    let known = |(address, _): &(u32, _)| *address == io_apic.address;
    let position = match written.pins.iter().position(known) {
        Some(position) => position,
        None => {
            let masked = [u64::from(MASKED); PINS as usize];
            let _ = written.pins.push((io_apic.address, masked));
            written.pins.len().saturating_sub(1)
        }
    };
    let Some((_, pins)) = written.pins.get_mut(position) else {
        return (MASKED, 0);
    };
    if let Some(entry) = pins.get_mut(pin as usize) {
        *entry = u64::from(high) << 32 | u64::from(low);
    }
    drop(written);
    let translated = || {
        let interrupt = Interrupt::from_redirection(low, high)?;
        let remapping = REMAPPING.get()?;
        let number = u8::try_from(pin).ok()?;
        let iommu = remapping.iommu;
        iommu.redirection(io_apic.id, number, &interrupt)
    };
    match translated() {
        Some(entry) => {
            let (to, above) = halves(entry);
            (to | low & POLARITY, above)
        }
        None => (low & POLARITY | MASKED, 0),
    }
}

fn function(at: Address) -> Option<(&'static Remapping, &'static FunctionInfo)> {
    let remapping = REMAPPING.get()?;
    let mut functions = remapping.functions.iter();
    Some((remapping, functions.find(|info| info.address == at)?))
}

/// Which of the three message registers the aligned `offset` is, for MSI at
/// `capability` whose first word is `control`.
fn message_register(capability: u8, control: u32, offset: u16) -> Option<usize> {
    let wide = control & MSI_WIDE != 0;
    match offset.checked_sub(u16::from(capability))? {
        4 => Some(0),
        8 if wide => Some(1),
        8 => Some(2),
        12 if wide => Some(2),
        _ => None,
    }
}

fn message_registers(at: Address) -> [u32; 3] {
    let written = WRITTEN.lock();
    let mut all = written.messages.iter();
    all.find(|(of, _)| *of == at)
        .map_or([0; 3], |(_, registers)| *registers)
}

/// The aligned register at `offset` of `at`, if it is one of MSI's message
/// registers. `raw` reads hardware.
pub(crate) fn read_config(at: Address, offset: u16, raw: impl Fn(u16) -> u32) -> Option<u32> {
    let (_, info) = function(at)?;
    let capability = info.capabilities.msi;
    if capability == 0 || offset < u16::from(capability) {
        return None;
    }
    let index = message_register(capability, raw(u16::from(capability)), offset)?;
    message_registers(at).get(index).copied()
}

/// A write of the low `width` bytes of `value` at `offset` of `at`. `raw` reads
/// hardware's registers, or writes them. Returns whether it has been served;
/// if not, it is done as it is.
pub(crate) fn write_config(
    at: Address,
    (offset, width, value): (u16, u8, u32),
    mut raw: impl FnMut(u16, Option<u32>) -> u32,
) -> bool {
    let Some((remapping, info)) = function(at) else {
        return false;
    };
    let capability = u16::from(info.capabilities.msi);
    let aligned = offset & !3;
    let Some(lanes) =
        pci::lanes(offset, width).filter(|_| capability != 0 && aligned >= capability)
    else {
        return false;
    };
    let merge = |old: u32| old & !lanes | (value << (offset % 4 * 8)) & lanes;
    let control = raw(capability, None);
    let mut registers = message_registers(at);
    if aligned == capability {
        let control = merge(control);
        // Without a place in the table MSI stays off.
        return control & MSI_ENABLE != 0
            && !program(remapping, info, control, registers, &mut raw);
    }
    let Some(index) = message_register(info.capabilities.msi, control, aligned) else {
        return false;
    };
    if let Some(register) = registers.get_mut(index) {
        *register = merge(*register);
    }
    let mut written = WRITTEN.lock();
    match written.messages.iter_mut().find(|(of, _)| *of == at) {
        Some((_, known)) => *known = registers,
        None => {
            let _ = written.messages.push((at, registers));
        }
    }
    drop(written);
    if control & MSI_ENABLE != 0 {
        program(remapping, info, control, registers, &mut raw);
    }
    true
}

/// How many messages the function can have.
fn messages(info: &FunctionInfo) -> u16 {
    let msi = if info.capabilities.msi != 0 {
        MSI_MESSAGES
    } else {
        1
    };
    info.msix_table.map_or(msi, |table| table.entries.max(msi))
}

/// Sets up what the message registers ask for; says whether all of it was.
fn program(
    remapping: &Remapping,
    info: &FunctionInfo,
    control: u32,
    [low, high, data]: [u32; 3],
    raw: &mut impl FnMut(u16, Option<u32>) -> u32,
) -> bool {
    let address = u64::from(high) << 32 | u64::from(low & !3);
    let count = 1_u16 << (control >> MSI_COUNT & 7).min(5);
    let mut first = None;
    for number in (0..count).rev() {
        let numbers = u32::from(count) - 1;
        let data = data & 0xffff & !numbers | u32::from(number);
        let interrupt = Interrupt::from_message(address, data);
        let requester = Requester(info.address.0);
        let iommu = remapping.iommu;
        first =
            interrupt.and_then(|asked| iommu.message(requester, messages(info), number, &asked));
        if first.is_none() {
            return false;
        }
    }
    let Some(message) = first else {
        return false;
    };
    let capability = u16::from(info.capabilities.msi);
    let (low, high) = halves(message.address);
    raw(capability + 4, Some(low));
    if control & MSI_WIDE == 0 {
        raw(capability + 8, Some(message.data));
    } else {
        raw(capability + 8, Some(high));
        raw(capability + 12, Some(message.data));
    }
    true
}

/// Entry `number` of the MSI-X table at `table`, as it was written; `None`
/// where none of it was.
pub(crate) fn table_entry(table: u64, number: u64) -> Option<[u32; 4]> {
    let written = WRITTEN.lock();
    let (_, window) = written.tables.iter().find(|(at, _)| *at == table)?;
    let mut bytes = [0; 16];
    window
        .read(number.checked_mul(MsixTable::ENTRY)?, &mut bytes)
        .then(|| {
            let (low, high) = bytes.split_at(8);
            let word = |half: &[u8]| half.try_into().map_or(0, u64::from_le_bytes);
            let (a, b) = halves(word(low));
            let (c, d) = halves(word(high));
            [a, b, c, d]
        })
}

/// A guest makes entry `number` of the table at `table`, which has `entries` and
/// is one of `at`, read `entry`.
pub(crate) fn set_table_entry(
    at: Address,
    (table, entries): (u64, u16),
    number: u64,
    entry: [u32; 4],
) {
    let Some((remapping, info)) = function(at) else {
        return;
    };
    let mut written = WRITTEN.lock();
    if !written.tables.iter().any(|(known, _)| *known == table) {
        let pages = (u64::from(entries) * MsixTable::ENTRY).div_ceil(PAGE);
        let Some(mut frame) = remapping.pool.pages(pages, PAGE) else {
            log::error!("hypervisor.memory is used up: the MSI-X table of {at}");
            return;
        };
        let window = Window::new(&mut frame);
        for number in 0..u64::from(entries) {
            let words = raw_msix_entry(table, number).unwrap_or([0, 0, 0, 1]);
            store(&window, number, words);
        }
        if written.tables.push((table, window)).is_err() {
            log::error!("more than {MAX_TABLES} MSI-X tables: that of {at} is left out");
            return;
        }
    }
    let found = written.tables.iter().find(|(known, _)| *known == table);
    if let Some((_, window)) = found {
        store(window, number, entry);
    }
    drop(written);
    let hardware = table + number * MsixTable::ENTRY;
    let message = pci::msix_message(entry).and_then(|message| {
        let interrupt = Interrupt::from_message(message.address, message.data)?;
        let number = u16::try_from(number).ok()?;
        let requester = Requester(at.0);
        let iommu = remapping.iommu;
        iommu.message(requester, messages(info), number, &interrupt)
    });
    let Some(message) = message else {
        return device_write(hardware + 12, entry[3] | 1);
    };
    let (low, high) = halves(message.address);
    device_write(hardware, low);
    device_write(hardware + 4, high);
    device_write(hardware + 8, message.data);
    device_write(hardware + 12, entry[3]);
}

fn store(window: &Window, number: u64, entry: [u32; 4]) {
    for (offset, word) in (0..).step_by(4).zip(entry) {
        window.write_u32(number * MsixTable::ENTRY + offset, word);
    }
}
