//! Loading a partition: its program, the tables it starts with, the shared
//! pages. The layout is `cloister_abi::shared`.

use core::sync::atomic::Ordering;

use cloister_abi::control::PartitionStatus;
use cloister_abi::device::DeviceTable;
use cloister_abi::shared::{ConsoleRing, INFO_MAGIC, PROGRAM_BASE, PartitionInfo, STACK_SIZE};
use cloister_abi::{Dataplane, VERSION};
use cloister_core::elf::Program;
use cloister_core::nested::{MemoryType, Rights};
use spin::Mutex;

use crate::arch::apic;
use crate::arch::memory::{Block, Frame, FramePool, PAGE};
use crate::control::statistics::set_text;
use crate::cores;
use crate::partition::channels::Channels;
use crate::partition::{Image, Life, Partition};
use crate::pci::{self, Selected};
use crate::virt::guest::Guest;
use crate::virt::{GuestKind, LongEntry, Permissions, Vendor};

/// Guest-physical addresses in the loader's first MiB. Page 0 is not mapped.
const GDT: u64 = 0x1000;
const PML4: u64 = 0x2000;
const PDPT: u64 = 0x3000;
/// Page table of the first 2 MiB.
const PT: u64 = 0x4000;
/// Page directory of the shared pages, and of the APIC page.
const SHARED_PD: u64 = 0x5000;
const APIC_PD: u64 = 0x6000;
/// One page directory for each GiB of RAM.
const PDS: u64 = 0x7000;

/// Most RAM of a partition: its page directories and stacks fit below
/// `PROGRAM_BASE`.
pub(crate) const MAX_MEMORY: u64 = 128 << 30;
/// Where the local APIC is.
pub(crate) const APIC_PAGE: u64 = 0xfee0_0000;

const GIB: u64 = 1 << 30;
const LARGE: u64 = 2 << 20;
const LARGE_PAGES: u64 = 512;

/// A GDT for 64-bit ring 0: null, code 0x08, data 0x10.
pub(crate) const GDT_ENTRIES: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Page-table entry flags: present, writable; and a 2 MiB page.
const TABLE: u64 = 0x03;
const LARGE_LEAF: u64 = 0x83;
/// Cache disable and write-through, for device registers.
const DEVICE: u64 = 0x18;

/// Guest-physical address of the shared pages of a partition with so much RAM.
pub(crate) const fn shared_base(memory: u64) -> u64 {
    memory.next_multiple_of(GIB)
}

/// What a partition is made of.
pub(crate) struct Source {
    pub(crate) config: &'static cloister_manifest::Partition,
    /// Its place in the manifest.
    pub(crate) index: usize,
    /// ASID or VPID.
    pub(crate) asid: u16,
    /// Its RAM.
    pub(crate) block: Block,
    /// Its program.
    pub(crate) image: &'static [u8],
    /// Where its state is kept.
    pub(crate) status: &'static PartitionStatus,
    /// All channels.
    pub(crate) channels: &'static Channels,
    /// Its PCI functions.
    pub(crate) devices: &'static [pci::Assigned],
    pub(crate) gib_pages: bool,
}

/// Makes a partition: maps nothing of its RAM yet, and loads its program.
///
/// # Errors
/// In words, without the partition's name.
pub(crate) fn create<V: Vendor>(
    source: Source,
    pool: &'static FramePool,
) -> Result<Partition<V>, heapless::String<160>> {
    let Source {
        config,
        index,
        asid,
        block,
        image,
        status,
        channels,
        devices,
        gib_pages,
    } = source;
    const NO_MEMORY: &str = "hypervisor.memory is too small for its tables; make it larger";
    const BARS: &str = "its functions' BARs cannot be mapped: hypervisor.memory is too small, or \
                        they are at the local APIC's or each other's addresses";
    let say = |text: &str| heapless::String::try_from(text).unwrap_or_default();
    let no_memory = || say(NO_MEMORY);
    if block.len() > MAX_MEMORY {
        return Err(say("memory is over 128G"));
    }
    let mut guest = Guest::<V>::new(GuestKind::Partition, config.cpus, asid, pool, gib_pages)
        .ok_or_else(no_memory)?;
    permit(&mut guest, config, devices);
    guest.note_memory(0, block.range().start, block.len());
    if let Some(types) = V::memory_types()
        && let Some((run, kind)) = types
            .runs(block.range())
            .find(|(_, kind)| *kind != MemoryType::WriteBack)
    {
        log::warn!(
            "partition \"{}\": the firmware's MTRRs make its memory at {run} {kind:?}; it is \
             mapped write-back",
            config.name
        );
    }

    let shared = shared_base(config.memory);
    let info: &'static mut PartitionInfo =
        pool.page().and_then(Frame::zeroed).ok_or_else(no_memory)?;
    let console: &'static ConsoleRing = pool
        .pages(size_of::<ConsoleRing>() as u64 / PAGE, PAGE)
        .and_then(Frame::zeroed)
        .ok_or_else(no_memory)?;
    let mut at = shared;
    let mut add = |hpa: u64, len: u64, rights| {
        let gpa = at;
        at += len;
        guest
            .map(gpa, hpa, len, rights)
            .map(|()| gpa)
            .map_err(|_| no_memory())
    };
    add(address(info), PAGE, Rights::READ)?;
    for core in config.cpus.iter() {
        let counters = cores::core(core)
            .counters()
            .ok_or_else(|| say("a core is missing"))?;
        add(address(counters), PAGE, Rights::READ)?;
    }
    let size = size_of::<ConsoleRing>() as u64;
    info.console_gpa = add(address(console), size, Rights::RW)?;
    info.counters_gpa = shared + PAGE;
    if let Some(table) = channels.table(index) {
        info.channels_gpa = add(address(table), PAGE, Rights::READ)?;
    }
    channels.map(index, &guest).map_err(|_| no_memory())?;
    if !devices.is_empty() {
        let table: &'static mut DeviceTable =
            pool.page().and_then(Frame::zeroed).ok_or_else(no_memory)?;
        pci::describe(devices, block.range().start, table);
        info.devices_gpa = add(address(table), PAGE, Rights::READ)?;
        pci::map(devices, &guest).map_err(|_| say(BARS))?;
    }
    if config.apic && !apic::is_x2apic_machine() {
        guest
            .with_nested(|nested, tables| {
                let (at, rights) = (APIC_PAGE, Rights::READ);
                nested.map(tables, at, at, PAGE, rights, MemoryType::Uncacheable)
            })
            .map_err(|_| say("memory reaches the APIC page at 0xfee00000; give it less"))?;
    }
    describe::<V>(config, info);
    show(config, status);
    let partition = Partition {
        config,
        guest,
        block,
        shared,
        channels,
        channel_pages: channels.large_pages(index, shared),
        info,
        console,
        image: Mutex::new(Image::Module(image)),
        devices,
        selected: Selected::new(0),
        life: Life::new(status),
    };
    Program::parse(image, partition.block.len()).map_err(|error| {
        let mut text = heapless::String::new();
        let _ = core::fmt::write(
            &mut text,
            format_args!("program \"{}\": {error}", config.program),
        );
        text
    })?;
    fill(&partition);
    Ok(partition)
}

/// Lets through what the manifest and the policy give to the partition.
fn permit<V: Vendor>(
    guest: &mut Guest<V>,
    config: &cloister_manifest::Partition,
    devices: &[pci::Assigned],
) {
    crate::exit::msr::permit::<V>(
        &mut guest.permissions,
        cloister_core::policy::Guest::Partition { apic: config.apic },
    );
    let bars = devices.iter().flat_map(|device| pci::ports(device.info));
    let own = config.ports.iter().flat_map(|range| range.iter());
    for port in own.chain(bars.flat_map(|(first, last)| first..=last)) {
        guest.permissions.set_port(port, false);
    }
}

/// Where `thing` is: the hypervisor's memory is mapped at its own address.
fn address<T>(thing: &T) -> u64 {
    core::ptr::from_ref(thing) as u64
}

/// Fills in the `PartitionInfo`, but for addresses.
fn describe<V: Vendor>(config: &cloister_manifest::Partition, info: &mut PartitionInfo) {
    info.magic = INFO_MAGIC;
    info.version = VERSION;
    info.cores = u32::try_from(config.cpus.len()).unwrap_or(0);
    info.memory = config.memory;
    info.allowed = config.dataplane.with_implied().bits() & Dataplane::all().bits();
    info.tsc_hz = crate::exit::cpuid::tsc_hz();
    info.vendor = V::HYPERCALL;
    info.apic = match (config.apic, apic::is_x2apic_machine()) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    };
    info.name_len = copy(&mut info.name, config.name.as_bytes());
    info.args_len = copy(&mut info.args, config.args.as_bytes());
}

/// Shows in the status table what never changes.
fn show(config: &cloister_manifest::Partition, status: &PartitionStatus) {
    let cpus = config.cpus.iter().map(|core| 1_u64 << core);
    let allowed = config.dataplane.with_implied().bits();
    status.cpus.store(cpus.sum(), Ordering::Relaxed);
    status.memory.store(config.memory, Ordering::Relaxed);
    status.allowed.store(allowed, Ordering::Relaxed);
    set_text(&status.name, &status.name_length, &config.name);
}

fn copy(to: &mut [u8], from: &[u8]) -> u32 {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    u32::try_from(from.len().min(to.len())).unwrap_or(0)
}

/// Brings the partition's memory into the state in which its program starts:
/// zero but for the program's segments and the tables.
pub(crate) fn fill<V: Vendor>(partition: &Partition<V>) {
    let memory = &partition.block;
    memory.zero();
    let mut image = partition.image.lock();
    let Ok(program) = Program::parse(image.bytes(), memory.len()) else {
        return;
    };
    for segment in program.segments() {
        memory.write(segment.gpa, segment.file);
    }
    for (index, entry) in (0..).zip(GDT_ENTRIES) {
        memory.entry(GDT, index, entry);
    }
    page_tables(
        memory,
        partition.shared,
        partition.channel_pages,
        partition.config.apic && !apic::is_x2apic_machine(),
    );
    let restarts = partition.life.status.restarts.load(Ordering::Relaxed);
    partition.info.restarts.store(restarts, Ordering::Relaxed);
    partition.console.written.store(0, Ordering::Relaxed);
    for byte in &partition.console.bytes {
        byte.store(0, Ordering::Relaxed);
    }
    *partition.life.printed.lock() = 0;
}

/// Takes back what first touches have mapped, so that the next run's are
/// counted like the first run's. What POPULATE mapped stays. The tables stay
/// as well: nothing is allocated or freed. No core of the partition is in its
/// guest, and each drops its translations before it enters again.
pub(crate) fn untouch<V: Vendor>(partition: &Partition<V>) {
    if partition.life.populated.load(Ordering::Acquire) {
        return;
    }
    partition.guest.with_nested(|nested, tables| {
        for page in 0..partition.block.len() / LARGE {
            let gpa = page * LARGE;
            if nested.lookup(tables, gpa).is_some() {
                let _ = nested.unmap(tables, gpa, LARGE);
            }
        }
    });
}

/// Identity-maps RAM, the shared pages, so many large pages of channels above
/// them and, if it has one, the APIC.
fn page_tables(memory: &Block, shared: u64, channels: u64, apic: bool) {
    memory.entry(PML4, 0, PDPT | TABLE);
    for page in 1..LARGE_PAGES {
        memory.entry(PT, page, (page * PAGE) | TABLE);
    }
    for gib in 0..memory.len().div_ceil(GIB) {
        let directory = PDS + gib * PAGE;
        memory.entry(PDPT, gib, directory | TABLE);
        for page in 0..LARGE_PAGES {
            let address = gib * GIB + page * LARGE;
            if address < memory.len() {
                memory.entry(directory, page, address | LARGE_LEAF);
            }
        }
    }
    memory.entry(PDS, 0, PT | TABLE);
    for page in 0..=channels {
        memory.entry(SHARED_PD, page, (shared + page * LARGE) | LARGE_LEAF);
    }
    memory.entry(PDPT, shared / GIB, SHARED_PD | TABLE);
    if apic {
        let large = APIC_PAGE & !(LARGE - 1);
        let gib = APIC_PAGE / GIB;
        let directory = match gib {
            gib if gib < memory.len().div_ceil(GIB) => PDS + gib * PAGE,
            gib if gib == shared / GIB => SHARED_PD,
            _ => APIC_PD,
        };
        memory.entry(directory, large % GIB / LARGE, large | LARGE_LEAF | DEVICE);
        memory.entry(PDPT, gib, directory | TABLE);
    }
}

/// The state in which core number `index` of the partition starts.
pub(crate) fn entry<V: Vendor>(partition: &Partition<V>, index: usize) -> Option<LongEntry> {
    let mut image = partition.image.lock();
    let program = Program::parse(image.bytes(), partition.block.len()).ok()?;
    let stack_top = PROGRAM_BASE - index as u64 * STACK_SIZE;
    Some(LongEntry {
        rip: program.entry(),
        rsp: stack_top - 8,
        cr3: PML4,
        rdi: partition.shared,
        rsi: index as u64,
        gdt: GDT,
        gdt_limit: 23,
        code_selector: 0x08,
        data_selector: 0x10,
    })
}
