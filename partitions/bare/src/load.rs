//! Puts the program where it belongs and enters it, as
//! `cloister_abi::shared` says.
#![expect(clippy::cast_possible_truncation, reason = "usize has 64 bits here")]

use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering;

use cloister_abi::device::DeviceTable;
use cloister_abi::shared::{ConsoleRing, INFO_MAGIC, PROGRAM_BASE, PartitionInfo, STACK_SIZE};
use cloister_abi::{CoreCounters, Dataplane, VERSION};
use cloister_core::elf::Program;
use cloister_core::multiboot::Information;

use crate::{calls, devices};

/// Where the program's memory ends at most: what is above is ours (link.ld).
const MEMORY_LIMIT: u64 = 512 << 20;
const LARGE: u64 = 2 << 20;
/// Most bytes of all modules together.
const KEPT: usize = 8 << 20;

/// Page-table entries: present and writable; and a 2 MiB page.
const TABLE: u64 = 0x03;
const LARGE_LEAF: u64 = 0x83;

#[repr(C, align(4096))]
struct Table([u64; 512]);

/// What the program finds besides its memory. All zeros is valid.
#[repr(C, align(4096))]
struct Shared {
    info: PartitionInfo,
    counters: CoreCounters,
    console: ConsoleRing,
    devices: DeviceTable,
    pml4: Table,
    pdpt: Table,
    /// Of the first and only GiB that is mapped.
    directory: Table,
    /// Of the first 2 MiB: page 0 is left out.
    first: Table,
    stack: [u8; STACK_SIZE as usize],
}

/// Copies of modules, one after the other.
struct Kept {
    bytes: [u8; KEPT],
    used: usize,
}

struct Zeroed<T>(UnsafeCell<MaybeUninit<T>>);

// SAFETY: one core, no interrupts; who may use it when is said where it is
// used.
unsafe impl<T> Sync for Zeroed<T> {}

impl<T> Zeroed<T> {
    const fn new() -> Self {
        Self(UnsafeCell::new(MaybeUninit::zeroed()))
    }

    const fn get(&self) -> *mut T {
        self.0.get().cast()
    }
}

static SHARED: Zeroed<Shared> = Zeroed::new();
static MODULES: Zeroed<Kept> = Zeroed::new();

/// GRUB's information at `address`.
///
/// # Safety
/// GRUB passed the address, and nothing has been overwritten.
pub(crate) unsafe fn boot_information(address: u64) -> &'static [u8] {
    let header = address as *const u32;
    // SAFETY: the caller's promise; it begins with its length in bytes.
    unsafe { core::slice::from_raw_parts(header.cast::<u8>(), header.read() as usize) }
}

/// A module, copied to where the program will not overwrite it.
pub(crate) struct Module(&'static [u8]);

impl Module {
    /// Copies the module called `name`.
    pub(crate) fn keep(boot: &Information, name: &str) -> Result<Self, &'static str> {
        let found = boot.modules.iter().find(|module| module.name == name);
        let range = found
            .ok_or("a module that the system file names is missing")?
            .range;
        let length = usize::try_from(range.len()).unwrap_or(usize::MAX);
        // SAFETY: only this function uses `MODULES`; the reference to the
        // number ends here.
        let first = unsafe { (*MODULES.get()).used };
        let end = first.checked_add(length).filter(|end| *end <= KEPT);
        let end = end.ok_or("the modules are over 8 MiB")?;
        // SAFETY: as above; no other call gets these bytes.
        let kept = unsafe {
            (*MODULES.get()).used = end;
            let bytes = (&raw mut (*MODULES.get()).bytes).cast::<u8>();
            core::slice::from_raw_parts_mut(bytes.add(first), length)
        };
        // SAFETY: GRUB put the module there.
        kept.copy_from_slice(unsafe {
            core::slice::from_raw_parts(range.start as *const u8, length)
        });
        Ok(Self(kept))
    }

    pub(crate) fn bytes(&self) -> &'static [u8] {
        self.0
    }
}

/// A program that is ready.
pub(crate) struct Start {
    entry: u64,
}

/// Puts the program's segments into place, zeroes the rest of its memory and
/// writes what it finds beside.
pub(crate) fn load(
    partition: &cloister_manifest::Partition,
    image: &[u8],
) -> Result<Start, &'static str> {
    if partition.memory > MEMORY_LIMIT {
        return Err("a bare run has at most 512M of memory for its program");
    }
    let program = Program::parse(image, partition.memory)
        .map_err(|_| "the program is no ELF file that can be loaded")?;
    // SAFETY: of the first 512 MiB nothing is used any more: the modules were
    // copied, the boot information was read, and we are above.
    unsafe {
        let base = PROGRAM_BASE as *mut u8;
        base.write_bytes(0, partition.memory.saturating_sub(PROGRAM_BASE) as usize);
        for segment in program.segments() {
            let to = segment.gpa as *mut u8;
            to.copy_from_nonoverlapping(segment.file.as_ptr(), segment.file.len());
        }
    }
    // SAFETY: the program does not run yet, and nobody else holds a reference.
    let shared = unsafe { &mut *SHARED.get() };
    describe(shared, partition);
    devices::find(&mut shared.devices);
    page_tables(shared, partition.memory);
    Ok(Start {
        entry: program.entry(),
    })
}

fn describe(shared: &mut Shared, partition: &cloister_manifest::Partition) {
    let counters_gpa = address(&shared.counters);
    let console_gpa = address(&shared.console);
    let devices_gpa = address(&shared.devices);
    let info = &mut shared.info;
    info.magic = INFO_MAGIC;
    info.version = VERSION;
    info.cores = 1;
    info.memory = partition.memory;
    info.counters_gpa = counters_gpa;
    info.console_gpa = console_gpa;
    info.devices_gpa = devices_gpa;
    info.allowed = partition.dataplane.with_implied().bits();
    info.vendor = 2;
    info.call = calls::call as *const () as u64;
    info.name_len = copy(&mut info.name, partition.name.as_bytes());
    info.args_len = copy(&mut info.args, partition.args.as_bytes());
}

fn address<T>(thing: &T) -> u64 {
    core::ptr::from_ref(thing) as u64
}

fn copy(to: &mut [u8], from: &[u8]) -> u32 {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
    u32::try_from(from.len().min(to.len())).unwrap_or(0)
}

/// Identity-maps the program's memory, without page 0, and what is ours.
fn page_tables(shared: &mut Shared, memory: u64) {
    unsafe extern "C" {
        safe static __image_start: u8;
        safe static __image_end: u8;
    }
    let ours = address(&__image_start)..address(&__image_end);
    let mapped = |at: u64| at < memory || (at < ours.end && at + LARGE > ours.start);
    for (at, entry) in (0..).step_by(LARGE as usize).zip(&mut shared.directory.0) {
        *entry = if mapped(at) { at | LARGE_LEAF } else { 0 };
    }
    for (at, entry) in (0..).step_by(0x1000).zip(&mut shared.first.0).skip(1) {
        *entry = at | TABLE;
    }
    let tables =
        [&shared.pdpt, &shared.directory, &shared.first].map(|table| address(table) | TABLE);
    for (table, below) in [&mut shared.pml4, &mut shared.pdpt, &mut shared.directory]
        .into_iter()
        .zip(tables)
    {
        if let Some(first) = table.0.first_mut() {
            *first = below;
        }
    }
}

impl Start {
    /// Enters the program.
    pub(crate) fn enter(self) -> ! {
        calls::started();
        let shared = SHARED.get();
        // SAFETY: takes addresses only.
        let (pml4, info, stack) = unsafe {
            (
                &raw const (*shared).pml4 as u64,
                &raw const (*shared).info as u64,
                &raw const (*shared).stack as u64,
            )
        };
        // SAFETY: the tables map the code that runs here, the program, and
        // what it is told of; from here on only `ring`, `set_flags` and `name`
        // use `SHARED`, and all that they touch is atomic or constant.
        unsafe {
            asm!(
                "mov cr3, {pml4}",
                "mov rsp, {stack}",
                "xor ebp, ebp",
                "jmp {entry}",
                pml4 = in(reg) pml4,
                stack = in(reg) stack + STACK_SIZE - 8,
                entry = in(reg) self.entry,
                in("rdi") info,
                in("rsi") 0_u64,
                options(noreturn),
            )
        }
    }
}

/// The program's console.
pub(crate) fn ring() -> &'static ConsoleRing {
    // SAFETY: every field is atomic.
    unsafe { &(*SHARED.get()).console }
}

/// The partition's name; empty before it is known.
pub(crate) fn name() -> &'static str {
    // SAFETY: written before the program starts, by `load` alone, which calls
    // nobody who asks.
    let info = unsafe { &(*SHARED.get()).info };
    let name = info.name.get(..info.name_len as usize).unwrap_or_default();
    core::str::from_utf8(name).unwrap_or_default()
}

/// Notes the flags where the program looks for them; returns those before.
pub(crate) fn set_flags(flags: Dataplane) -> i64 {
    // SAFETY: every field is atomic.
    let counters = unsafe { &(*SHARED.get()).counters };
    let flags = flags.with_implied().bits();
    if flags != 0 {
        counters.last_dataplane.store(flags, Ordering::Relaxed);
        counters.quiesce_count.fetch_add(1, Ordering::Relaxed);
    }
    let before = counters.dataplane.swap(flags, Ordering::Relaxed);
    i64::try_from(before).unwrap_or(0)
}
