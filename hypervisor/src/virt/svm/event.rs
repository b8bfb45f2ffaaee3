//! Events in the form of EVENTINJ and EXITINTINFO, which are the same (AMD APM
//! vol. 2, 15.20 "Event Injection" and 15.7.2 "Intercepts During IDT Interrupt
//! Delivery").

use crate::virt::Event;

/// The word says something.
pub(super) const VALID: u64 = 1 << 31;
const ERROR_VALID: u64 = 1 << 11;
const KIND: u64 = 7 << 8;
const INTERRUPT: u64 = 0 << 8;
const NMI: u64 = 2 << 8;
const EXCEPTION: u64 = 3 << 8;

const NMI_VECTOR: u8 = 2;
const BREAKPOINT: u8 = 3;
const OVERFLOW: u8 = 4;
const DOUBLE_FAULT: u8 = 8;
const PAGE_FAULT: u8 = 14;

/// A non-maskable interrupt.
pub(super) const INJECT_NMI: u64 = VALID | NMI | NMI_VECTOR as u64;
/// #DF(0).
pub(super) const INJECT_DOUBLE_FAULT: u64 = VALID | EXCEPTION | ERROR_VALID | DOUBLE_FAULT as u64;

/// An external interrupt.
pub(super) fn interrupt(vector: u8) -> u64 {
    VALID | INTERRUPT | u64::from(vector)
}

/// An exception. In real mode (`protected` is false) none has an error code.
/// A vector that no exception has (2, and 32 on) becomes what has it.
pub(super) fn exception(vector: u8, error: Option<u32>, protected: bool) -> u64 {
    match (vector, error) {
        (NMI_VECTOR, _) => INJECT_NMI,
        (32.., _) => interrupt(vector),
        (_, Some(error)) if protected => {
            VALID | EXCEPTION | ERROR_VALID | u64::from(vector) | u64::from(error) << 32
        }
        _ => VALID | EXCEPTION | u64::from(vector),
    }
}

/// What waits in an injection word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    Nothing,
    Interrupt { vector: u8 },
    Nmi,
    Exception { vector: u8 },
}

/// Reads an injection word.
pub(super) fn waiting(word: u64) -> Waiting {
    let vector = (word & 0xff) as u8;
    match word & KIND {
        _ if word & VALID == 0 => Waiting::Nothing,
        INTERRUPT => Waiting::Interrupt { vector },
        NMI => Waiting::Nmi,
        _ => Waiting::Exception { vector },
    }
}

/// What to inject again when an exit came while the event in EXITINTINFO was
/// delivered; `None` if the guest will raise it again by itself, because RIP is
/// still at the INT n, INT3 or INTO that did.
///
/// QEMU's TCG calls every event that no instruction raised an exception, also
/// external interrupts and NMIs: the vector tells them apart.
pub(super) fn again(exit_int_info: u64) -> Option<u64> {
    let vector = (exit_int_info & 0xff) as u8;
    match exit_int_info & KIND {
        INTERRUPT => Some(interrupt(vector)),
        NMI => Some(INJECT_NMI),
        EXCEPTION if vector == BREAKPOINT || vector == OVERFLOW => None,
        EXCEPTION => {
            let error = (exit_int_info >> 32) as u32;
            let error = (exit_int_info & ERROR_VALID != 0).then_some(error);
            Some(exception(vector, error, true))
        }
        _ => None,
    }
}

/// What two exceptions make of which the second strikes while the first is
/// delivered (AMD APM vol. 2, 8.2.9 "#DF").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Combined {
    /// The second is delivered; the first comes back by itself if it was a
    /// fault.
    Second,
    DoubleFault,
    Shutdown,
}

/// See [`Combined`].
pub(super) fn combine(first: u8, second: u8) -> Combined {
    let contributory = |vector| matches!(vector, 0 | 10..=13);
    let page_fault = |vector| vector == PAGE_FAULT;
    let severe = contributory(second) || page_fault(second);
    match first {
        DOUBLE_FAULT if severe => Combined::Shutdown,
        PAGE_FAULT if severe => Combined::DoubleFault,
        _ if contributory(first) && contributory(second) => Combined::DoubleFault,
        _ => Combined::Second,
    }
}

impl super::SvmVcpu {
    /// [`crate::virt::Vcpu::inject`].
    pub(super) fn inject_event(&mut self, event: Event) {
        match event {
            Event::Nmi => self.nmi_arrived(),
            Event::Interrupt { vector } => self.interrupt_arrived(vector),
            Event::Exception { vector, error } => self.inject_exception(vector, error),
        }
    }

    fn inject_exception(&mut self, vector: u8, error: Option<u32>) {
        let mut word = exception(vector, error, self.protected_mode());
        match waiting(self.injection()) {
            Waiting::Nothing => {}
            Waiting::Interrupt { vector } => self.interrupt_arrived(vector),
            Waiting::Nmi => self.nmi_arrived(),
            Waiting::Exception { vector: first } => match combine(first, vector) {
                Combined::Second => {}
                Combined::DoubleFault => word = INJECT_DOUBLE_FAULT,
                Combined::Shutdown => self.shut_down(),
            },
        }
        self.set_injection(word);
    }

    /// The exit came while an event was delivered: it comes first at the next
    /// entry.
    #[cold]
    #[inline(never)]
    pub(super) fn deliver_again(&mut self) {
        if let Some(word) = again(self.interrupted_event()) {
            self.set_injection(word);
        }
    }
}
