//! Who interrupts a core. While a core's interrupts exit (DEBUG, or
//! `linux.debug`), those who send it an IPI leave word of it, each interrupt
//! is attributed to its source, and a table says how often each source came.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use cloister_abi::BACKTRACE_FRAMES;
use cloister_abi::trace::InterruptKind;

use crate::arch::apic::{self, Register};
use crate::cores;
use crate::partition::backtrace;
use crate::routes::{self, Device};
use crate::run::Core;
use crate::virt::{Vcpu, Vendor};

/// Vector under which NMIs are noted.
pub(crate) const NMI: u8 = 2;

/// Sources that are told apart for one core; all others are counted together.
const SOURCES: usize = 128;
/// Places among them for sources whose callers found no place: they are told
/// apart without them.
const COARSE: usize = 40;
/// Return addresses of a sender by which sources are told apart.
const CALLERS: usize = 6;

/// One core's part. Zero is empty.
#[repr(C, align(4096))]
pub(crate) struct Watch {
    /// Its interrupts exit.
    on: AtomicBool,
    /// By vector: the IPI that was sent to this core last ([`Note`]). Others
    /// write it.
    sent: [AtomicU64; 256],
    /// The last IPI that this core sent to a watched one.
    trail: Trail,
    /// What interrupted it. The core alone writes it.
    sources: [Entry; SOURCES],
    /// How many found no place there.
    others: AtomicU64,
}

/// Where a core was when it sent an IPI. The core alone writes it; readers
/// take it only if `sequence` is even and the same before and after.
struct Trail {
    sequence: AtomicU64,
    /// Receiver << 8 | vector.
    to: AtomicU64,
    frames: [AtomicU64; BACKTRACE_FRAMES],
}

/// One source.
struct Entry {
    /// Hash of what tells sources apart; 0: free.
    key: AtomicU64,
    /// Vector, kind << 8, core that sent it plus one << 16.
    what: AtomicU32,
    detail: AtomicU32,
    count: AtomicU64,
    tsc: AtomicU64,
    rip: AtomicU64,
    frames: [AtomicU64; BACKTRACE_FRAMES],
}

/// An interrupt and its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) vector: u8,
    pub(crate) kind: InterruptKind,
    /// PCI function, or global system interrupt.
    pub(crate) detail: u32,
    /// The core that sent it.
    pub(crate) sender: Option<u32>,
    /// Its return addresses at that moment, innermost first; then zeros.
    pub(crate) trail: [u64; BACKTRACE_FRAMES],
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
        self.on.load(Ordering::Relaxed)
    }

    /// The core says whether they do.
    pub(crate) fn set_on(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// Counts an interrupt of the guest that stood at `rip`.
    fn add(&self, source: &Source, tsc: u64, rip: u64) {
        let coarse = Source {
            trail: [0; BACKTRACE_FRAMES],
            ..*source
        };
        let place = |source: &Source, places: usize| {
            let key = source.key();
            let entry = self.sources.iter().take(places).find(|entry| {
                let known = entry.key.load(Ordering::Relaxed);
                known == key || known == 0
            })?;
            entry.key.store(key, Ordering::Relaxed);
            Some((entry, source.trail))
        };
        let found = place(source, SOURCES - COARSE).or_else(|| place(&coarse, SOURCES));
        let Some((entry, trail)) = found else {
            self.others.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let sender = source.sender.map_or(0, |sender| sender + 1);
        let what = u32::from(source.vector) | (source.kind as u32) << 8 | sender << 16;
        entry.what.store(what, Ordering::Relaxed);
        entry.detail.store(source.detail, Ordering::Relaxed);
        entry.tsc.store(tsc, Ordering::Relaxed);
        entry.rip.store(rip, Ordering::Relaxed);
        for (to, from) in entry.frames.iter().zip(trail) {
            to.store(from, Ordering::Relaxed);
        }
        entry.count.fetch_add(1, Ordering::Release);
    }

    /// Gives every source, how often it came, and TSC and guest RIP at the last
    /// time to `sink`. Returns how many came from sources beyond the table.
    pub(crate) fn sources(&self, mut sink: impl FnMut(&Source, u64, u64, u64)) -> u64 {
        for entry in &self.sources {
            let count = entry.count.load(Ordering::Acquire);
            if count == 0 {
                continue;
            }
            let [vector, kind, sender, _] = entry.what.load(Ordering::Relaxed).to_le_bytes();
            let mut source = Source {
                vector,
                kind: InterruptKind::from_code(kind),
                detail: entry.detail.load(Ordering::Relaxed),
                sender: u32::from(sender).checked_sub(1),
                trail: [0; BACKTRACE_FRAMES],
            };
            for (to, from) in source.trail.iter_mut().zip(&entry.frames) {
                *to = from.load(Ordering::Relaxed);
            }
            let tsc = entry.tsc.load(Ordering::Relaxed);
            sink(&source, count, tsc, entry.rip.load(Ordering::Relaxed));
        }
        self.others.load(Ordering::Relaxed)
    }
}

impl Source {
    /// What tells sources apart: all but the moment. Never 0. (FNV-1a.)
    fn key(&self) -> u64 {
        const PRIME: u64 = 0x0100_0000_01b3;
        const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
        let sender = self.sender.map_or(0, |sender| u64::from(sender) + 1);
        let what = u64::from(self.vector) | (self.kind as u64) << 8 | sender << 16;
        let words = [what, u64::from(self.detail)];
        words
            .iter()
            .chain(self.trail.iter().take(CALLERS))
            .flat_map(|word| word.to_le_bytes())
            .fold(BASIS, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(PRIME)
            })
            .max(1)
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
        watch.add(&source, tsc, core.vcpu.rip());
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
    if let Some(lvt) = apic::lvt_with(vector) {
        return source(kind_of(lvt), 0);
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

fn kind_of(lvt: Register) -> InterruptKind {
    match lvt {
        Register::LvtTimer => InterruptKind::Timer,
        Register::LvtPerformance => InterruptKind::Performance,
        Register::LvtThermal => InterruptKind::Thermal,
        Register::LvtError => InterruptKind::Error,
        Register::LvtCmci => InterruptKind::Cmci,
        _ => InterruptKind::Lint,
    }
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
