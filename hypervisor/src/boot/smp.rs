//! Starting the other cores, one by one, each with an acknowledgement and a
//! deadline (Intel SDM vol. 3, "MP Initialization Protocol"). The 10 ms that
//! the manual puts between INIT and the start-up IPI are for processors from
//! before virtualization: Linux leaves them out too (arch/x86/kernel/smpboot.c,
//! `smp_quirk_init_udelay`).

use core::sync::atomic::{AtomicUsize, Ordering};

use cloister_abi::CoreCounters;
use cloister_abi::trace::TraceRing;
use cloister_core::acpi::MadtCore;

use crate::arch::memory::{Block, Frame, FramePool, PAGE};
use crate::arch::percpu::{self, PerCpu};
use crate::arch::{apic, cpu, paging};
use crate::boot::ap;
use crate::cores;
use crate::watch::Watch;

const NO_MEMORY: &str = "hypervisor.memory is too small for its stack and counters";

/// Pages of each core's stack, without the guard page below it.
const STACK_PAGES: u64 = 16;

/// What cores run once all of them have started: a function and its argument.
static ENTRY: AtomicUsize = AtomicUsize::new(0);
static ARGUMENT: AtomicUsize = AtomicUsize::new(0);

/// What cores run: they share `T`.
pub(crate) type Entry<T> = extern "sysv64" fn(&'static T, &'static PerCpu) -> !;

/// Starts every core of `cores` but the one that runs this, each with its
/// counters.
///
/// # Errors
/// The number and APIC ID of the core that did not start, and why.
pub(crate) fn start_all(
    cores: &[MadtCore],
    trampoline: &Block,
    pool: &'static FramePool,
) -> Result<(), (usize, u32, &'static str)> {
    const COUNTERS: u64 = size_of::<CoreCounters>() as u64 / PAGE;
    const RING: u64 = size_of::<TraceRing>() as u64 / PAGE;
    const WATCH: u64 = size_of::<Watch>() as u64 / PAGE;
    trampoline.write(0, ap::code());
    for (number, core) in cores.iter().enumerate() {
        let fail = |why| (number, core.apic_id, why);
        let counters: Option<&'static mut CoreCounters> =
            pool.pages(COUNTERS, PAGE).and_then(Frame::zeroed);
        let counters = counters.ok_or(fail(NO_MEMORY))?;
        counters.core.store(number as u64, Ordering::Relaxed);
        let ring: Option<&'static mut TraceRing> = pool.pages(RING, PAGE).and_then(Frame::zeroed);
        let ring = ring.ok_or(fail(NO_MEMORY))?;
        let watch: Option<&'static mut Watch> = pool.pages(WATCH, PAGE).and_then(Frame::zeroed);
        let watch = watch.ok_or(fail(NO_MEMORY))?;
        cores::core(number).set_up(core.apic_id, counters, ring, watch);
        if core.apic_id == percpu::this().apic_id() {
            continue;
        }
        let id = u32::try_from(number).unwrap_or(u32::MAX);
        let page = trampoline.range().start;
        // SAFETY: the trampoline is in place, and nobody has started the core.
        unsafe { start(pool, page, id, core.apic_id) }.map_err(fail)?;
    }
    Ok(())
}

/// Starts the core with number `core` and APIC ID `apic_id`.
///
/// # Errors
/// When the pool is empty, or the core does not answer in time.
///
/// # Safety
/// The trampoline is in place at `trampoline`, the hypervisor's tables are
/// built, and the core runs nothing.
unsafe fn start(
    pool: &FramePool,
    trampoline: u64,
    core: u32,
    apic_id: u32,
) -> Result<(), &'static str> {
    let stack = pool.pages(STACK_PAGES + 1, PAGE).ok_or(NO_MEMORY)?;
    let pages = (size_of::<PerCpu>() as u64).div_ceil(PAGE);
    let data = pool.pages(pages, PAGE).ok_or(NO_MEMORY)?;
    let data: &'static PerCpu = data.place(PerCpu::new(core, apic_id)).ok_or(NO_MEMORY)?;
    let top = stack.address() + stack.len();
    paging::guard(pool, stack.address()).map_err(|_| NO_MEMORY)?;
    paging::note_stack(stack.address() + PAGE, top);
    ap::prepare(top, data);
    // SAFETY: the core waits for exactly this.
    unsafe {
        apic::send_init(apic_id);
        wait(10, || false);
        for _ in 0..2 {
            apic::send_startup(apic_id, trampoline);
            if wait(100_000, || data.is_online()) {
                return Ok(());
            }
        }
    }
    if wait(2_000_000, || data.is_online()) {
        return Ok(());
    }
    Err("it did not answer INIT and two start-up IPIs within 2 s")
}

/// First Rust code of a core that was started.
///
/// # Safety
/// Called once per core, with the data that [`start`] made for it.
pub(crate) unsafe fn enter(data: &'static PerCpu) -> ! {
    // SAFETY: this core's own data; the tables are built.
    unsafe {
        paging::enter();
        percpu::install(data);
    }
    cpu::enable_features();
    apic::enter_mode();
    data.set_online();
    let mut others = false;
    // Asleep, a core takes nothing from the one that prepares the machine.
    let entry = loop {
        cpu::wait_for_nmi();
        data.take_nmi();
        match ENTRY.load(Ordering::Acquire) {
            0 => others = true,
            entry => break entry,
        }
    };
    if others {
        data.note_nmi();
    }
    let argument = ARGUMENT.load(Ordering::Acquire);
    // SAFETY: `release` stored a function that takes such an argument; a
    // reference is passed like an integer.
    let entry = unsafe {
        core::mem::transmute::<usize, extern "sysv64" fn(usize, &'static PerCpu) -> !>(entry)
    };
    entry(argument, data)
}

/// Lets the others of the machine's `cores` cores go on to
/// `entry(argument, …)`, by an NMI for each.
pub(crate) fn release<T: Sync>(entry: Entry<T>, argument: &'static T, cores: usize) {
    ARGUMENT.store(core::ptr::from_ref(argument) as usize, Ordering::Release);
    ENTRY.store(entry as usize, Ordering::Release);
    let own = percpu::this().apic_id();
    let all = (0..cores).map(|number| cores::core(number).apic_id());
    all.filter(|&id| id != own).for_each(apic::send_nmi);
}

/// Waits until `done`, at most about `microseconds`; says whether it was.
///
/// Timed by reads of the port 0x80, each about a microsecond on a machine with
/// an ISA bus behind it: no clock is known this early. The TSC bounds it from
/// below where such reads are fast (emulators): 1000 cycles each at least.
fn wait(microseconds: u64, mut done: impl FnMut() -> bool) -> bool {
    for _ in 0..microseconds {
        if done() {
            return true;
        }
        let start = cpu::tsc();
        // SAFETY: port 0x80 is the POST code display: reading it is harmless.
        unsafe { cpu::inb(0x80) };
        while cpu::tsc().wrapping_sub(start) < 1000 {
            cpu::pause();
        }
    }
    done()
}
