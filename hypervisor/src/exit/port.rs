//! IN and OUT of ports that the permission map does not let through. What
//! becomes of them is decided in `cloister_core::policy::io`.

use core::fmt;

use cloister_abi::{LinuxState, Reason};
use cloister_core::policy::Guest as PolicyGuest;
use cloister_core::policy::io::{self, IoAction};

use crate::arch::passthrough;
use crate::exit::Served;
use crate::pci;
use crate::report;
use crate::run::Core;
use crate::virt::{Event, PortAccess, Vcpu, Vendor, reg};

/// Serves a port access.
#[inline(always)]
pub(crate) fn serve<V: Vendor>(core: &mut Core<V>, access: PortAccess) -> Served {
    let reason = if access.is_input() {
        Reason::PortIn
    } else {
        Reason::PortOut
    };
    if access.is_string() {
        // Nobody who owns such a port exits; what is left is a peek.
        report::refused(core, reason, Denied(access));
        core.vcpu.inject(Event::GP);
        return Served::resume(reason);
    }
    if core.answers_ports {
        answer(core, reason, access);
    } else {
        // A partition's own ports do not exit.
        deny(core, reason, access);
    }
    core.vcpu.skip_port();
    Served::resume(reason)
}

/// Serves an access to configuration space; `false`: it is none.
fn config<V: Vendor>(core: &mut Core<V>, access: PortAccess) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "OUT writes at most EAX")]
    let value = core.vcpu.register(reg::RAX) as u32;
    let Some(read) = pci::port(core, access, value) else {
        return false;
    };
    if access.is_input() {
        set_result(core, access.width(), read);
    }
    true
}

/// The guest reaches for a port of which somebody must see the accesses, or
/// which is not its own.
#[inline(never)]
fn answer<V: Vendor>(core: &mut Core<V>, reason: Reason, access: PortAccess) {
    if config(core, access) {
        return;
    }
    let foreign = || core.system.foreign_port(access.port(), access.width());
    if core.partition.is_some() || foreign() {
        return deny(core, reason, access);
    }
    #[expect(clippy::cast_possible_truncation, reason = "OUT writes at most EAX")]
    let value = core.vcpu.register(reg::RAX) as u32;
    let question = io::PortAccess {
        port: access.port(),
        width: access.width(),
        output: (!access.is_input()).then_some(value),
    };
    match io::decide(&question, PolicyGuest::Linux, &core.system.io) {
        IoAction::Pass => pass(core, &question),
        IoAction::PowerOff => end(core, LinuxState::Off, &question),
        IoAction::Reset => end(core, LinuxState::Reset, &question),
        IoAction::Sleep(state) => {
            report::refused(core, reason, format_args!("sleep state S{state}"));
        }
        IoAction::Drop | IoAction::Ones => deny(core, reason, access),
    }
}

/// The access is not done: an input reads ones.
#[inline(always)]
fn deny<V: Vendor>(core: &mut Core<V>, reason: Reason, access: PortAccess) {
    report::refused(core, reason, Denied(access));
    if access.is_input() {
        set_result(core, access.width(), u32::MAX);
    }
}

fn pass<V: Vendor>(core: &mut Core<V>, access: &io::PortAccess) {
    let result = passthrough::port(access, PolicyGuest::Linux, &core.system.io);
    if let (None, Some(value)) = (access.output, result) {
        set_result(core, access.width, value);
    }
}

/// Linux powers the machine off or resets it, which is its right: the report
/// goes out first, and then its own write is done.
fn end<V: Vendor>(core: &mut Core<V>, state: LinuxState, access: &io::PortAccess) {
    if let Some(linux) = &core.system.linux {
        linux.set_state(state);
    }
    let detail = if state == LinuxState::Off {
        "linux powered off"
    } else {
        "linux reset"
    };
    if report::end(core.system, "completed", detail) {
        pass(core, access);
    }
}

/// What was denied, for the record.
struct Denied(PortAccess);

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(access) = self;
        if access.is_string() {
            return write!(f, "string access to port {:#x}", access.port());
        }
        write!(f, "port {:#x} width {}", access.port(), access.width())
    }
}

/// Puts what IN read into AL, AX or EAX.
#[inline(always)]
fn set_result<V: Vendor>(core: &mut Core<V>, width: u8, value: u32) {
    let rax = core.vcpu.register(reg::RAX);
    let value = u64::from(value);
    let merged = match width {
        1 => (rax & !0xff) | (value & 0xff),
        2 => (rax & !0xffff) | (value & 0xffff),
        _ => value,
    };
    core.vcpu.set_register(reg::RAX, merged);
}
