//! Linux: its address space, and everything that the 64-bit boot protocol
//! wants in memory (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

use core::sync::atomic::{AtomicU8, Ordering};

use cloister_abi::LinuxState;
use cloister_core::acpi::{RootTables, build_root, filter_madt, hidden_from_linux};
use cloister_core::bzimage::{self, BootData, ENTRY_64, Kernel};
use cloister_core::memory::{Range, kind};
use cloister_core::nested::{MapError, MemoryType, Rights};
use heapless::Vec;

use crate::arch::memory::{Block, FramePool, PAGE};
use crate::boot::acpi::Firmware;
use crate::boot::claim::Claimed;
use crate::partition::load::APIC_PAGE;
use crate::pci::Selected;
use crate::virt::guest::Guest;
use crate::virt::{GuestKind, LongEntry, Permissions, Vendor};

/// Most ranges that are not Linux's: hypervisor, partitions, kept modules,
/// IOMMUs, partitions' PCI functions.
pub(crate) const MAX_FOREIGN: usize = 160;
const GIB: u64 = 1 << 30;
const FOUR_GIB: u64 = 4 * GIB;

/// Where things are in the boot data, from its start. Four GiB of identity
/// map: PML4, PDPT and four page directories.
const PARAMS: u64 = 0;
const COMMAND_LINE: u64 = 0x1000;
const GDT: u64 = 0x2000;
const PML4: u64 = 0x3000;
const PDPT: u64 = 0x4000;
const PDS: u64 = 0x5000;
const ACPI: u64 = 0x9000;
const ACPI_BYTES: usize = 0x7000;

/// The housekeeping guest.
pub(crate) struct Linux<V: Vendor> {
    pub(crate) guest: Guest<V>,
    pub(crate) entry: LongEntry,
    /// What it has written to the configuration address port.
    pub(crate) selected: Selected,
    state: AtomicU8,
    foreign: Vec<Range, MAX_FOREIGN>,
}

/// What Linux is made from.
pub(crate) struct Source<'a> {
    pub(crate) config: &'a cloister_manifest::Linux,
    pub(crate) memory: &'a Claimed,
    pub(crate) firmware: &'a Firmware,
    pub(crate) kernel: Kernel<'a>,
    pub(crate) initrd: Option<Range>,
    /// Everything that is not Linux's.
    pub(crate) foreign: &'a [Range],
    /// APIC IDs of its cores.
    pub(crate) apic_ids: &'a [u32],
    /// Machine's end of memory and devices known at boot.
    pub(crate) top: u64,
    pub(crate) gib_pages: bool,
}

type Error = heapless::String<200>;

fn say(what: &str, error: impl core::fmt::Display) -> Error {
    let mut text = Error::new();
    let _ = core::fmt::write(&mut text, format_args!("{what}: {error}"));
    text
}

impl<V: Vendor> Linux<V> {
    /// Makes the guest and loads the kernel.
    ///
    /// # Errors
    /// In words.
    pub(crate) fn create(source: &Source<'_>) -> Result<Self, Error> {
        const NO_MEMORY: &str = "hypervisor.memory is too small for its tables";
        let cpus = source.config.cpus;
        let pool = source.memory.pool;
        let mut guest = Guest::<V>::new(GuestKind::Linux, cpus, 1, pool, source.gib_pages)
            .ok_or_else(|| say("linux", NO_MEMORY))?;
        let foreign = foreign(source)?;
        map(&mut guest, source, &foreign, pool).map_err(|_| say("linux", NO_MEMORY))?;
        let entry = load(source)?;
        Ok(Self {
            guest,
            entry,
            selected: Selected::new(0),
            state: AtomicU8::new(LinuxState::Loaded as u8),
            foreign,
        })
    }

    /// Where it stands.
    pub(crate) fn state(&self) -> LinuxState {
        LinuxState::from_code(self.state.load(Ordering::Acquire)).unwrap_or(LinuxState::Failed)
    }

    /// Moves on.
    pub(crate) fn set_state(&self, state: LinuxState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Whether `address` is memory that somebody else owns.
    pub(crate) fn is_foreign(&self, address: u64) -> bool {
        self.foreign
            .iter()
            .any(|range| (range.start..range.end).contains(&address))
    }

    /// Whether anything from `first` to `last` is memory that somebody else owns.
    pub(crate) fn reaches_foreign(&self, first: u64, last: u64) -> bool {
        self.foreign
            .iter()
            .any(|range| range.start <= last && first < range.end)
    }

    /// Maps the 2 MiB around `address`, where no memory is: a device's
    /// registers above what was mapped at boot. Says whether it is mapped: as
    /// long as enough is left for the partitions' tables, of which a sweep over
    /// all addresses would leave nothing.
    pub(crate) fn map_device(&self, address: u64) -> bool {
        const LARGE: u64 = 2 << 20;
        const RESERVE: u64 = 1 << 20;
        if self.guest.tables_left() < RESERVE {
            return false;
        }
        let start = address & !(LARGE - 1);
        self.guest.with_nested(|nested, tables| {
            nested.lookup(tables, address).is_some()
                || nested
                    .map(
                        tables,
                        start,
                        start,
                        LARGE,
                        Rights::RW,
                        MemoryType::Uncacheable,
                    )
                    .is_ok()
        })
    }
}

/// Everything that is not Linux's, in whole pages.
fn foreign(source: &Source<'_>) -> Result<Vec<Range, MAX_FOREIGN>, Error> {
    let mut foreign = Vec::new();
    for range in source.foreign {
        let pages = Range {
            start: range.start & !(PAGE - 1),
            end: range.end.next_multiple_of(PAGE),
        };
        foreign
            .push(pages)
            .map_err(|_| say("linux", "more than 160 foreign ranges"))?;
    }
    Ok(foreign)
}

/// Identity-maps memory, with the types that firmware gave it, and devices,
/// uncached; what is foreign reads as ones. Writes to the local APIC's page
/// exit.
fn map<V: Vendor>(
    guest: &mut Guest<V>,
    source: &Source<'_>,
    foreign: &[Range],
    pool: &FramePool,
) -> Result<(), MapError> {
    let mut ones = pool.page().ok_or(MapError::OutOfTables)?;
    ones.bytes().fill(0xff);
    let mut identity: Vec<Range, 128> = Vec::new();
    let types = V::memory_types();
    guest.with_nested(|nested, tables| {
        let mut next = 0;
        let top = source.top.max(FOUR_GIB);
        let device = |nested: &mut cloister_core::nested::Builder<V::Format>,
                      tables: &mut crate::arch::paging::PoolTables<'_>,
                      from: u64,
                      to: u64| {
            if from < to {
                nested.map(
                    tables,
                    from,
                    from,
                    to - from,
                    Rights::RWX,
                    MemoryType::Uncacheable,
                )
            } else {
                Ok(())
            }
        };
        for entry in source.memory.e820.iter() {
            let range = entry.range();
            let start = (range.start & !(PAGE - 1)).max(next);
            let end = range.end.next_multiple_of(PAGE).min(top);
            let is_memory = matches!(entry.kind, kind::USABLE | kind::ACPI | kind::NVS);
            if !is_memory || start >= end {
                continue;
            }
            device(nested, tables, next, start)?;
            let memory = Range { start, end };
            let mut map = |piece: Range, kind| {
                let (at, length) = (piece.start, piece.len());
                nested.map(tables, at, at, length, Rights::RWX, kind)
            };
            match &types {
                Some(types) => types
                    .runs(memory)
                    .try_for_each(|(run, kind)| map(run, kind))?,
                None => map(memory, MemoryType::WriteBack)?,
            }
            let _ = identity.push(memory);
            next = end;
        }
        device(nested, tables, next, top)?;
        for range in foreign {
            nested.unmap(tables, range.start, range.len())?;
            let page = ones.address();
            nested.map_same_page(tables, range.start, range.len(), page, Rights::READ)?;
        }
        nested.remap_page(
            tables,
            APIC_PAGE,
            APIC_PAGE,
            Rights::READ,
            MemoryType::Uncacheable,
        )
    })?;
    for range in identity {
        guest.note_memory(range.start, range.start, range.len());
    }
    Ok(())
}

/// What exits: the ports in `ports`, and the MSRs that the policy names.
pub(crate) fn permit<V: Vendor>(guest: &mut Guest<V>, ports: impl Iterator<Item = u16>) {
    crate::exit::msr::permit::<V>(&mut guest.permissions, cloister_core::policy::Guest::Linux);
    for port in 0..=u16::MAX {
        guest.permissions.set_port(port, false);
    }
    for port in ports {
        guest.permissions.set_port(port, true);
    }
}

/// Puts kernel and boot data into memory.
fn load(source: &Source<'_>) -> Result<LongEntry, Error> {
    let missing = || say("linux", "no memory was planned for it");
    let kernel = source.memory.kernel.as_ref().ok_or_else(missing)?;
    let data = source.memory.boot_data.as_ref().ok_or_else(missing)?;
    let (load_address, base) = (kernel.range().start, data.range().start);
    if !kernel.write(0, source.kernel.payload()) {
        return Err(missing());
    }
    let command_line = source.config.cmdline.as_bytes();
    if command_line.len() as u64 > u64::from(source.kernel.command_line_size()) {
        return Err(say("linux.cmdline", "longer than this kernel takes"));
    }
    data.zero();
    data.write(COMMAND_LINE, command_line);
    for (index, entry) in (0..).zip([0, 0, 0x00af_9b00_0000_ffff_u64, 0x00cf_9300_0000_ffff]) {
        data.entry(GDT, index, entry);
    }
    identity_tables(data);

    let mut acpi = [0; ACPI_BYTES];
    let rsdp = acpi_copies(source, base + ACPI, &mut acpi)?;
    data.write(ACPI, &acpi);
    let boot = BootData {
        load_address,
        command_line: base + COMMAND_LINE,
        initrd: source.initrd.map(|range| (range.start, range.len())),
        rsdp,
    };
    let mut params = [0; bzimage::BOOT_PARAMS_SIZE];
    let e820 = source.memory.e820.iter().map(|entry| bzimage::E820Entry {
        start: entry.start,
        length: entry.len,
        kind: e820_kind(entry.kind),
    });
    bzimage::boot_params(&mut params, &source.kernel, &boot, e820)
        .map_err(|error| say("linux.kernel", error))?;
    data.write(PARAMS, &params);
    Ok(LongEntry {
        rip: load_address + ENTRY_64,
        rsp: base + GDT + PAGE - 16,
        cr3: base + PML4,
        rdi: 0,
        rsi: base + PARAMS,
        gdt: base + GDT,
        gdt_limit: 31,
        code_selector: 0x10,
        data_selector: 0x18,
    })
}

fn e820_kind(kind: u32) -> bzimage::E820Kind {
    match kind {
        1 => bzimage::E820Kind::Ram,
        3 => bzimage::E820Kind::Acpi,
        4 => bzimage::E820Kind::Nvs,
        5 => bzimage::E820Kind::Unusable,
        7 => bzimage::E820Kind::Persistent,
        _ => bzimage::E820Kind::Reserved,
    }
}

/// The page tables that the protocol wants: four GiB at their own addresses.
fn identity_tables(data: &Block) {
    const TABLE: u64 = 0x03;
    const LARGE: u64 = 0x83;
    let base = data.range().start;
    data.entry(PML4, 0, (base + PDPT) | TABLE);
    for gib in 0..4 {
        let directory = PDS + gib * PAGE;
        data.entry(PDPT, gib, (base + directory) | TABLE);
        for page in 0..512 {
            data.entry(directory, page, (gib * GIB + page * (2 << 20)) | LARGE);
        }
    }
}

/// Copies of the ACPI tables in which only Linux's cores exist, at physical
/// `address`. Returns that of the RSDP.
fn acpi_copies(source: &Source<'_>, address: u64, data: &mut [u8]) -> Result<u64, Error> {
    const ROOT_BYTES: usize = 1024;
    let mut tables: Vec<([u8; 4], u64), 64> = Vec::new();
    let keep = |apic_id: u32| source.apic_ids.contains(&apic_id);
    let mut used = ROOT_BYTES;
    for table in &source.firmware.tables {
        if hidden_from_linux(&table.signature) {
            continue;
        }
        let mut at = table.bytes.as_ptr() as u64;
        if table.signature == *b"APIC" {
            let room = data.get_mut(used..).unwrap_or(&mut []);
            let length = filter_madt(table.bytes, &keep, room)
                .map_err(|error| say("linux: the copy of the MADT", error))?;
            at = address + used as u64;
            used += length.next_multiple_of(16);
        }
        let _ = tables.push((table.signature, at));
    }
    let root = RootTables {
        oem_id: source.firmware.oem_id,
        oem_table_id: *b"CLOISTER",
        xsdt: source.firmware.revision >= 2,
        tables: &tables,
    };
    let room = data.get_mut(..ROOT_BYTES).unwrap_or(&mut []);
    let root = build_root(&root, address, room)
        .map_err(|error| say("linux: the copy of the ACPI root", error))?;
    Ok(root.rsdp)
}
