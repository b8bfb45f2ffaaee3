//! Which device's interrupts go to which core.
//!
//! Linux programs I/O APICs and devices without an exit, so the hypervisor has
//! to look. To look, it has to use index registers that Linux uses too: all of
//! Linux's cores stand still for that moment (some microseconds), and find
//! everything as they left it. That is done when a core becomes quiet, and
//! when DEBUG sees a vector that it cannot name; never more often than once in
//! [`MAX_AGE`] cycles.

use cloister_core::acpi::{IoApic, madt_io_apics};
use cloister_core::icr::{LogicalId, OwnCore};
use cloister_core::pci::FunctionInfo;
use cloister_core::route::Route;
use heapless::Vec;
use spin::{Mutex, MutexGuard};

use crate::arch::routes as hardware;
use crate::arch::{apic, cpu, pci};
use crate::cores;
use crate::system::System;
use crate::virt::Vendor;

/// TSC cycles for which a snapshot is good enough: some 50 ms.
const MAX_AGE: u64 = 100_000_000;

/// Most routes that are remembered; what is beyond is not known.
const ROUTES: usize = 256;

/// Who sends an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    /// Global system interrupt of an I/O APIC's pin.
    Pin(u32),
    /// PCI function: bus << 8 | device << 3 | function.
    Function(u16),
}

struct Snapshot {
    /// TSC; 0 before the first.
    taken: u64,
    io_apics: Vec<IoApic, 8>,
    routes: Vec<(Device, Route), ROUTES>,
}

static SNAPSHOT: Mutex<Snapshot> = Mutex::new(Snapshot {
    taken: 0,
    io_apics: Vec::new(),
    routes: Vec::new(),
});

/// How core `number` is addressed.
fn address_of(number: usize) -> OwnCore {
    let shared = cores::core(number);
    let apic_id = shared.apic_id();
    let logical = if apic::is_x2apic_machine() {
        LogicalId::from_x2apic_id(apic_id)
    } else {
        let (ldr, dfr) = shared.logical();
        LogicalId::from_xapic(ldr, dfr)
    };
    OwnCore { apic_id, logical }
}

/// How core `number` is addressed by hardware. A partition's logical ID stays
/// out of an xAPIC (`exit::apic`), and so is nobody's.
pub(crate) fn in_hardware<V: Vendor>(system: &System<V>, number: usize) -> OwnCore {
    let core = address_of(number);
    if apic::is_x2apic_machine() || system.partition_of(number).is_none() {
        return core;
    }
    OwnCore {
        logical: LogicalId::Flat(0),
        ..core
    }
}

/// Finds what can send interrupts, before any guest runs. Pins that the
/// firmware left open and that reach a core which is not Linux's are masked:
/// they are nobody's.
pub(crate) fn find<V: Vendor>(system: &System<V>) {
    let mut snapshot = SNAPSHOT.lock();
    let snapshot = &mut *snapshot;
    let madt = system.firmware.tables.iter();
    for table in madt.filter(|table| table.signature == *b"APIC") {
        if let Ok(found) = madt_io_apics(table.bytes) {
            snapshot.io_apics.extend(found.take(8));
        }
    }
    let is_linux = |number| {
        let linux = system.linux.as_ref();
        linux.is_some_and(|linux| linux.guest.cpus.contains(number))
    };
    let foreign = |route: &Route| {
        (0..system.cores).any(|number| !is_linux(number) && route.reaches(address_of(number)))
    };
    for io_apic in &snapshot.io_apics {
        hardware::pins(io_apic, |_, low, high| {
            Route::from_redirection(low, high).is_some_and(|route| foreign(&route))
        });
    }
}

/// Masks all pins, before any guest runs.
pub(crate) fn mask_all() {
    for io_apic in &SNAPSHOT.lock().io_apics {
        hardware::pins(io_apic, |_, _, _| true);
    }
}

/// Reads all routes. Whoever else uses the index registers stands still.
fn read(snapshot: &mut Snapshot, functions: &[FunctionInfo]) {
    let routes = &mut snapshot.routes;
    routes.clear();
    for io_apic in &snapshot.io_apics {
        hardware::pins(io_apic, |pin, low, high| {
            if let Some(route) = Route::from_redirection(low, high) {
                let _ = routes.push((Device::Pin(pin), route));
            }
            false
        });
    }
    let config = pci::lock();
    for function in functions {
        hardware::messages(&config, function, |route| {
            let _ = routes.push((Device::Function(function.address.0), route));
        });
    }
    snapshot.taken = cpu::tsc();
}

/// Has a snapshot that is not too old looked at by `look`. `None` if Linux's
/// cores could not be held.
fn with_snapshot<V: Vendor, R>(
    system: &System<V>,
    this: usize,
    mut snapshot: MutexGuard<'_, Snapshot>,
    look: impl FnOnce(&Snapshot) -> R,
) -> Option<R> {
    let functions = system.pci.functions;
    let age = cpu::tsc().wrapping_sub(snapshot.taken);
    if snapshot.taken == 0 || age > MAX_AGE {
        match &system.linux {
            Some(linux) => cores::hold(linux.guest.cpus, this, || read(&mut snapshot, functions))?,
            None => read(&mut snapshot, functions),
        }
    }
    Some(look(&snapshot))
}

/// The device whose interrupt with `vector` goes to core `this`, which asks. Not
/// known while another core looks: that may be waiting for this one.
pub(crate) fn sender<V: Vendor>(system: &System<V>, this: usize, vector: u8) -> Option<Device> {
    let core = address_of(this);
    with_snapshot(system, this, SNAPSHOT.try_lock()?, |snapshot| {
        snapshot
            .routes
            .iter()
            .find(|(_, route)| route.by_vector && route.vector == vector && route.reaches(core))
            .map(|&(device, _)| device)
    })
    .flatten()
}

/// Whether any device's interrupt goes to core `this`, which asks. `None`:
/// that cannot be told now. `this` is no core of Linux's: nobody holds it.
pub(crate) fn any<V: Vendor>(system: &System<V>, this: usize) -> Option<bool> {
    let core = address_of(this);
    let guard = loop {
        match SNAPSHOT.try_lock() {
            Some(guard) => break guard,
            None if cores::core(this).has_requests() => return None,
            None => cpu::pause(),
        }
    };
    with_snapshot(system, this, guard, |snapshot| {
        snapshot.routes.iter().any(|(_, route)| route.reaches(core))
    })
}
