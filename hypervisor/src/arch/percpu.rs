//! Per-core data, found through the GS base while the hypervisor runs.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use x86::msr::IA32_GS_BASE;

use crate::arch::{msr, tables};

/// What every core has of its own. Other cores see it only through atomics.
#[repr(C)]
pub(crate) struct PerCpu {
    /// Address of this structure, so that `gs:[0]` yields it.
    this: AtomicU64,
    /// An NMI arrived while the hypervisor itself ran. Set by the NMI handler;
    /// the exit loop takes it. Assembly reads it at [`NMI_OFFSET`].
    nmi: AtomicBool,
    /// Something is to be done before the core enters its guest. Behind the NMI
    /// flag, so that assembly can test both at once.
    attention: AtomicBool,
    /// The last external interrupt that the hypervisor took: `0x100 | vector`.
    taken: AtomicU32,
    /// The next one is left in service, for its guest to EOI.
    keep_in_service: AtomicBool,
    /// Physical core number, in MADT order.
    core: AtomicU32,
    /// Local APIC ID.
    apic_id: AtomicU32,
    /// Set by the core itself once it runs on its own stack and tables.
    online: AtomicBool,
    /// Virtualisation is on, or about to be.
    virtualised: AtomicBool,
    /// GDT, TSS and the stacks that the TSS names.
    pub(crate) tables: tables::CoreTables,
}

/// Offset of the NMI flag from the GS base.
pub(crate) const NMI_OFFSET: usize = core::mem::offset_of!(PerCpu, nmi);
const _: () = assert!(NMI_OFFSET + 1 == core::mem::offset_of!(PerCpu, attention));

impl PerCpu {
    /// Data for core number `core` with APIC ID `apic_id`.
    pub(crate) const fn new(core: u32, apic_id: u32) -> Self {
        Self {
            this: AtomicU64::new(0),
            nmi: AtomicBool::new(false),
            attention: AtomicBool::new(false),
            taken: AtomicU32::new(0),
            keep_in_service: AtomicBool::new(false),
            core: AtomicU32::new(core),
            apic_id: AtomicU32::new(apic_id),
            online: AtomicBool::new(false),
            virtualised: AtomicBool::new(false),
            tables: tables::CoreTables::new(),
        }
    }

    /// Physical core number, in MADT order.
    pub(crate) fn core(&self) -> u32 {
        self.core.load(Ordering::Relaxed)
    }

    /// Local APIC ID.
    pub(crate) fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }

    /// Sets the APIC ID: the boot core learns its own late.
    pub(crate) fn identify(&self, apic_id: u32) {
        self.apic_id.store(apic_id, Ordering::Relaxed);
    }

    /// Whether the core has started.
    pub(crate) fn is_online(&self) -> bool {
        self.online.load(Ordering::Acquire)
    }

    /// The core says that it has started.
    pub(crate) fn set_online(&self) {
        self.online.store(true, Ordering::Release);
    }

    /// Whether this is the first call: the core turns virtualisation on once.
    pub(crate) fn begin_virtualisation(&self) -> bool {
        !self.virtualised.swap(true, Ordering::Relaxed)
    }

    /// Called by the interrupt handler. Says whether to leave it in service.
    pub(crate) fn note_interrupt(&self, vector: u8) -> bool {
        self.taken
            .store(0x100 | u32::from(vector), Ordering::Relaxed);
        self.keep_in_service.load(Ordering::Relaxed)
    }

    /// Whether the next interrupts stay in service.
    pub(crate) fn keep_in_service(&self, keep: bool) {
        self.keep_in_service.store(keep, Ordering::Relaxed);
    }

    /// The last interrupt that the hypervisor took since the last call.
    pub(crate) fn take_interrupt(&self) -> Option<u8> {
        match self.taken.swap(0, Ordering::Relaxed) {
            0 => None,
            taken => Some(taken.to_le_bytes()[0]),
        }
    }

    /// Says whether something is to be done before the guest is entered. Only
    /// the core itself asks and tells.
    pub(crate) fn set_attention(&self, on: bool) {
        self.attention.store(on, Ordering::Relaxed);
    }

    /// Called by the NMI handler.
    pub(crate) fn note_nmi(&self) {
        self.nmi.store(true, Ordering::SeqCst);
    }

    /// Whether an NMI arrived in the hypervisor since the last call.
    pub(crate) fn take_nmi(&self) -> bool {
        self.nmi.swap(false, Ordering::SeqCst)
    }
}

/// Makes `data` the running core's: GS base, GDT, TSS, IDT.
///
/// # Safety
/// Called once per core, and `data` is used by no other core.
pub(crate) unsafe fn install(data: &'static PerCpu) {
    data.this
        .store(core::ptr::from_ref(data) as u64, Ordering::Relaxed);
    // SAFETY: loading the tables resets the GS base, so it comes after. Both
    // are this core's alone.
    unsafe {
        tables::load(&data.tables);
        msr::write(IA32_GS_BASE, core::ptr::from_ref(data) as u64);
    }
}

/// The running core's data.
#[inline]
pub(crate) fn this() -> &'static PerCpu {
    let address: u64;
    // SAFETY: while the hypervisor runs, GS base is the address of this core's
    // `PerCpu`, whose first field is that address (see `install`; vendors
    // restore it at every exit).
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) address, options(nostack, preserves_flags, readonly));
        &*(address as *const PerCpu)
    }
}
