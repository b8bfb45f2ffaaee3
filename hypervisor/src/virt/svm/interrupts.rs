//! DEBUG: external interrupts exit, whatever the guest's RFLAGS.IF says, and
//! are given to the guest when it lets them.
//!
//! With V_INTR_MASKING the guest's RFLAGS.IF masks only virtual interrupts,
//! and the RFLAGS.IF that VMRUN finds masks physical ones (AMD APM vol. 2,
//! 15.21.1 "V_INTR_MASKING"). So the hypervisor runs with RFLAGS.IF = 1 on
//! such a core; GIF = 0 keeps interrupts out of it all the same. The guest's
//! CR8 is then V_TPR, and masks nothing: task priorities go by the local
//! APIC's own register.
//!
//! An interrupt that cannot be injected yet has a virtual one announced whose
//! delivery is intercepted (VINTR): that exit says that the guest takes
//! interrupts now.

use super::entry;
use super::event;
use super::vcpu::SvmVcpu;
use super::vmcb::{Clean, Intercept3, V_IGN_TPR, V_INTR_MASKING, V_INTR_VECTOR_SHIFT, V_IRQ};

/// State of a guest's interrupts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Interrupts {
    exiting: bool,
    /// Taken from the local APIC and not yet injected, one bit per vector.
    waiting: [u64; 4],
}

impl Interrupts {
    fn highest(&self) -> Option<u8> {
        let mut words = self.waiting.iter().enumerate().rev();
        let (word, bits) = words.find(|(_, bits)| **bits != 0)?;
        u8::try_from(word * 64 + 63 - bits.leading_zeros() as usize).ok()
    }

    fn set(&mut self, vector: u8, waits: bool) {
        if let Some(word) = self.waiting.get_mut(usize::from(vector / 64)) {
            let bit = 1 << (vector % 64);
            *word = if waits { *word | bit } else { *word & !bit };
        }
    }
}

impl SvmVcpu {
    /// [`crate::virt::Vcpu::set_interrupt_exiting`].
    pub(super) fn expose_interrupts(&mut self, on: bool) {
        self.interrupts.exiting = on;
        self.intercept(Intercept3::INTR, on);
        let word = &mut self.area.vmcb.control.virtual_interrupt;
        *word = if on {
            *word | V_INTR_MASKING
        } else {
            *word & !V_INTR_MASKING
        };
        self.touch(Clean::TPR);
        entry::set_interrupt_flag(on);
    }

    /// Forgets what waits.
    pub(super) fn reset_interrupts(&mut self) {
        self.interrupts.waiting = [0; 4];
        self.area.vmcb.control.virtual_interrupt = if self.interrupts.exiting {
            V_INTR_MASKING
        } else {
            0
        };
        self.intercept(Intercept3::VINTR, false);
    }

    /// An interrupt for the guest, which it gets as soon as it can.
    pub(super) fn interrupt_arrived(&mut self, vector: u8) {
        self.interrupts.set(vector, true);
        self.attention = true;
    }

    /// Before an entry, after [`SvmVcpu::place_nmi`]: injects the interrupt of
    /// the highest priority if that can be done now. For what still waits an
    /// exit comes when it can be.
    pub(super) fn place_interrupt(&mut self) {
        let Some(vector) = self.interrupts.highest() else {
            return;
        };
        if !self.event_waiting() && self.interruptible() {
            self.set_injection(event::interrupt(vector));
            self.interrupts.set(vector, false);
        }
        if let Some(vector) = self.interrupts.highest() {
            self.announce(Some(vector));
        }
    }

    /// The guest takes interrupts now.
    pub(super) fn window_reached(&mut self) {
        self.announce(None);
    }

    fn announce(&mut self, vector: Option<u8>) {
        let word = &mut self.area.vmcb.control.virtual_interrupt;
        *word &= V_INTR_MASKING;
        if let Some(vector) = vector {
            *word |= V_IRQ | V_IGN_TPR | u64::from(vector) << V_INTR_VECTOR_SHIFT;
        }
        self.touch(Clean::TPR);
        self.intercept(Intercept3::VINTR, vector.is_some());
    }
}
