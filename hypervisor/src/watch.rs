//! Who interrupts a core. While a core's interrupts exit (DEBUG, or
//! `linux.debug`), those who send it an IPI leave word of it, each interrupt
//! is attributed to its source, and a table says how often each source came.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use cloister_abi::BACKTRACE_FRAMES;
use cloister_abi::interrupts::InterruptTable;
pub(crate) use cloister_abi::interrupts::Source;
use cloister_abi::trace::InterruptKind;

use crate::arch::apic;
use crate::cores;
use crate::partition::backtrace;
use crate::routes::{self, Device};
use crate::run::Core;
use crate::virt::{Vcpu, Vendor};

/// Vector under which NMIs are noted.
pub(crate) const NMI: u8 = 2;

/// One core's part. Zero is empty.
#[repr(C, align(4096))]
pub(crate) struct Watch {
    /// What interrupted it, and whether its interrupts exit. The core alone
    /// writes it; Linux may read it.
    pub(crate) table: InterruptTable,
    /// TSC until which Linux's core is to be watched.
    until: AtomicU64,
    /// By vector: the IPI that was sent to this core last ([`Note`]). Others
    /// write it.
    sent: [AtomicU64; 256],
    /// The last IPI that this core sent to a watched one.
    trail: Trail,
}

/// Where a core was when it sent an IPI. The core alone writes it; readers
/// take it only if `sequence` is even and the same before and after.
struct Trail {
    sequence: AtomicU64,
    /// Receiver << 8 | vector.
    to: AtomicU64,
    frames: [AtomicU64; BACKTRACE_FRAMES],
}

/// What a sender leaves: its core and RIP, packed into one word so that it is
/// read whole. The RIP's upper eight bits are its sign.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Note(u64);

impl Note {
    /// It has not been attributed yet.
    const FRESH: u64 = 1 << 63;
    const PRESENT: u64 = 1 << 62;
    const CORE_SHIFT: u32 = 56;
    const RIP: u64 = (1 << Self::CORE_SHIFT) - 1;

    const fn new(core: usize, rip: u64) -> Self {
        let core = (core as u64 & 0x3f) << Self::CORE_SHIFT;
        Self(Self::FRESH | Self::PRESENT | core | rip & Self::RIP)
    }

    const fn core(self) -> u32 {
        (self.0 >> Self::CORE_SHIFT) as u32 & 0x3f
    }

    const fn rip(self) -> u64 {
        ((self.0 << 8).cast_signed() >> 8).cast_unsigned()
    }
}

const _: () = assert!(cloister_abi::MAX_CORES <= 64);

impl Watch {
    /// Whether this core's interrupts exit.
    pub(crate) fn is_on(&self) -> bool {
        self.table.watching.load(Ordering::Relaxed) != 0
    }

    /// The core says whether they do.
    pub(crate) fn set_on(&self, on: bool) {
        self.table.watching.store(u64::from(on), Ordering::Release);
    }

    /// Whether Linux's core is to be watched at `tsc`.
    pub(crate) fn is_due(&self, tsc: u64) -> bool {
        tsc < self.until.load(Ordering::Relaxed)
    }

    /// Linux's core is to be watched until `tsc`; [`u64::MAX`] is for good.
    pub(crate) fn set_until(&self, tsc: u64) {
        self.until.store(tsc, Ordering::SeqCst);
    }
}

/// Leaves word for the watched core `to` that this core sends it `vector`.
/// Called before it is sent.
pub(crate) fn note_ipi<V: Vendor>(core: &mut Core<V>, to: usize, vector: u8) {
    let frames = backtrace::take::<V>(core.guest, &core.vcpu);
    if let Some(own) = core.shared.watch() {
        let trail = &own.trail;
        let sequence = trail.sequence.load(Ordering::Relaxed);
        trail.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        trail
            .to
            .store((to as u64) << 8 | u64::from(vector), Ordering::Relaxed);
        let padded = frames.iter().copied().chain(core::iter::repeat(0));
        for (place, address) in trail.frames.iter().zip(padded) {
            place.store(address, Ordering::Relaxed);
        }
        trail.sequence.store(sequence + 2, Ordering::Release);
    }
    let note = Note::new(core.number, core.vcpu.rip());
    let receiver = cores::core(to).watch();
    if let Some(place) = receiver.and_then(|watch| watch.sent.get(usize::from(vector))) {
        place.store(note.0, Ordering::SeqCst);
    }
}

/// The return addresses of core `sender` when it sent `vector` to core `to`,
/// if that is the last that it sent; else only `rip`.
fn trail_of(sender: u32, to: usize, vector: u8, rip: u64) -> [u64; BACKTRACE_FRAMES] {
    let mut found = [0; BACKTRACE_FRAMES];
    let alone = || {
        let mut alone = [0; BACKTRACE_FRAMES];
        alone[0] = rip;
        alone
    };
    let sender = usize::try_from(sender).unwrap_or(0);
    let Some(watch) = cores::core(sender).watch() else {
        return alone();
    };
    let trail = &watch.trail;
    let before = trail.sequence.load(Ordering::Acquire);
    let meant = trail.to.load(Ordering::Relaxed);
    for (place, address) in found.iter_mut().zip(&trail.frames) {
        *place = address.load(Ordering::Relaxed);
    }
    fence(Ordering::Acquire);
    let after = trail.sequence.load(Ordering::Relaxed);
    let whole = before == after && before.is_multiple_of(2);
    if whole && meant == ((to as u64) << 8 | u64::from(vector)) && found[0] == rip {
        found
    } else {
        alone()
    }
}

/// Names the source of `vector`, which core `core` has taken, and counts it.
pub(crate) fn attribute<V: Vendor>(core: &Core<V>, vector: u8, tsc: u64) -> Source {
    let source = find(core, vector);
    if let Some(watch) = core.shared.watch() {
        watch.table.add(&source, tsc, core.vcpu.rip());
    }
    source
}

/// Names the source of the interrupt that waits for core `core`, which has not
/// taken it.
pub(crate) fn waiting<V: Vendor>(core: &Core<V>) -> Source {
    match apic::highest_pending() {
        Some(vector) => find(core, vector),
        None => Source {
            kind: InterruptKind::Spurious,
            ..Source::default()
        },
    }
}

fn find<V: Vendor>(core: &Core<V>, vector: u8) -> Source {
    let source = |kind, detail| Source {
        vector,
        kind,
        detail,
        ..Source::default()
    };
    let place = core
        .shared
        .watch()
        .and_then(|watch| watch.sent.get(usize::from(vector)));
    let note = place.map_or(Note(0), |place| {
        Note(place.fetch_and(!Note::FRESH, Ordering::SeqCst))
    });
    let from_core = || Source {
        kind: if vector == NMI {
            InterruptKind::Nmi
        } else {
            InterruptKind::Ipi
        },
        sender: Some(note.core()),
        trail: trail_of(note.core(), core.number, vector, note.rip()),
        ..source(InterruptKind::None, 0)
    };
    if note.0 & Note::FRESH != 0 {
        return from_core();
    }
    if vector == NMI {
        return source(InterruptKind::Nmi, 0);
    }
    if let Some(kind) = apic::lvt_with(vector) {
        return source(kind, 0);
    }
    match routes::sender(core.system, core.number, vector) {
        Some(Device::Pin(gsi)) => return source(InterruptKind::IoApic, gsi),
        Some(Device::Function(function)) => {
            return source(InterruptKind::Msi, u32::from(function));
        }
        None => {}
    }
    // Two IPIs, of which the second was sent when the first one had been taken
    // but not yet attributed, leave one note.
    if note.0 & Note::PRESENT != 0 {
        return from_core();
    }
    source(InterruptKind::Unknown, 0)
}

/// Where `source` is, for people.
pub(crate) fn origin(source: &Source) -> heapless::String<32> {
    use core::fmt::Write as _;
    let mut text = heapless::String::new();
    let detail = source.detail;
    let _ = match (source.kind, source.sender) {
        (_, Some(sender)) => write!(text, "core {sender}"),
        (InterruptKind::IoApic, _) => write!(text, "gsi {detail}"),
        (InterruptKind::Msi, _) => write!(
            text,
            "0000:{:02x}:{:02x}.{}",
            detail >> 8,
            detail >> 3 & 31,
            detail & 7
        ),
        _ => Ok(()),
    };
    text
}
