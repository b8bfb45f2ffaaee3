//! Starting the other cores, one by one, each with an acknowledgement and a
//! deadline (Intel SDM vol. 3, "MP Initialization Protocol"; INIT, 10 ms,
//! SIPI, 200 µs, SIPI).

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::arch::memory::{FramePool, PAGE};
use crate::arch::percpu::{self, PerCpu};
use crate::arch::{apic, cpu, paging};
use crate::boot::ap;

/// Pages of each core's stack, without the guard page below it.
const STACK_PAGES: u64 = 16;

/// What cores run once all of them have started.
static ENTRY: AtomicUsize = AtomicUsize::new(0);
static ARGUMENT: AtomicUsize = AtomicUsize::new(0);

/// Type of what cores run: the argument that was given to [`release`].
pub(crate) type Entry = fn(usize, &'static PerCpu) -> !;

/// Starts the core with number `core` and APIC ID `apic_id`.
///
/// # Errors
/// When the pool is empty, or the core does not answer in time.
///
/// # Safety
/// The trampoline is in place at `trampoline`, the hypervisor's tables are
/// built, and the core runs nothing.
pub(crate) unsafe fn start(
    pool: &FramePool,
    trampoline: u64,
    core: u32,
    apic_id: u32,
) -> Result<(), &'static str> {
    const NO_MEMORY: &str = "the hypervisor's memory is too small for its stack";
    let stack = pool.pages(STACK_PAGES + 1, PAGE).ok_or(NO_MEMORY)?;
    let pages = (size_of::<PerCpu>() as u64).div_ceil(PAGE);
    // SAFETY: `PerCpu` is made of integers, for which zero is valid; but its
    // descriptor tables want their constants, so it is written whole.
    let data: &'static PerCpu = unsafe {
        let data: *mut PerCpu = pool.pages(pages, PAGE).ok_or(NO_MEMORY)?.address() as *mut PerCpu;
        data.write(PerCpu::new(core, apic_id));
        &*data
    };
    let top = stack.address() + stack.len();
    paging::guard(pool, stack.address()).map_err(|_| NO_MEMORY)?;
    paging::note_stack(stack.address() + PAGE, top);
    ap::prepare(top, data);
    // SAFETY: the core waits for exactly this.
    unsafe {
        apic::send_init(apic_id);
        wait(10_000, || false);
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
    apic::enable_x2apic();
    data.set_online();
    loop {
        let entry = ENTRY.load(Ordering::Acquire);
        if entry != 0 {
            // SAFETY: `release` stored a function of this type.
            let entry: Entry = unsafe { core::mem::transmute::<usize, Entry>(entry) };
            entry(ARGUMENT.load(Ordering::Acquire), data);
        }
        cpu::pause();
    }
}

/// Lets every started core go on to `entry(argument, …)`.
pub(crate) fn release(entry: Entry, argument: usize) {
    ARGUMENT.store(argument, Ordering::Release);
    ENTRY.store(entry as usize, Ordering::Release);
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
