//! What goes to the console for `xtask`: the records of `cloister_abi::record`.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use cloister_abi::record::{self, Record};
use cloister_abi::shared::CONSOLE_BYTES;
use cloister_abi::trace::{CONTINUATION, InterruptKind, TraceRecord};
use cloister_abi::{BACKTRACE_FRAMES, LinuxState, Reason};
use cloister_manifest::Dma;

use crate::arch::console::{self, Console};
use crate::arch::percpu;
use crate::cores::{self, Request};
use crate::partition::{Partition, backtrace};
use crate::pci::Assigned;
use crate::run::Core;
use crate::system::System;
use crate::virt::{Vcpu, Vendor};
use crate::watch::{self, Source};

/// How long a running core may take to bring its counters up to date, TSC
/// cycles: seconds on any machine.
const SYNC_CYCLES: u64 = 2_000_000_000;

/// How many refusals of one core are printed; all are counted.
pub(crate) const REFUSALS: u32 = 32;

/// The hypervisor is up with `cpus` cores.
pub(crate) fn boot(vendor: &'static str, cpus: usize) {
    console::lock().record(&Record::Boot(record::Boot {
        version: env!("CARGO_PKG_VERSION"),
        vendor,
        cpus: small(cpus),
    }));
}

/// The machine has an IOMMU, which is on.
pub(crate) fn iommu(kind: &'static str, interrupts: bool) {
    console::lock().record(&Record::Iommu(record::Iommu { kind, interrupts }));
}

/// The partition called `owner` has `device`.
pub(crate) fn device(owner: &str, device: &Assigned) {
    let mut address = heapless::String::<16>::new();
    let _ = fmt::write(&mut address, format_args!("0000:{}", device.info.address));
    console::lock().record(&Record::Device(record::Device {
        owner,
        device: &address,
        id: u32::from(device.info.vendor) << 16 | u32::from(device.info.device),
        unprotected: device.dma == Dma::Unprotected,
    }));
}

/// A control word of core `core`.
pub(crate) fn control(core: usize, name: &'static str, value: u64) {
    let control = record::Control {
        core: small(core),
        name,
        value,
    };
    console::lock().record(&Record::Control(control));
}

/// Linux's state has changed.
pub(crate) fn linux(state: LinuxState) {
    console::lock().record(&Record::Linux(record::Linux { state }));
}

/// A partition's state has changed.
pub(crate) fn state<V: Vendor>(partition: &Partition<V>) {
    let detail = partition.life.detail.lock().clone();
    console::lock().record(&Record::Partition(record::Partition {
        name: partition.name(),
        state: partition.life.state(),
        exit_code: partition.life.exit_code(),
        restarts: partition.life.status.restarts.load(Ordering::Relaxed),
        detail: &detail,
    }));
}

/// The same, with the counters of its cores.
pub(crate) fn partition<V: Vendor>(partition: &Partition<V>) {
    state(partition);
    for core in partition.config.cpus.iter() {
        counters(core);
    }
}

/// The guest on this core reached for what is not its own. A guest that does so
/// again and again pays for two instructions each time.
#[inline(always)]
pub(crate) fn refused<V: Vendor>(core: &Core<V>, reason: Reason, detail: impl fmt::Display) {
    let left = core.refusals.get();
    if left != 0 {
        core.refusals.set(left - 1);
        print_refused(core, reason, detail);
    }
}

#[cold]
#[inline(never)]
fn print_refused<V: Vendor>(core: &Core<V>, reason: Reason, detail: impl fmt::Display) {
    let mut text = heapless::String::<160>::new();
    let _ = fmt::write(&mut text, format_args!("{detail}"));
    let frames = backtrace::take::<V>(core.guest, &core.vcpu);
    console::lock().record(&Record::Refused(record::Refused {
        owner: core.system.owner_name(core.number),
        core: small(core.number),
        reason: reason.name(),
        detail: &text,
        rip: core.vcpu.rip(),
        frames: small(frames.len()),
        backtrace: backtrace::padded(&frames),
    }));
}

/// Prints what a partition has written to its console since the last time.
pub(crate) fn drain<V: Vendor>(partition: &Partition<V>) {
    const PIECE: usize = 256;
    let mut printed = partition.life.printed.lock();
    let ring = partition.console;
    let written = ring.written.load(Ordering::Acquire);
    let oldest = written.saturating_sub(CONSOLE_BYTES as u64);
    let mut at = (*printed).clamp(oldest, written);
    while at < written {
        let mut piece = heapless::String::<{ PIECE * 4 }>::new();
        let end = written.min(at.saturating_add(PIECE as u64));
        for index in at..end {
            let slot = usize::try_from(index % CONSOLE_BYTES as u64).unwrap_or(0);
            let byte = ring
                .bytes
                .get(slot)
                .map_or(0, |byte| byte.load(Ordering::Relaxed));
            let _ = match byte {
                b'\n' | b'\t' | b' '..=b'~' => piece.push(char::from(byte)),
                _ => piece.push('?'),
            };
        }
        at = end;
        let text = record::Text {
            name: partition.name(),
            text: piece.as_str(),
        };
        console::lock().record(&Record::Console(text));
    }
    *printed = written;
}

/// The counters of core `core`.
fn counters(number: usize) {
    let Some(counters) = cores::core(number).counters() else {
        return;
    };
    let load = |counter: &core::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let mut console = console::lock();
    console.record(&Record::Core(record::Core {
        core: small(number),
        total: load(&counters.total),
        since_quiesce: load(&counters.since_quiesce),
        interrupts_since_quiesce: load(&counters.interrupts_since_quiesce),
        dataplane: load(&counters.last_dataplane),
        quiesce_count: load(&counters.quiesce_count),
    }));
    for (reason, counter) in Reason::ALL.iter().zip(&counters.reasons) {
        if load(&counter.total) != 0 {
            console.record(&Record::Exits(record::Exits {
                core: small(number),
                reason: reason.name(),
                total: load(&counter.total),
                since_quiesce: load(&counter.since_quiesce),
                cycles: load(&counter.cycles),
                worst: load(&counter.worst),
                last_rip: load(&counter.last_rip),
            }));
        }
    }
}

/// The ring of core `number`, if anything was traced: each exit, and after that
/// of an interrupt what it interrupted.
fn traces(number: usize) {
    let Some(ring) = cores::core(number).trace() else {
        return;
    };
    let mut interrupt: Option<record::Interrupt<heapless::String<32>>> = None;
    let (written, lost) = ring.read(|entry| {
        if entry.reason == CONTINUATION {
            if let Some(interrupt) = &mut interrupt {
                add_frames(interrupt, entry);
            }
            return;
        }
        print_interrupt(interrupt.take());
        let reason = Reason::ALL.get(usize::from(entry.reason));
        console::lock().record(&Record::Trace(record::Trace {
            core: small(number),
            sequence: entry.sequence,
            reason: reason.map_or("other", |reason| reason.name()),
            tsc: entry.tsc,
            rip: entry.rip,
            cr3: entry.cr3,
            qualification: entry.qualification,
            cycles: entry.cycles,
        }));
        if entry.source != InterruptKind::None as u8 {
            interrupt = Some(begin_interrupt(number, entry));
        }
    });
    print_interrupt(interrupt);
    if written > 0 {
        console::lock().record(&Record::Traced(record::Traced {
            core: small(number),
            written,
            lost,
        }));
    }
}

fn begin_interrupt(number: usize, entry: &TraceRecord) -> record::Interrupt<heapless::String<32>> {
    let kind = InterruptKind::from_code(entry.source);
    let sender = Some(entry.sender).filter(|&sender| sender != u32::MAX);
    let source = Source {
        vector: entry.vector,
        kind,
        detail: u32::try_from(entry.qualification >> 32).unwrap_or(0),
        sender,
        ..Source::default()
    };
    let mut backtrace = [0; BACKTRACE_FRAMES];
    backtrace[0] = entry.rip;
    record::Interrupt {
        core: small(number),
        sequence: entry.sequence,
        tsc: entry.tsc,
        vector: entry.vector,
        kind: heapless::String::try_from(kind.name()).unwrap_or_default(),
        origin: watch::origin(&source),
        sender,
        sender_rip: entry.sender_rip,
        rip: entry.rip,
        cr3: entry.cr3,
        frames: u32::from(entry.frames),
        backtrace,
    }
}

/// The return addresses of a continuation record, behind those that are there.
fn add_frames(interrupt: &mut record::Interrupt<heapless::String<32>>, entry: &TraceRecord) {
    let present = |address: &&mut u64| **address == 0;
    let free = interrupt
        .backtrace
        .iter_mut()
        .skip_while(|address| !present(address));
    for (to, from) in free.zip(entry.continued()) {
        *to = from;
    }
}

fn print_interrupt(interrupt: Option<record::Interrupt<heapless::String<32>>>) {
    let Some(interrupt) = interrupt else {
        return;
    };
    console::lock().record(&Record::Interrupt(record::Interrupt {
        core: interrupt.core,
        sequence: interrupt.sequence,
        tsc: interrupt.tsc,
        vector: interrupt.vector,
        kind: interrupt.kind.as_str(),
        origin: interrupt.origin.as_str(),
        sender: interrupt.sender,
        sender_rip: interrupt.sender_rip,
        rip: interrupt.rip,
        cr3: interrupt.cr3,
        frames: interrupt.frames,
        backtrace: interrupt.backtrace,
    }));
}

/// Who interrupted core `number`, and how often.
fn interrupters(number: usize) {
    let Some(watch) = cores::core(number).watch() else {
        return;
    };
    for (_, source, entry) in watch.table.sources() {
        let frames = source.trail.iter().take_while(|&&address| address != 0);
        console::lock().record(&Record::Interrupter(record::Interrupter {
            core: small(number),
            vector: source.vector,
            kind: source.kind.name(),
            origin: watch::origin(&source).as_str(),
            sender: source.sender,
            count: entry.count.load(Ordering::Relaxed),
            tsc: entry.tsc.load(Ordering::Relaxed),
            rip: entry.rip.load(Ordering::Relaxed),
            frames: small(frames.count()),
            backtrace: source.trail,
        }));
    }
    let others = watch.table.others.load(Ordering::Relaxed);
    if others > 0 {
        console::lock().record(&Record::Interrupter(record::Interrupter {
            core: small(number),
            vector: 0,
            kind: "others",
            origin: "",
            sender: None,
            count: others,
            tsc: 0,
            rip: 0,
            frames: 0,
            backtrace: [0; BACKTRACE_FRAMES],
        }));
    }
}

/// The whole report, before the machine goes away. Cores that still run are
/// asked to bring their counters up to date. False: another core prints it at
/// this moment, and ends the machine when it has.
#[must_use]
pub(crate) fn end<V: Vendor>(system: &System<V>, outcome: &'static str, detail: &str) -> bool {
    static ENDED: AtomicBool = AtomicBool::new(false);
    if ENDED.swap(true, Ordering::AcqRel) {
        return false;
    }
    let this = percpu::this().core() as usize;
    for number in (0..system.cores).filter(|&number| number != this) {
        if cores::core(number).is_running()
            && !cores::core(number).ask_and_wait(Request::Sync, SYNC_CYCLES)
        {
            log::warn!("core {number} did not bring its counters up to date");
        }
    }
    crate::iommu::report::end(system);
    for each in &system.partitions {
        drain(each);
        partition(each);
    }
    if let Some(guest) = &system.linux {
        linux(guest.state());
        for core in guest.guest.cpus.iter() {
            counters(core);
        }
    }
    for number in 0..system.cores {
        traces(number);
        interrupters(number);
    }
    let mut console = console::lock();
    console.record(&Record::End(record::End { outcome, detail }));
    console.flush();
    true
}

/// The hypervisor has failed: the last thing that it prints.
pub(crate) fn panicked(console: &mut Console, detail: &str) {
    console.record(&Record::End(record::End {
        outcome: "hypervisor-panic",
        detail,
    }));
    console.flush();
}

/// The hypervisor does not start: the last thing that it prints.
pub(crate) fn refused_to_start(console: &mut Console, detail: &str) {
    console.record(&Record::End(record::End {
        outcome: "refused",
        detail,
    }));
    console.flush();
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
