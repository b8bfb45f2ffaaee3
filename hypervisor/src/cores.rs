//! What cores know of each other: numbers, requests, counters. Everything here
//! is neutral between vendors and shared through atomics.

use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use cloister_abi::trace::TraceRing;
use cloister_abi::{CoreCounters, MAX_CORES};
use cloister_manifest::CpuSet;
use spin::{Mutex, Once};

use crate::arch::{apic, cpu};
use crate::watch::Watch;

/// What one core may ask of another. The receiver is kicked by an NMI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Request {
    /// Bring counters up to date, then go on.
    Sync = 1 << 0,
    /// Leave the guest and wait.
    Stop = 1 << 1,
    /// Start the partition's program from its pristine image.
    Start = 1 << 2,
    /// INIT from another core of the same guest.
    Init = 1 << 3,
    /// A start-up IPI from another core of the same guest.
    Sipi = 1 << 4,
    /// Prepare the partition's memory anew, and start all of its cores.
    Renew = 1 << 5,
    /// Look at the flags that the operator imposes.
    Flags = 1 << 6,
    /// Forget translations of the guest's memory.
    Flush = 1 << 7,
    /// Stand still while another core looks at what is shared ([`hold`]).
    Hold = 1 << 8,
}

/// Requests taken at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Requests(u32);

impl Requests {
    /// Whether `request` is among them.
    pub(crate) fn has(self, request: Request) -> bool {
        self.0 & request as u32 != 0
    }

    /// Whether there is none.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The shared side of one core.
pub(crate) struct CoreShared {
    apic_id: AtomicU32,
    requests: AtomicU32,
    served: AtomicU64,
    /// Kicks whose requests were found before they arrived.
    owed: AtomicU32,
    sipi_vector: AtomicU8,
    /// The guest's logical destination and destination format registers.
    logical: AtomicU32,
    format: AtomicU32,
    /// The core is inside its guest loop (not parked).
    running: AtomicBool,
    counters: Once<&'static CoreCounters>,
    trace: Once<&'static TraceRing>,
    watch: Once<&'static Watch>,
}

static CORES: [CoreShared; MAX_CORES] = [const { CoreShared::new() }; MAX_CORES];

/// The shared side of core `number`; of core 0 if there is no such core.
pub(crate) fn core(number: usize) -> &'static CoreShared {
    CORES.get(number).unwrap_or(&CORES[0])
}

impl CoreShared {
    const fn new() -> Self {
        Self {
            apic_id: AtomicU32::new(0),
            requests: AtomicU32::new(0),
            served: AtomicU64::new(0),
            owed: AtomicU32::new(0),
            sipi_vector: AtomicU8::new(0),
            logical: AtomicU32::new(0),
            format: AtomicU32::new(u32::MAX),
            running: AtomicBool::new(false),
            counters: Once::new(),
            trace: Once::new(),
            watch: Once::new(),
        }
    }

    /// Sets what is known at boot.
    pub(crate) fn set_up(
        &self,
        apic_id: u32,
        counters: &'static CoreCounters,
        trace: &'static TraceRing,
        watch: &'static Watch,
    ) {
        self.apic_id.store(apic_id, Ordering::Relaxed);
        self.counters.call_once(|| counters);
        self.trace.call_once(|| trace);
        self.watch.call_once(|| watch);
    }

    /// LDR and DFR of its xAPIC, as its guest set them.
    pub(crate) fn logical(&self) -> (u32, u32) {
        (
            self.logical.load(Ordering::Relaxed),
            self.format.load(Ordering::Relaxed),
        )
    }

    /// Remembers what the guest writes to LDR (`Some`) or DFR.
    pub(crate) fn set_logical(&self, ldr: Option<u32>, dfr: Option<u32>) {
        if let Some(ldr) = ldr {
            self.logical.store(ldr, Ordering::Relaxed);
        }
        if let Some(dfr) = dfr {
            self.format.store(dfr, Ordering::Relaxed);
        }
    }

    /// Local APIC ID.
    pub(crate) fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }

    /// Its counters; `None` for a core that this machine does not have.
    pub(crate) fn counters(&self) -> Option<&'static CoreCounters> {
        self.counters.get().copied()
    }

    /// Its trace ring.
    pub(crate) fn trace(&self) -> Option<&'static TraceRing> {
        self.trace.get().copied()
    }

    /// Who interrupts it.
    pub(crate) fn watch(&self) -> Option<&'static Watch> {
        self.watch.get().copied()
    }

    /// Whether its interrupts exit, so that senders leave word.
    pub(crate) fn is_watched(&self) -> bool {
        self.watch.get().is_some_and(|watch| watch.is_on())
    }

    /// Whether the core is in its guest loop.
    pub(crate) fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    /// The core says whether it is in its guest loop.
    pub(crate) fn set_running(&self, running: bool) {
        self.running.store(running, Ordering::SeqCst);
    }

    /// Posts `request` and kicks the core. While a request waits, its kick is
    /// on its way, so another needs none: one NMI for each time that requests
    /// are taken.
    pub(crate) fn ask(&self, request: Request) {
        if self.requests.fetch_or(request as u32, Ordering::SeqCst) == 0 {
            apic::send_nmi(self.apic_id());
        }
    }

    /// Posts a start-up IPI.
    pub(crate) fn ask_sipi(&self, vector: u8) {
        self.sipi_vector.store(vector, Ordering::SeqCst);
        self.ask(Request::Sipi);
    }

    /// Vector of the last start-up IPI.
    pub(crate) fn sipi_vector(&self) -> u8 {
        self.sipi_vector.load(Ordering::SeqCst)
    }

    /// Whether a request waits.
    pub(crate) fn has_requests(&self) -> bool {
        self.requests.load(Ordering::SeqCst) != 0
    }

    /// Whether `request` waits.
    pub(crate) fn is_asked(&self, request: Request) -> bool {
        Requests(self.requests.load(Ordering::SeqCst)).has(request)
    }

    /// Takes all requests. The core itself calls this.
    pub(crate) fn take(&self) -> Requests {
        Requests(self.requests.swap(0, Ordering::SeqCst))
    }

    /// The core took requests that it found without having been kicked: their
    /// kick is still to come.
    pub(crate) fn owe_kick(&self) {
        self.owed.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a kick is still to come whose requests have been taken.
    pub(crate) fn owes_kick(&self) -> bool {
        self.owed.load(Ordering::Relaxed) != 0
    }

    /// Whether an NMI without a request is the kick of requests that have been
    /// taken already.
    pub(crate) fn is_late_kick(&self) -> bool {
        let owed = self.owed.load(Ordering::Relaxed);
        self.owed.store(owed.saturating_sub(1), Ordering::Relaxed);
        owed != 0
    }

    /// The core has done what it took.
    pub(crate) fn note_served(&self) {
        self.served.fetch_add(1, Ordering::SeqCst);
    }

    /// Asks and waits until the core has served it, at most about `cycles` TSC
    /// cycles. Says whether it did.
    pub(crate) fn ask_and_wait(&self, request: Request, cycles: u64) -> bool {
        let before = self.served.load(Ordering::SeqCst);
        self.ask(request);
        let start = cpu::tsc();
        while self.served.load(Ordering::SeqCst) == before {
            if cpu::tsc().wrapping_sub(start) > cycles {
                return false;
            }
            cpu::pause();
        }
        true
    }
}

/// How long [`hold`] waits for cores to stand still, TSC cycles: seconds on
/// any machine. They need microseconds, unless the machine is an emulator's.
const HOLD_CYCLES: u64 = 2_000_000_000;

/// A core holds others at this moment.
static HOLDING: AtomicBool = AtomicBool::new(false);
/// Those that stand still, one bit per core.
static HELD: AtomicU64 = AtomicU64::new(0);

/// Does `work` while those of `cpus` that run stand still in the hypervisor;
/// `this` core, which asks, does not. `None`: not all of them did in time,
/// another core holds cores already, or `this` is asked for something itself;
/// then `work` was not done.
pub(crate) fn hold<R>(cpus: CpuSet, this: usize, work: impl FnOnce() -> R) -> Option<R> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.try_lock()?;
    let others = || cpus.iter().filter(|&number| number != this);
    // In this order: who is on the way out of an earlier hold does not count.
    HOLDING.store(true, Ordering::SeqCst);
    HELD.store(0, Ordering::SeqCst);
    let mut wanted = 0_u64;
    for number in others().filter(|&number| core(number).is_running()) {
        wanted |= bit(number);
        core(number).ask(Request::Hold);
    }
    let start = cpu::tsc();
    let mut result = None;
    loop {
        if HELD.load(Ordering::SeqCst) & wanted == wanted {
            fence(Ordering::SeqCst);
            result = Some(work());
            break;
        }
        let late = cpu::tsc().wrapping_sub(start) > HOLD_CYCLES;
        // Who asks this core for something may be one that is to be held.
        if late || core(this).has_requests() {
            break;
        }
        cpu::pause();
    }
    HOLDING.store(false, Ordering::SeqCst);
    result
}

/// Stands still as long as another core holds this one, `number`.
pub(crate) fn stay_held(number: usize) {
    while HOLDING.load(Ordering::SeqCst) {
        HELD.fetch_or(bit(number), Ordering::SeqCst);
        cpu::pause();
    }
}

const fn bit(number: usize) -> u64 {
    1 << (number % 64)
}
