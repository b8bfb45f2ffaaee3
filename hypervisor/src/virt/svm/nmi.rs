//! NMIs for the guest, without hardware that virtualises them.
//!
//! An injected NMI blocks further ones until the guest's next IRET. IRET is
//! intercepted meanwhile: one exit for each NMI, which is handled here and not
//! reported, as it is part of the NMI that was. A further NMI that waits for
//! that IRET comes in after it: the guest is stepped over the IRET with
//! RFLAGS.TF (as it is over the instruction after STI or MOV SS). If that
//! instruction faults instead, the fault's frame shows TF.

use super::event::INJECT_NMI;
use super::vcpu::SvmVcpu;
use super::vmcb::{Clean, Intercept3};

/// RFLAGS.TF.
pub(super) const TRAP_FLAG: u64 = 1 << 8;
/// DR6.BS: a single step.
pub(super) const DR6_SINGLE_STEP: u64 = 1 << 14;
/// DR6: B0 to B3, BD, BT: other reasons of #DB.
const DR6_OTHER: u64 = 0xf | 1 << 13 | 1 << 15;

/// Whether NMIs of the guest are blocked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Blocking {
    #[default]
    Open,
    /// Its handler runs; IRET is intercepted.
    Handler,
    /// The IRET at this RIP has exited and is yet to be executed.
    Leaving { rip: u64 },
}

/// State of the guest's NMIs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Nmi {
    blocking: Blocking,
    pending: bool,
    /// RFLAGS.TF is ours; the guest's own value.
    stepping: Option<bool>,
}

impl SvmVcpu {
    /// An NMI for the guest: it is injected when it can be. A second one that
    /// arrives before is merged with it, as on hardware.
    pub(super) fn nmi_arrived(&mut self) {
        self.nmi.pending = true;
        self.attention = true;
    }

    /// Forgets NMIs.
    pub(super) fn reset_nmi(&mut self) {
        self.nmi = Nmi::default();
        self.intercept(Intercept3::IRET, false);
    }

    /// Before an entry: injects the NMI that waits, or sees to it that an exit
    /// comes when it can be. Returns whether one still waits.
    pub(super) fn place_nmi(&mut self) -> bool {
        if !self.nmi.pending {
            return false;
        }
        let rip = self.area.vmcb.save.rip;
        if matches!(self.nmi.blocking, Blocking::Leaving { rip: iret } if iret != rip) {
            self.nmi.blocking = Blocking::Open;
        }
        match self.nmi.blocking {
            // The intercepted IRET comes first, or the next exit.
            Blocking::Handler => {}
            _ if self.event_waiting() => {}
            Blocking::Open if !self.in_interrupt_shadow() => {
                self.end_step();
                self.set_injection(INJECT_NMI);
                self.intercept(Intercept3::IRET, true);
                self.nmi.blocking = Blocking::Handler;
                self.nmi.pending = false;
            }
            _ => self.step(),
        }
        self.nmi.pending
    }

    /// The guest is about to execute IRET.
    pub(super) fn iret_reached(&mut self) {
        self.intercept(Intercept3::IRET, false);
        self.nmi.blocking = Blocking::Leaving {
            rip: self.area.vmcb.save.rip,
        };
    }

    /// A #DB exit: returns whether it was our step alone.
    pub(super) fn step_done(&mut self) -> bool {
        let Some(guest_flag) = self.nmi.stepping else {
            return false;
        };
        if matches!(self.nmi.blocking, Blocking::Leaving { .. }) {
            // IRET has loaded the guest's own RFLAGS.
            self.nmi.stepping = None;
            self.nmi.blocking = Blocking::Open;
        } else {
            self.end_step();
        }
        if guest_flag {
            return false;
        }
        let save = &mut self.area.vmcb.save;
        save.dr6 &= !DR6_SINGLE_STEP;
        let ours = save.dr6 & DR6_OTHER == 0;
        self.touch(Clean::DRX);
        ours
    }

    fn step(&mut self) {
        let save = &mut self.area.vmcb.save;
        if self.nmi.stepping.is_none() {
            self.nmi.stepping = Some(save.rflags & TRAP_FLAG != 0);
        }
        save.rflags |= TRAP_FLAG;
    }

    fn end_step(&mut self) {
        if self.nmi.stepping.take() == Some(false) {
            self.area.vmcb.save.rflags &= !TRAP_FLAG;
        }
    }
}
