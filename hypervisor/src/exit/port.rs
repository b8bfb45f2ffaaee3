//! IN and OUT of ports that the permission map does not let through. What
//! becomes of them is decided in `cloister_core::policy::io`.

use cloister_abi::{LinuxState, Reason};
use cloister_core::policy::io::{self, IoAction};

use crate::arch::passthrough;
use crate::exit::Served;
use crate::exit::cpuid::policy_guest;
use crate::report;
use crate::run::Core;
use crate::virt::{Event, PortAccess, Vcpu, Vendor, reg};

/// Serves a port access.
pub(crate) fn serve<V: Vendor>(core: &mut Core<V>, access: PortAccess) -> Served {
    let reason = if access.input {
        Reason::PortIn
    } else {
        Reason::PortOut
    };
    if access.string {
        // Nobody who owns such a port exits; what is left is a peek.
        report::refused(
            core,
            reason,
            format_args!("string access to port {:#x}", access.port),
        );
        core.vcpu.inject(Event::GP);
        return Served::resume(reason);
    }
    #[expect(clippy::cast_possible_truncation, reason = "OUT writes at most EAX")]
    let value = core.vcpu.registers().gpr[reg::RAX] as u32;
    let question = io::PortAccess {
        port: access.port,
        width: access.width,
        output: (!access.input).then_some(value),
    };
    let system = core.system;
    let action = if !system.foreign_port(core.partition, access.port, access.width) {
        io::decide(&question, policy_guest(core.partition), &system.io)
    } else if access.input {
        IoAction::Ones
    } else {
        IoAction::Drop
    };
    match action {
        IoAction::Pass => pass(core, &question),
        IoAction::PowerOff => end(core, LinuxState::Off, &question),
        IoAction::Reset => end(core, LinuxState::Reset, &question),
        IoAction::Sleep(state) => {
            report::refused(core, reason, format_args!("sleep state S{state}"));
        }
        IoAction::Drop => refused(core, reason, access),
        IoAction::Ones => {
            refused(core, reason, access);
            set_result(core, access.width, u32::MAX);
        }
    }
    core.vcpu.skip();
    Served::resume(reason)
}

fn pass<V: Vendor>(core: &mut Core<V>, access: &io::PortAccess) {
    let guest = policy_guest(core.partition);
    let result = passthrough::port(access, guest, &core.system.io);
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

fn refused<V: Vendor>(core: &mut Core<V>, reason: Reason, access: PortAccess) {
    report::refused(
        core,
        reason,
        format_args!("port {:#x} width {}", access.port, access.width),
    );
}

/// Puts what IN read into AL, AX or EAX.
fn set_result<V: Vendor>(core: &mut Core<V>, width: u8, value: u32) {
    let rax = &mut core.vcpu.registers().gpr[reg::RAX];
    let value = u64::from(value);
    *rax = match width {
        1 => (*rax & !0xff) | (value & 0xff),
        2 => (*rax & !0xffff) | (value & 0xffff),
        _ => value,
    };
}
