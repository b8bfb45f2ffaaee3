//! The steps of the boot order, each with its complaints.

use core::fmt::Display;

use cloister_abi::{LinuxState, MAX_PARTITIONS};
use cloister_core::acpi::Fadt;
use cloister_core::bzimage::Kernel;
use cloister_core::iommu::Requester;
use cloister_core::memory::{
    E820_ENTRIES, FirmwareRange, LARGE_PAGE, LinuxNeed, Module, PartitionNeed, PlanInput, Range,
    kind, plan,
};
use cloister_core::policy::io::IoFacts;
use cloister_manifest::{MANIFEST_MODULE, Machine, Manifest, PortRange};
use heapless::{String, Vec};
use raw_cpuid::CpuId;
use spin::{Mutex, Once};

use crate::arch::memory::{Block, FramePool, PAGE};
use crate::arch::{console, cpu, paging};
use crate::boot::acpi::Firmware;
use crate::boot::claim::{Claimed, claim};
use crate::boot::info::{BootInfo, MAX_MODULES};
use crate::boot::smp;
use crate::boot::topology::smt_siblings;
use crate::control::{self, Control, Failure};
use crate::cores;
use crate::iommu::{Iommu, guest};
use crate::partition::Partition;
use crate::partition::channels::Channels;
use crate::partition::linux::{self, Linux, Source};
use crate::partition::load;
use crate::pci::{self, Pci};
use crate::report;
use crate::routes;
use crate::system::System;
use crate::virt::Vendor;

/// ASIDs or VPIDs: 0 is the hypervisor's, 1 Linux's.
const FIRST_PARTITION_ASID: u16 = 2;

/// A complaint that stops the boot.
pub(crate) type Complaint = String<320>;

/// `text` as a complaint.
pub(crate) fn complaint(text: core::fmt::Arguments<'_>) -> Complaint {
    let mut complaint = Complaint::new();
    let _ = core::fmt::write(&mut complaint, text);
    complaint
}

/// The value, or the end of the boot: the complaint goes to the console, for
/// people and as the last record.
pub(crate) fn or_stop<T, E: Display>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => {
            let complaint = complaint(format_args!("{error}"));
            log::error!("cannot start: {complaint}");
            let mut console = console::lock();
            report::refused_to_start(&mut console, &complaint);
            cpu::halt_forever();
        }
    }
}

/// Makes of this processor.
pub(crate) enum Maker {
    /// AMD and Hygon.
    Amd,
    /// Intel and those that follow it.
    Intel,
}

/// Who made this processor.
pub(crate) fn vendor() -> Maker {
    match CpuId::new().get_vendor_info() {
        Some(info) if matches!(info.as_str(), "AuthenticAMD" | "HygonGenuine") => Maker::Amd,
        _ => Maker::Intel,
    }
}

/// Moves the firmware's description to where it lives for ever.
pub(crate) fn keep(firmware: Firmware) -> &'static Firmware {
    static FIRMWARE: Once<Firmware> = Once::new();
    FIRMWARE.call_once(|| firmware)
}

static MANIFEST: Mutex<Manifest> = Mutex::new(Manifest::new());

/// Decodes the manifest, and checks it by itself.
pub(crate) fn manifest(info: &BootInfo) -> Result<&'static Manifest, Complaint> {
    let module = info.module(MANIFEST_MODULE).ok_or_else(|| {
        complaint(format_args!(
            "GRUB loaded no module called \"{MANIFEST_MODULE}\", the compiled system file"
        ))
    })?;
    let blob = module.bytes();
    let mut manifest = MANIFEST.lock();
    cloister_manifest::decode_into(&mut manifest, blob)
        .map_err(|error| complaint(format_args!("module \"{MANIFEST_MODULE}\": {error}")))?;
    // Nobody locks it again: it is only read from now on.
    let manifest: &'static Manifest = spin::MutexGuard::leak(manifest);
    cloister_manifest::validate(manifest)
        .map_err(|problem| complaint(format_args!("the system file: {problem}")))?;
    for (what, name) in manifest.modules() {
        if info.module(name).is_none() {
            return Err(complaint(format_args!(
                "GRUB loaded no module called \"{name}\" ({}); add a module2 line for it",
                what.describe()
            )));
        }
    }
    Ok(manifest)
}

/// Whether `name` is the program of a partition.
fn is_program(manifest: &Manifest, name: &str) -> bool {
    manifest
        .partitions
        .iter()
        .any(|partition| partition.program == name)
}

/// The kernel that GRUB loaded for Linux.
fn kernel<'a>(info: &BootInfo, config: &cloister_manifest::Linux) -> Result<Kernel<'a>, Complaint> {
    let missing = || complaint(format_args!("linux.kernel: no such module"));
    let module = info.module(&config.kernel).ok_or_else(missing)?;
    Kernel::parse(module.bytes())
        .map_err(|error| complaint(format_args!("linux.kernel \"{}\": {error}", config.kernel)))
}

/// Plans who gets which memory, and hands it out.
pub(crate) fn memory(info: &BootInfo, manifest: &Manifest) -> Result<Claimed, Complaint> {
    let firmware: Vec<FirmwareRange, 128> = info
        .regions
        .iter()
        .map(|region| FirmwareRange {
            start: region.start,
            len: region.len,
            kind: region.kind,
        })
        .collect();
    let modules: Vec<Module, MAX_MODULES> = info
        .modules
        .iter()
        .filter(|module| !module.range.is_empty())
        .map(|module| Module {
            range: module.range,
            keep: is_program(manifest, &module.name),
        })
        .collect();
    let needs: Vec<PartitionNeed<'_>, { MAX_PARTITIONS }> = manifest
        .partitions
        .iter()
        .map(|partition| PartitionNeed {
            name: &partition.name,
            memory: partition.memory,
        })
        .collect();
    let linux = match &manifest.linux {
        Some(config) => {
            let kernel = kernel(info, config)?;
            Some(LinuxNeed {
                init_size: kernel.init_size(),
                alignment: kernel.alignment(),
                preferred: kernel.preferred_address(),
            })
        }
        None => None,
    };
    let image = paging::image();
    let input = PlanInput {
        firmware: &firmware,
        image,
        modules: &modules,
        // Channels come on top.
        pool_bytes: manifest
            .hypervisor
            .memory
            .saturating_sub(image.len())
            .saturating_add(channel_bytes(manifest)),
        partitions: &needs,
        linux,
    };
    let plan = plan(&input).map_err(|error| complaint(format_args!("memory: {error}")))?;
    claim(plan).ok_or_else(|| complaint(format_args!("memory has been handed out before")))
}

/// What the channels take of the pool: their blocks, each aligned so that
/// large pages map it.
fn channel_bytes(manifest: &Manifest) -> u64 {
    let sizes = manifest.channels.iter().map(|channel| channel.size);
    let blocks: u64 = sizes.clone().sum();
    let alignment: u64 = sizes.map(|size| size.min(LARGE_PAGE)).sum();
    blocks + alignment
}

/// Whether this processor has 1 GiB pages.
fn gib_pages() -> bool {
    CpuId::new()
        .get_extended_processor_and_feature_identifiers()
        .is_some_and(|features| features.has_1gib_pages())
}

/// RAM of the machine, sorted.
fn ram(info: &BootInfo) -> Vec<Range, 128> {
    let mut ram: Vec<Range, 128> = info
        .regions
        .iter()
        .filter(|region| region.kind == kind::USABLE)
        .map(|region| Range {
            start: region.start,
            end: region.start.saturating_add(region.len),
        })
        .collect();
    ram.sort_unstable_by_key(|range| range.start);
    ram
}

/// End of memory.
fn top(info: &BootInfo) -> u64 {
    let ends = info
        .regions
        .iter()
        .filter(|region| region.kind == kind::USABLE);
    ends.map(|region| region.start.saturating_add(region.len))
        .max()
        .unwrap_or(0)
}

/// Builds the hypervisor's own page tables, and enters them.
pub(crate) fn own_tables(info: &BootInfo, memory: &Claimed) -> Result<(), Complaint> {
    if memory.pool_range.end > 1 << 32 {
        return Err(complaint(format_args!(
            "hypervisor.memory: no {} bytes in one piece below 4 GiB",
            memory.pool_range.len()
        )));
    }
    paging::build(memory.pool, ram(info).into_iter(), gib_pages()).map_err(|_| {
        complaint(format_args!(
            "hypervisor.memory is too small for its own page tables"
        ))
    })
}

/// Starts every core.
pub(crate) fn start_cores(firmware: &Firmware, memory: &Claimed) -> Result<(), Complaint> {
    smp::start_all(&firmware.cores, &memory.trampoline, memory.pool).map_err(
        |(number, apic_id, error)| {
            complaint(format_args!("core {number} (APIC ID {apic_id}): {error}"))
        },
    )
}

/// Ports that the firmware names for the whole machine's power management.
fn reserved_ports(fadt: &Fadt) -> impl Iterator<Item = PortRange> + use<> {
    fadt.blocks().map(|(base, length)| PortRange {
        base,
        count: u16::from(length),
    })
}

/// Checks the manifest against the machine.
pub(crate) fn validate(
    info: &BootInfo,
    manifest: &Manifest,
    firmware: &Firmware,
    has_iommu: bool,
) -> Result<(), Complaint> {
    let usable_memory = ram(info).iter().map(Range::len).sum();
    let modules: Vec<&str, MAX_MODULES> = info
        .modules
        .iter()
        .map(|module| module.name.as_str())
        .collect();
    let reserved_ports: Vec<PortRange, 16> =
        firmware.fadt.iter().flat_map(reserved_ports).collect();
    let machine = Machine {
        cores: firmware.cores.len(),
        usable_memory,
        has_iommu,
        smt_siblings: &smt_siblings(&firmware.cores),
        modules: &modules,
        reserved_ports: &reserved_ports,
    };
    cloister_manifest::validate_machine(manifest, &machine)
        .map_err(|problem| complaint(format_args!("the system file on this machine: {problem}")))
}

/// Gives PCI functions to their owners.
pub(crate) fn devices(
    pci: &mut Pci,
    manifest: &Manifest,
    has_iommu: bool,
) -> Result<(), Complaint> {
    pci::assign(pci, manifest, has_iommu)
        .map_err(|problem| complaint(format_args!("the system file on this machine: {problem}")))
}

/// Builds all guests.
pub(crate) fn system<V: Vendor>(
    info: &BootInfo,
    manifest: &'static Manifest,
    firmware: &'static Firmware,
    pci: Pci,
    iommu: Option<Iommu>,
    memory: &mut Claimed,
) -> Result<&'static System<V>, Complaint> {
    let no_memory = || {
        complaint(format_args!(
            "hypervisor.memory is too small for the guests"
        ))
    };
    let pool = memory.pool;
    let pages = (size_of::<System<V>>() as u64).div_ceil(PAGE);
    let place = pool.pages(pages, PAGE).ok_or_else(no_memory)?;
    let gib_pages = V::nested_gib_pages(gib_pages());
    let registers = iommu.iter().flat_map(Iommu::registers);
    let mut foreign: Vec<Range, { linux::MAX_FOREIGN }> =
        foreign(info, manifest, memory).chain(registers).collect();
    if foreign
        .extend_from_slice(&of_functions(&pci, iommu.as_ref()))
        .is_err()
    {
        return Err(complaint(format_args!("more than 160 foreign ranges")));
    }
    let mut partitions: Vec<Partition<V>, MAX_PARTITIONS> = Vec::new();
    let table = control::statistics::table(pool).ok_or_else(no_memory)?;
    let channels = Channels::create(manifest, pool).ok_or_else(no_memory)?;
    let blocks = core::mem::take(&mut memory.partitions);
    let all = (FIRST_PARTITION_ASID..)
        .zip(manifest.partitions.iter().enumerate())
        .zip(blocks);
    for (((asid, (index, config)), block), status) in all.zip(table) {
        let fail =
            |error: &dyn Display| complaint(format_args!("partition \"{}\": {error}", config.name));
        let module = info
            .module(&config.program)
            .ok_or_else(|| fail(&"its program is missing"))?;
        let image = module.bytes();
        let has_iommu = iommu.is_some();
        let devices = pci::of_partition(&pci, &config.devices, has_iommu, pool);
        let devices = devices.ok_or_else(no_memory)?;
        for device in devices {
            report::device(&config.name, device);
        }
        if let Some(iommu) = &iommu
            && !devices.is_empty()
        {
            let domain = iommu.partition_domain(index, &[(0, block.range())])?;
            for device in devices {
                iommu.assign(Requester(device.info.address.0), index, domain)?;
            }
        }
        let source = load::Source {
            config,
            index,
            asid,
            block,
            image,
            status,
            channels,
            devices,
            gib_pages,
        };
        let partition = load::create::<V>(source, pool).map_err(|error| fail(&error))?;
        pci::release(&partition);
        let cores = u32::try_from(config.cpus.len()).unwrap_or(0);
        partition.life.boot(config.autostart, cores);
        partition.note_start();
        let _ = partitions.push(partition);
    }
    let linux = match &manifest.linux {
        Some(config) => {
            let linux = linux_guest::<V>(info, config, firmware, memory, &foreign)?;
            let fenced = pci::fence(&pci, firmware, &linux.guest, pool);
            fenced.map_err(|_| no_memory())?;
            if let Some(iommu) = &iommu {
                iommu.give_to_linux(&linux_memory(memory), &foreign)?;
            }
            linux.set_state(LinuxState::Running);
            Some(linux)
        }
        None => None,
    };
    let control = match &linux {
        Some(linux) => {
            control_function::<V>(firmware, &pci, table, &partitions, linux, channels, pool)?
        }
        None => None,
    };
    let fadt = firmware.fadt.as_ref();
    let sleep_type = |state: u8| {
        let index = usize::from(state).checked_sub(1)?;
        *firmware.sleep_types.get(index)?
    };
    let io = fadt.map(|fadt| IoFacts::new(fadt, sleep_type));
    let mut system = System {
        manifest,
        firmware,
        pool,
        pci,
        linux,
        partitions,
        cores: firmware.cores.len(),
        io: io.unwrap_or_default(),
        iommu,
        control,
    };
    if let Some(linux) = &mut system.linux {
        let claimed = manifest.partitions.iter().flat_map(|p| p.ports.iter());
        let console = manifest.hypervisor.console.ports();
        let foreign = claimed
            .copied()
            .chain(console)
            .flat_map(|range| range.iter());
        let bars = system.pci.assigned().flat_map(pci::ports);
        let bars = bars.flat_map(|(first, last)| first..=last);
        let ports = foreign.chain(bars).chain(system.io.ports());
        linux::permit(&mut linux.guest, ports.chain(pci::PORTS));
    }
    place
        .place(system)
        .map(|system| &*system)
        .ok_or_else(no_memory)
}

/// Everything that is not Linux's.
fn foreign(info: &BootInfo, manifest: &Manifest, memory: &Claimed) -> impl Iterator<Item = Range> {
    let kept = info
        .modules
        .iter()
        .filter(|module| is_program(manifest, &module.name))
        .map(|module| module.range);
    let blocks = memory.partitions.iter().map(Block::range);
    [paging::image(), memory.pool_range]
        .into_iter()
        .chain(blocks)
        .chain(kept)
}

/// Linux's memory, in whole pages.
fn linux_memory(memory: &Claimed) -> Vec<Range, E820_ENTRIES> {
    let is_memory = |kind: u32| matches!(kind, kind::USABLE | kind::ACPI | kind::NVS);
    let ranges = memory.e820.iter().filter(|entry| is_memory(entry.kind));
    ranges
        .map(|entry| entry.range().align_inward(PAGE))
        .filter(|range| !range.is_empty())
        .collect()
}

/// Switches the IOMMU on. Its faults are announced to the first core of Linux,
/// or to one that nobody owns: a partition's core is not disturbed.
pub(crate) fn confine_devices<V: Vendor>(system: &'static System<V>) -> Result<(), Complaint> {
    let Some(iommu) = &system.iommu else {
        return Ok(());
    };
    let linux = system.linux.as_ref();
    let core = match linux.and_then(|linux| linux.guest.cpus.iter().next()) {
        Some(core) => Some(core),
        None => (0..system.cores).find(|&core| system.partition_of(core).is_none()),
    };
    if let Some(core) = core {
        iommu.tell(core);
    }
    iommu.enable(core.map(|core| cores::core(core).apic_id()))?;
    if iommu.remaps_interrupts() {
        // What the firmware left open is in the usual format.
        routes::mask_all();
        iommu.enable_interrupts()?;
        guest::begin(iommu, system.pci.functions, system.pool);
    }
    report::iommu(iommu.name(), iommu.remaps_interrupts());
    Ok(())
}

/// The BARs of partitions' functions, and their configuration space in memory,
/// and that of IOMMUs.
fn of_functions(pci: &Pci, iommu: Option<&Iommu>) -> Vec<Range, { linux::MAX_FOREIGN }> {
    let own = iommu.iter().flat_map(|iommu| iommu.functions());
    let assigned = pci.assigned().map(|function| function.address.0);
    let config = own.map(|own| own.0).chain(assigned);
    let config = config.filter_map(|at| Some((pci.ecam?.function(at)?, PAGE)));
    let bars = pci.assigned().flat_map(pci::memory_bars);
    let all = config.chain(bars.map(|(_, start, bytes)| (start, bytes)));
    all.map(|(start, bytes)| Range {
        start,
        end: start + bytes,
    })
    .take(linux::MAX_FOREIGN)
    .collect()
}

/// The function through which Linux sees the partitions.
fn control_function<V: Vendor>(
    firmware: &Firmware,
    machine: &Pci,
    table: &'static control::statistics::Table,
    partitions: &[Partition<V>],
    linux: &Linux<V>,
    channels: &Channels,
    pool: &FramePool,
) -> Result<Option<&'static Control>, Complaint> {
    const NO_MEMORY: &str = "hypervisor.memory is too small for the control function";
    let complain = |what: &str| complaint(format_args!("{what}"));
    let pages = control::statistics::Pages::new(table, firmware.cores.len(), pool);
    let mut pages = pages.ok_or_else(|| complain(NO_MEMORY))?;
    for (index, partition) in partitions.iter().enumerate() {
        pages.add_console(index, partition.console);
    }
    pages.describe::<V>(linux.guest.cpus, partitions.len());
    let control =
        Control::create(machine, pages, channels, pool).map_err(|failure| match failure {
            Failure::NoMemory => complain(NO_MEMORY),
            Failure::BusFull => complain("channel: PCI bus 0 has no free place for Linux's"),
        })?;
    if let Some(control) = control
        && !control.map_config(&linux.guest)
    {
        return Err(complain(NO_MEMORY));
    }
    Ok(control)
}

fn linux_guest<V: Vendor>(
    info: &BootInfo,
    config: &'static cloister_manifest::Linux,
    firmware: &Firmware,
    memory: &Claimed,
    foreign: &[Range],
) -> Result<Linux<V>, Complaint> {
    let initrd = config.initrd.as_ref().and_then(|name| info.module(name));
    let apic_ids: Vec<u32, { cloister_abi::MAX_CORES }> = config
        .cpus
        .iter()
        .map(|number| cores::core(number).apic_id())
        .collect();
    let source = Source {
        config,
        memory,
        firmware,
        kernel: kernel(info, config)?,
        initrd: initrd.map(|module| module.range),
        foreign,
        apic_ids: &apic_ids,
        top: top(info),
        gib_pages: V::nested_gib_pages(gib_pages()),
    };
    Linux::create(&source).map_err(|error| complaint(format_args!("{error}")))
}
