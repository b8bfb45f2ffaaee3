//! What guests write to the local APIC: xAPIC pages are mapped read-only, and
//! of an x2APIC only the ICR exits. Every IPI is checked against the sender's
//! own cores; INIT and start-up are emulated.

use cloister_abi::Reason;
use cloister_core::decode::{self, Mode};
use cloister_core::icr::{DeliveryMode, Destination, Ipi, LogicalId, OwnCore, resolve};
use cloister_core::walk;

use crate::arch::apic::{self as hardware, Register};
use crate::cores::{self, Request};
use crate::exit::Served;
use crate::partition::backtrace;
use crate::partition::load::APIC_PAGE;
use crate::report;
use crate::run::Core;
use crate::virt::guest::Guest;
use crate::virt::{Access, Event, GuestKind, Vcpu, Vendor};
use crate::watch;

/// Whether a nested page fault is a write to the APIC page by a guest that has
/// one.
#[inline]
pub(crate) fn is_write<V: Vendor>(core: &Core<V>, gpa: u64, access: Access) -> bool {
    gpa & !0xfff == APIC_PAGE
        && access == Access::Write
        && core.partition.is_none_or(|partition| partition.config.apic)
}

/// Bytes of the guest's instruction, and how to read them.
pub(crate) struct Code {
    bytes: [u8; CAPACITY],
    length: usize,
    pub(crate) mode: Mode,
}

/// What is fetched at once: two words, which hold [`decode::MAX_LENGTH`].
const CAPACITY: usize = 16;
const PAGE: u64 = 4096;

impl Code {
    /// The bytes that could be read.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

/// Fetches the instruction at the guest's RIP: what hardware has kept of it,
/// or through the guest's own page tables.
#[inline]
pub(crate) fn fetch<V: Vendor>(core: &Core<V>) -> Option<Code> {
    let guest_mode = core.vcpu.mode();
    let mode = match (guest_mode.cs_long, guest_mode.cs_default) {
        (true, _) => Mode::Bits64,
        (false, true) => Mode::Bits32,
        (false, false) => Mode::Bits16,
    };
    let base = if guest_mode.cs_long {
        0
    } else {
        guest_mode.cs_base
    };
    let start = base.wrapping_add(core.vcpu.rip());
    let access = walk::Access {
        user: guest_mode.cpl == 3,
        ..walk::Access::FETCH
    };
    let assisted = core.vcpu.instruction_bytes();
    if !assisted.is_empty() {
        return Some(copy(assisted, mode));
    }
    let gpa = backtrace::translate(core.guest, &guest_mode, start, access)?;
    if gpa % PAGE <= PAGE - CAPACITY as u64
        && let Some(bytes) = core.guest.read_sixteen(gpa)
    {
        return Some(Code {
            bytes,
            length: decode::MAX_LENGTH,
            mode,
        });
    }
    let next = start.wrapping_add(PAGE - gpa % PAGE);
    let next = backtrace::translate(core.guest, &guest_mode, next, access);
    Some(fetch_in_parts(core.guest, gpa, next, mode))
}

#[cold]
fn copy(from: &[u8], mode: Mode) -> Code {
    let mut bytes = [0; CAPACITY];
    for (to, from) in bytes.iter_mut().zip(from) {
        *to = *from;
    }
    Code {
        bytes,
        length: from.len().min(decode::MAX_LENGTH),
        mode,
    }
}

/// The same for what may reach into the next page, which is at `next`.
#[cold]
fn fetch_in_parts<V: Vendor>(guest: &Guest<V>, gpa: u64, next: Option<u64>, mode: Mode) -> Code {
    let mut bytes = [0; CAPACITY];
    let room = usize::try_from(PAGE - gpa % PAGE).unwrap_or(CAPACITY);
    let (here, there) = bytes.split_at_mut(room.min(CAPACITY));
    let mut length = guest.read(gpa, here);
    if length == here.len()
        && let Some(next) = next
    {
        length += guest.read(next, there);
    }
    Code {
        bytes,
        length: length.min(decode::MAX_LENGTH),
        mode,
    }
}

/// Serves a write to the xAPIC page.
pub(crate) fn write<V: Vendor>(core: &mut Core<V>, gpa: u64) -> Served {
    let store = fetch(core)
        .and_then(|code| decode::store(code.bytes(), code.mode, &core.vcpu.registers().gpr).ok());
    let offset = u16::try_from(gpa & 0xfff).unwrap_or(0);
    match store {
        // The registers are 32 bits wide, 16 bytes apart (Intel SDM vol. 3,
        // "Local APIC Register Address Map").
        Some(store) if store.width == 4 && offset % 16 == 0 => {
            #[expect(clippy::cast_possible_truncation, reason = "four bytes were written")]
            register(core, offset, store.value as u32);
            core.vcpu.skip_by(store.length);
        }
        _ => {
            report::refused(
                core,
                Reason::ApicWrite,
                format_args!("apic offset {offset:#x}"),
            );
            core.vcpu.inject(Event::GP);
        }
    }
    Served::resume(Reason::ApicWrite)
}

fn register<V: Vendor>(core: &mut Core<V>, offset: u16, value: u32) {
    const ICR: u16 = Register::Icr as u16;
    const LDR: u16 = Register::LogicalDestination as u16;
    const DFR: u16 = Register::DestinationFormat as u16;
    match offset {
        ICR => {
            let high = hardware::read(Register::IcrHigh);
            send(core, &Ipi::from_xapic(high, value));
            return;
        }
        LDR => core.shared.set_logical(Some(value), None),
        DFR => core.shared.set_logical(None, Some(value)),
        _ => {}
    }
    match own_register(offset, value, is_linux(core)) {
        Own::Hardware => hardware::write_for_guest(offset, value),
        Own::Shadow => {}
        Own::Refused => report::refused(
            core,
            Reason::ApicWrite,
            format_args!("apic offset {offset:#x} value {value:#x}, dropped"),
        ),
    }
}

/// What becomes of a write to a register of the writer's own APIC.
enum Own {
    Hardware,
    /// Only the hypervisor remembers it.
    Shadow,
    Refused,
}

/// Nobody changes the APIC ID, by which the hypervisor reaches the core. A
/// partition's logical ID stays out of the hardware, where it could draw
/// Linux's device interrupts to it; and its local interrupts are vectors or
/// NMIs: an SMI stops all cores, and the 8259's interrupts (ExtINT) are
/// Linux's (Intel SDM vol. 3, "Local Vector Table").
fn own_register(offset: u16, value: u32, linux: bool) -> Own {
    const ID: u16 = Register::Id as u16;
    const LDR: u16 = Register::LogicalDestination as u16;
    const DFR: u16 = Register::DestinationFormat as u16;
    const FIXED: u32 = 0;
    const NMI: u32 = 4;
    match offset {
        ID => Own::Refused,
        _ if linux => Own::Hardware,
        LDR | DFR => Own::Shadow,
        // TPR, EOI, SVR, ESR, ICR high; initial count, divide configuration.
        0x80 | 0xb0 | 0xf0 | 0x280 | 0x310 | 0x380 | 0x3e0 => Own::Hardware,
        // LVT: CMCI; timer to error.
        0x2f0 | 0x320..=0x370 if matches!(value >> 8 & 7, FIXED | NMI) => Own::Hardware,
        _ => Own::Refused,
    }
}

/// Serves a write of `value` to the x2APIC ICR.
pub(crate) fn x2apic_icr<V: Vendor>(core: &mut Core<V>, value: u64) {
    send(core, &Ipi::from_x2apic(value));
}

/// Sends `ipi` to those of its targets that are the sender's own.
fn send<V: Vendor>(core: &mut Core<V>, ipi: &Ipi) {
    let x2apic = hardware::is_x2apic_machine();
    let own = core.guest.cpus.iter().map(|number| {
        let shared = cores::core(number);
        let apic_id = shared.apic_id();
        let (ldr, dfr) = shared.logical();
        let logical = if x2apic {
            LogicalId::from_x2apic_id(apic_id)
        } else {
            LogicalId::from_xapic(ldr, dfr)
        };
        OwnCore { apic_id, logical }
    });
    let sender = core.shared.apic_id();
    let resolution = resolve(ipi, sender, own);
    if resolution.foreign {
        report::refused(
            core,
            Reason::ApicWrite,
            format_args!("ipi {ipi:?} beyond its own cores"),
        );
    }
    for index in resolution.indices() {
        let Some(number) = core.guest.cpus.iter().nth(index) else {
            continue;
        };
        deliver(core, ipi, number);
    }
}

fn deliver<V: Vendor>(core: &mut Core<V>, ipi: &Ipi, number: usize) {
    let target = cores::core(number);
    let is_self = number == core.number;
    match ipi.mode {
        DeliveryMode::Init { deassert: false } if is_linux(core) && !is_self => {
            target.ask(Request::Init);
        }
        DeliveryMode::StartUp if is_linux(core) && !is_self => {
            // Hardware ignores a start-up IPI to a core that runs.
            // In this order: see `kick::serve`.
            if target.has_requests() || !target.is_running() {
                target.ask_sipi(ipi.vector);
            }
        }
        DeliveryMode::Init { .. } => {}
        _ => match ipi.hardware_low() {
            Some(_) if target.is_watched() => {
                let vector = match ipi.mode {
                    DeliveryMode::Nmi => watch::NMI,
                    _ => ipi.vector,
                };
                watch::note_ipi(core, number, vector);
                hand_over(core, ipi, number);
            }
            Some(_) => hand_over(core, ipi, number),
            None => {
                report::refused(core, Reason::ApicWrite, format_args!("ipi {:?}", ipi.mode));
            }
        },
    }
}

/// Has the hardware send a vector or an NMI.
fn hand_over<V: Vendor>(core: &Core<V>, ipi: &Ipi, number: usize) {
    const SHORTHAND_SELF: u32 = 1 << 18;
    let Some(low) = ipi.hardware_low() else {
        return;
    };
    // The shorthand sends vectors only (Intel SDM vol. 3, table "Valid
    // Combinations for the Local xAPIC Interrupt Command Register").
    if number == core.number
        && ipi.destination == Destination::SelfOnly
        && ipi.mode != DeliveryMode::Nmi
    {
        hardware::send_ipi(0, low | SHORTHAND_SELF);
    } else {
        hardware::send_ipi(cores::core(number).apic_id(), low);
    }
}

fn is_linux<V: Vendor>(core: &Core<V>) -> bool {
    core.guest.kind == GuestKind::Linux
}
