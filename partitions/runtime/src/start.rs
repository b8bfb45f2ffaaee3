//! From the entry point to `main`, and what a core must find again later.

use core::arch::{asm, naked_asm};
use core::panic::PanicInfo;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use cloister_abi::shared::{ConsoleRing, INFO_MAGIC, PROGRAM_BASE, PartitionInfo, STACK_SIZE};
use cloister_abi::{MAX_CORES, VERSION};

use crate::hypercall::{CallBy, NearCall, exit, finish};
use crate::{EXIT_PANIC, EXIT_VERSION, Partition, idt};

unsafe extern "Rust" {
    /// What [`crate::entry!`] names.
    safe fn cloister_main(partition: &Partition) -> u64;
}

unsafe extern "C" {
    safe static __image_start: u8;
    safe static __image_end: u8;
}

static INFO: AtomicPtr<PartitionInfo> = AtomicPtr::new(ptr::null_mut());
static CORES: [Core; MAX_CORES] = [const { Core::new() }; MAX_CORES];

struct Core {
    /// Top of its stack; 0 before it started.
    stack_top: AtomicU64,
    /// It is reporting a fault or panic.
    dying: AtomicBool,
}

impl Core {
    const fn new() -> Self {
        Self {
            stack_top: AtomicU64::new(0),
            dying: AtomicBool::new(false),
        }
    }
}

/// Where the hypervisor enters each core: RDI and RSI as
/// [`cloister_abi::shared`] says, which are the first two arguments.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start(info: *mut PartitionInfo, core: u64) -> ! {
    naked_asm!("xor ebp, ebp", "mov rdx, rsp", "jmp {}", sym start)
}

extern "C" fn start(page: *mut PartitionInfo, core: u64, stack_top: u64) -> ! {
    // SAFETY: the hypervisor passes the address of a page that it keeps mapped
    // read-only and never changes (cloister_abi::shared).
    let info = unsafe { &*page };
    if info.magic != INFO_MAGIC {
        // Not Cloister: nothing to call and nowhere to print.
        undefined_instruction();
    }
    INFO.store(page, Ordering::Release);
    if let Some(slot) = usize::try_from(core)
        .ok()
        .and_then(|index| CORES.get(index))
    {
        slot.stack_top.store(stack_top, Ordering::Relaxed);
    }
    if info.version != VERSION {
        crate::println!(
            "cloister: the program was built for ABI version {VERSION}, the hypervisor has {}: build both from one tree",
            info.version
        );
        finish(EXIT_VERSION);
    }
    idt::load();
    let partition = u32::try_from(core)
        .ok()
        .and_then(|core| Partition::new(info, core));
    match partition {
        Some(partition) => exit(cloister_main(&partition)),
        None => panic!("core {core} of a partition of {}", info.cores),
    }
}

fn undefined_instruction() -> ! {
    // SAFETY: raises #UD, and does not come back.
    unsafe { asm!("ud2", options(noreturn)) }
}

fn info() -> Option<&'static PartitionInfo> {
    // SAFETY: null, or the page that `start` got, which stays.
    unsafe { INFO.load(Ordering::Acquire).as_ref() }
}

/// Whether the processor is AMD's: hypercalls are by VMMCALL.
pub(crate) fn hypercall_is_vmmcall() -> bool {
    info().is_some_and(|info| info.vendor == 1)
}

/// How hypercalls are made.
pub(crate) fn call_by() -> CallBy {
    match info() {
        Some(info) if info.vendor == 2 => {
            // SAFETY: with this vendor, what started the program has put the
            // address of such a function there (cloister_abi::shared).
            CallBy::Near(unsafe { core::mem::transmute::<u64, NearCall>(info.call) })
        }
        Some(info) if info.vendor == 1 => CallBy::Vmmcall,
        _ => CallBy::Vmcall,
    }
}

/// Bytes of RAM.
pub(crate) fn memory() -> u64 {
    info().map_or(0, |info| info.memory)
}

/// The local APIC: 0 none, 1 in xAPIC mode, 2 in x2APIC mode.
pub(crate) fn apic_mode() -> u32 {
    info().map_or(0, |info| info.apic)
}

pub(crate) fn console() -> Option<&'static ConsoleRing> {
    let address = usize::try_from(info()?.console_gpa).ok()?;
    // SAFETY: the hypervisor maps the ring there, read-write, for as long as
    // the program runs; every field is atomic.
    Some(unsafe { &*ptr::with_exposed_provenance::<ConsoleRing>(address) })
}

/// Whether a dataplane flag is in force on this core, without asking.
pub(crate) fn in_dataplane_mode() -> bool {
    let partition = info()
        .zip(core_index())
        .and_then(|(info, core)| Partition::new(info, core));
    // Where nothing can be known, leaving a mode that is not on does no harm.
    partition.is_none_or(|p| p.own_counters().dataplane.load(Ordering::Relaxed) != 0)
}

/// The addresses from the start of the program's image to its end.
pub(crate) fn image() -> core::ops::Range<u64> {
    (&raw const __image_start).addr() as u64..(&raw const __image_end).addr() as u64
}

/// Top of the stack that this code runs on, and the core it belongs to.
fn stack() -> Option<(usize, u64)> {
    let here: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) here, options(nomem, nostack, preserves_flags)) }
    CORES
        .iter()
        .map(|core| core.stack_top.load(Ordering::Relaxed))
        .enumerate()
        .find(|&(_, top)| here <= top && top - here < STACK_SIZE)
}

/// Index of this core in the partition.
pub(crate) fn core_index() -> Option<u32> {
    stack().and_then(|(index, _)| u32::try_from(index).ok())
}

/// Return addresses from the frame at `frame_pointer` outwards (System V ABI:
/// each frame holds the caller's RBP, then the return address).
pub(crate) fn backtrace(frame_pointer: u64, mut each: impl FnMut(u64)) {
    let Some((_, top)) = stack() else { return };
    let bottom = top - STACK_SIZE.min(top);
    let mut frame = frame_pointer;
    for _ in 0..cloister_abi::BACKTRACE_FRAMES {
        if frame < bottom || frame >= top.saturating_sub(16) || !frame.is_multiple_of(8) {
            return;
        }
        let Ok(address) = usize::try_from(frame) else {
            return;
        };
        let pair = ptr::with_exposed_provenance::<[u64; 2]>(address);
        // SAFETY: aligned, and within this core's own stack.
        let [caller, return_address] = unsafe { pair.read_volatile() };
        each(return_address);
        if caller <= frame {
            return;
        }
        frame = caller;
    }
}

/// Ends this core after a fault or a panic, which `report` prints. A second
/// one while that prints ends it at once.
pub(crate) fn die(code: u64, report: impl FnOnce(u32)) -> ! {
    let core = core_index();
    let slot = core
        .and_then(|core| usize::try_from(core).ok())
        .and_then(|core| CORES.get(core));
    if !slot.is_some_and(|slot| slot.dying.swap(true, Ordering::Relaxed)) {
        report(core.unwrap_or(u32::MAX));
    }
    exit(code)
}

#[panic_handler]
fn panic(information: &PanicInfo<'_>) -> ! {
    die(EXIT_PANIC, |core| {
        crate::println!("cloister: core {core}: {information}");
    })
}

// program.ld names the address as a number.
const _: () = assert!(PROGRAM_BASE == 0x10_0000);
