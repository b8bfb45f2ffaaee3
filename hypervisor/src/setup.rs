//! The steps of the boot order, each with its complaints.

use core::fmt::Display;

use cloister_core::acpi::{Fadt, sleep_type};
use cloister_core::bzimage::Kernel;
use cloister_core::memory::{
    FirmwareRange, LinuxNeed, Module, PartitionNeed, Plan, PlanInput, Range, kind, plan as make,
};
use cloister_core::policy::io::IoFacts;
use cloister_manifest::{MANIFEST_MODULE, Machine, Manifest, PortRange};
use heapless::{String, Vec};
use raw_cpuid::CpuId;
use spin::{Mutex, Once};

use crate::arch::memory::{FramePool, PAGE};
use crate::arch::{console, cpu, paging, percpu};
use crate::boot::acpi::{Firmware, dsdt};
use crate::boot::info::{BootInfo, MAX_MODULES};
use crate::boot::topology::smt_siblings;
use crate::boot::{ap, smp};
use crate::cores;
use crate::partition::linux::{self, Linux, Source};
use crate::partition::load;
use crate::report;
use crate::system::System;
use crate::virt::Vendor;

/// A complaint that stops the boot.
pub(crate) type Complaint = String<320>;

/// `text` as a complaint.
fn complaint(text: core::fmt::Arguments<'_>) -> Complaint {
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
    // SAFETY: modules are where GRUB put them until the plan hands memory out.
    let blob = unsafe { module.bytes() };
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
    // SAFETY: the plan keeps modules where they are until Linux runs.
    let file = unsafe { module.bytes() };
    Kernel::parse(file)
        .map_err(|error| complaint(format_args!("linux.kernel \"{}\": {error}", config.kernel)))
}

/// Who gets which memory.
pub(crate) fn plan(info: &BootInfo, manifest: &Manifest) -> Result<Plan, Complaint> {
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
    let needs: Vec<PartitionNeed<'_>, { cloister_abi::MAX_PARTITIONS }> = manifest
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
        pool_bytes: manifest.hypervisor.memory.saturating_sub(image.len()),
        partitions: &needs,
        linux,
    };
    make(&input).map_err(|error| complaint(format_args!("memory: {error}")))
}

/// The hypervisor's pool.
pub(crate) fn pool(plan: &Plan) -> &'static FramePool {
    static POOL: Once<FramePool> = Once::new();
    // SAFETY: the plan gave the range to the hypervisor alone; the boot tables
    // map the low 4 GiB, and the plan prefers those.
    POOL.call_once(|| unsafe { FramePool::new(plan.pool) })
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

/// Builds the hypervisor's own page tables.
pub(crate) fn own_tables(info: &BootInfo, plan: &Plan, pool: &FramePool) -> Result<(), Complaint> {
    if plan.pool.end > 1 << 32 {
        return Err(complaint(format_args!(
            "hypervisor.memory: no {} bytes in one piece below 4 GiB",
            plan.pool.len()
        )));
    }
    paging::build(pool, ram(info).into_iter(), gib_pages()).map_err(|_| {
        complaint(format_args!(
            "hypervisor.memory is too small for its own page tables"
        ))
    })
}

/// Starts every core, and gives each its counters. Returns how many there are.
pub(crate) fn start_cores(
    firmware: &Firmware,
    plan: &Plan,
    pool: &'static FramePool,
) -> Result<usize, Complaint> {
    const COUNTERS: u64 = size_of::<cloister_abi::CoreCounters>() as u64 / PAGE;
    const RING: u64 = size_of::<cloister_abi::trace::TraceRing>() as u64 / PAGE;
    let no_memory = || complaint(format_args!("hypervisor.memory is too small for the cores"));
    // SAFETY: the plan set the page aside.
    unsafe { ap::place(plan.trampoline.start) };
    for (number, core) in firmware.cores.iter().enumerate() {
        let counters = pool.pages(COUNTERS, PAGE).ok_or_else(no_memory)?;
        // SAFETY: made of atomic integers, for which zero is valid.
        let counters: &'static cloister_abi::CoreCounters = unsafe { counters.leak() };
        counters
            .core
            .store(number as u64, core::sync::atomic::Ordering::Relaxed);
        let ring = pool.pages(RING, PAGE).ok_or_else(no_memory)?;
        cores::core(number).set_up(core.apic_id, counters, ring.address() as *mut _);
        if core.apic_id == percpu::this().apic_id() {
            continue;
        }
        let id = u32::try_from(number).unwrap_or(u32::MAX);
        // SAFETY: the trampoline is in place, and nobody has started the core.
        unsafe { smp::start(pool, plan.trampoline.start, id, core.apic_id) }.map_err(|error| {
            complaint(format_args!(
                "core {number} (APIC ID {}): {error}",
                core.apic_id
            ))
        })?;
    }
    Ok(firmware.cores.len())
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
        has_iommu: false,
        smt_siblings: &smt_siblings(&firmware.cores),
        modules: &modules,
        reserved_ports: &reserved_ports,
    };
    cloister_manifest::validate_machine(manifest, &machine)
        .map_err(|problem| complaint(format_args!("the system file on this machine: {problem}")))
}

/// Builds all guests.
pub(crate) fn system<V: Vendor>(
    info: &BootInfo,
    manifest: &'static Manifest,
    firmware: &'static Firmware,
    plan: &Plan,
    pool: &'static FramePool,
    cores: usize,
) -> Result<&'static System<V>, Complaint> {
    let no_memory = || {
        complaint(format_args!(
            "hypervisor.memory is too small for the guests"
        ))
    };
    let pages = (size_of::<System<V>>() as u64).div_ceil(PAGE);
    let place = pool.pages(pages, PAGE).ok_or_else(no_memory)?.address() as *mut System<V>;
    let gib_pages = V::nested_gib_pages(gib_pages());
    let mut partitions = Vec::new();
    for (number, config) in (2..).zip(&manifest.partitions) {
        let fail =
            |error: &dyn Display| complaint(format_args!("partition \"{}\": {error}", config.name));
        let module = info
            .module(&config.program)
            .ok_or_else(|| fail(&"its program is missing"))?;
        // SAFETY: the plan keeps programs where they are, for good.
        let image = unsafe { module.bytes() };
        let index = usize::from(number - 2_u16);
        let block = *plan
            .partitions
            .get(index)
            .ok_or_else(|| fail(&"no memory was planned"))?;
        let partition = load::create::<V>(config, number, block, image, pool, gib_pages)
            .map_err(|error| fail(&error))?;
        if config.autostart {
            partition
                .life
                .set_state(cloister_abi::PartitionState::Running);
        }
        let _ = partitions.push(partition);
    }
    let linux = match &manifest.linux {
        Some(config) => {
            let linux = linux_guest::<V>(info, manifest, config, firmware, plan, pool)?;
            linux.set_state(cloister_abi::LinuxState::Running);
            Some(linux)
        }
        None => None,
    };
    let fadt = firmware.fadt.as_ref();
    let aml = fadt.and_then(dsdt).unwrap_or(&[]);
    let io = fadt.map(|fadt| IoFacts::new(fadt, |state| sleep_type(aml, state)));
    let mut system = System {
        manifest,
        firmware,
        pool,
        linux,
        partitions,
        cores,
        io: io.unwrap_or_default(),
    };
    if let Some(linux) = &mut system.linux {
        let claimed = manifest.partitions.iter().flat_map(|p| p.ports.iter());
        let console = manifest.hypervisor.console.ports();
        let foreign = claimed
            .copied()
            .chain(console)
            .flat_map(|range| range.iter());
        linux::permit(&mut linux.guest, foreign.chain(system.io.ports()));
    }
    // SAFETY: the pages are ours, large enough and aligned.
    unsafe {
        place.write(system);
        Ok(&*place)
    }
}

fn linux_guest<V: Vendor>(
    info: &BootInfo,
    manifest: &Manifest,
    config: &'static cloister_manifest::Linux,
    firmware: &Firmware,
    plan: &Plan,
    pool: &'static FramePool,
) -> Result<Linux<V>, Complaint> {
    let initrd = config.initrd.as_ref().and_then(|name| info.module(name));
    let kept: Vec<Range, MAX_MODULES> = info
        .modules
        .iter()
        .filter(|module| is_program(manifest, &module.name))
        .map(|module| module.range)
        .collect();
    let apic_ids: Vec<u32, { cloister_abi::MAX_CORES }> = config
        .cpus
        .iter()
        .map(|number| cores::core(number).apic_id())
        .collect();
    let source = Source {
        config,
        plan,
        firmware,
        kernel: kernel(info, config)?,
        initrd: initrd.map(|module| module.range),
        image: paging::image(),
        kept: &kept,
        apic_ids: &apic_ids,
        top: top(info),
        gib_pages: V::nested_gib_pages(gib_pages()),
    };
    Linux::create(&source, pool).map_err(|error| complaint(format_args!("{error}")))
}
