//! Events on their way into the guest: what has to be injected again because
//! an exit interrupted its delivery, what the hypervisor injects, NMIs and
//! (in DEBUG) acknowledged interrupts that wait until the guest can take them.
//!
//! Format of an event: Intel SDM vol. 3, "VM-Entry Interruption-Information
//! Field"; the exit fields use the same.

use crate::virt::Event;

const VALID: u32 = 1 << 31;
const HAS_ERROR: u32 = 1 << 11;
/// What the vectoring field shares with the entry field.
const INJECTABLE: u32 = VALID | 0xfff;

/// Bits 10:8 of an event: its type.
pub(super) mod kind {
    pub(in super::super) const INTERRUPT: u32 = 0;
    pub(in super::super) const NMI: u32 = 2;
    pub(in super::super) const EXCEPTION: u32 = 3;
    pub(in super::super) const PRIVILEGED_SOFTWARE_EXCEPTION: u32 = 5;
}

const DEBUG: u8 = 1;
const NMI: u8 = 2;
const DOUBLE_FAULT: u8 = 8;
const PAGE_FAULT: u8 = 14;

/// Guest interruptibility state (SDM vol. 3, "Guest Non-Register State").
pub(super) mod blocked {
    pub(in super::super) const BY_STI: u32 = 1 << 0;
    pub(in super::super) const BY_MOV_SS: u32 = 1 << 1;
    pub(in super::super) const BY_NMI: u32 = 1 << 3;
}

/// RFLAGS.IF.
const INTERRUPTS_ENABLED: u64 = 1 << 9;

/// An event as VM entry takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Injection {
    /// Interruption information.
    pub(super) info: u32,
    /// Error code, if the information says that there is one.
    pub(super) error: u32,
    /// Instruction length, for events that an instruction raises.
    pub(super) length: u32,
}

impl Injection {
    /// From an interruption-information field of an exit; `None` if the field
    /// is not valid.
    pub(super) fn from_exit(info: u32, error: u32, length: u32) -> Option<Self> {
        (info & VALID != 0).then_some(Self {
            info: info & INJECTABLE,
            error,
            length,
        })
    }

    fn new(kind: u32, vector: u8) -> Self {
        Self {
            info: VALID | kind << 8 | u32::from(vector),
            error: 0,
            length: 0,
        }
    }

    fn exception(vector: u8, error: Option<u32>) -> Self {
        let mut event = Self::new(kind::EXCEPTION, vector);
        if let Some(error) = error {
            event.info |= HAS_ERROR;
            event.error = error;
        }
        event
    }

    /// Its type.
    pub(super) fn kind(self) -> u32 {
        self.info >> 8 & 7
    }

    /// Its vector.
    pub(super) fn vector(self) -> u8 {
        self.info.to_le_bytes()[0]
    }

    /// Its error code, if it has one.
    pub(super) fn error(self) -> Option<u32> {
        (self.info & HAS_ERROR != 0).then_some(self.error)
    }

    fn class(self) -> Class {
        match (self.kind(), self.vector()) {
            (kind::EXCEPTION, DOUBLE_FAULT) => Class::DoubleFault,
            (kind::EXCEPTION, PAGE_FAULT | 20) => Class::PageFault,
            (kind::EXCEPTION, 0 | 10..=13 | 21) => Class::Contributory,
            _ => Class::Benign,
        }
    }
}

/// SDM vol. 3, table "Interrupt and Exception Classes".
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

/// Where an entry stands with regard to what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// What this entry injects.
    pub(super) inject: Option<Injection>,
    /// An NMI waits until the guest can take it.
    pub(super) nmi_window: bool,
    /// An interrupt waits until the guest can take it.
    pub(super) interrupt_window: bool,
}

/// What waits to be injected.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// An exception, or an event whose delivery an exit interrupted.
    first: Option<Injection>,
    nmi: bool,
    /// Acknowledged interrupts, one bit per vector.
    interrupts: [u64; 4],
    /// Faults piled up to a triple fault.
    shutdown: bool,
    /// The last #DB that exited was raised by INT1, which has this length.
    int1_length: u32,
}

impl Events {
    /// Delivery of `event` was interrupted by an exit.
    pub(super) fn interrupted(&mut self, event: Injection) {
        if event.kind() == kind::NMI {
            self.nmi = true;
        } else {
            self.first = Some(event);
        }
    }

    /// The last exception that exited was (`length` > 0) or was not an INT1.
    pub(super) fn note_int1(&mut self, length: u32) {
        self.int1_length = length;
    }

    /// Adds what the hypervisor wants to inject.
    pub(super) fn add(&mut self, event: Event) {
        match event {
            Event::Exception { vector: DEBUG, .. } if self.int1_length != 0 => {
                self.first = Some(Injection {
                    length: self.int1_length,
                    ..Injection::new(kind::PRIVILEGED_SOFTWARE_EXCEPTION, DEBUG)
                });
            }
            Event::Exception { vector, error } => {
                self.raise(Injection::exception(vector & 31, error));
            }
            Event::Nmi => self.nmi = true,
            Event::Interrupt { vector } => {
                if let Some(word) = self.interrupts.get_mut(usize::from(vector / 64)) {
                    *word |= 1 << (vector % 64);
                }
            }
        }
    }

    /// An exception on top of what was being delivered (SDM vol. 3, table
    /// "Conditions for Generating a Double Fault"). Where both are handled one
    /// after the other the first one comes again by itself, if it was a fault;
    /// an interrupt that was acknowledged waits.
    fn raise(&mut self, second: Injection) {
        let Some(first) = self.first else {
            self.first = Some(second);
            return;
        };
        self.first = match (first.class(), second.class()) {
            (Class::DoubleFault, Class::Contributory | Class::PageFault) => {
                self.shutdown = true;
                None
            }
            (Class::Contributory, Class::Contributory)
            | (Class::PageFault, Class::Contributory | Class::PageFault) => {
                Some(Injection::exception(DOUBLE_FAULT, Some(0)))
            }
            _ => {
                if first.kind() == kind::INTERRUPT {
                    self.add(Event::Interrupt {
                        vector: first.vector(),
                    });
                }
                Some(second)
            }
        };
    }

    /// Whether anything waits.
    pub(super) fn any(&self) -> bool {
        self.first.is_some() || self.nmi || self.shutdown || self.interrupts != [0; 4]
    }

    /// Whether faults have piled up to a triple fault; forgets it.
    pub(super) fn take_shutdown(&mut self) -> bool {
        core::mem::take(&mut self.shutdown)
    }

    /// What the next entry injects, and what has to wait.
    pub(super) fn select(&self, interruptibility: u32, rflags: u64) -> Selection {
        let shadow = interruptibility & (blocked::BY_STI | blocked::BY_MOV_SS) != 0;
        let nmi_open = !shadow && interruptibility & blocked::BY_NMI == 0;
        let interrupt_open = !shadow && rflags & INTERRUPTS_ENABLED != 0;
        let interrupt = self.highest_interrupt();
        let inject = if self.first.is_some() {
            self.first
        } else if self.nmi && nmi_open {
            Some(Injection::new(kind::NMI, NMI))
        } else {
            interrupt
                .filter(|_| interrupt_open)
                .map(|v| Injection::new(kind::INTERRUPT, v))
        };
        let injected = inject.map(Injection::kind);
        let first = self.first.is_some();
        Selection {
            inject,
            nmi_window: self.nmi && (first || injected != Some(kind::NMI)),
            interrupt_window: interrupt.is_some()
                && (first || injected != Some(kind::INTERRUPT) || self.interrupt_count() > 1),
        }
    }

    /// An entry has injected `event`.
    pub(super) fn delivered(&mut self, event: Injection) {
        if self.first.take().is_some() {
            return;
        }
        if event.kind() == kind::NMI {
            self.nmi = false;
        } else if let Some(word) = self.interrupts.get_mut(usize::from(event.vector() / 64)) {
            *word &= !(1 << (event.vector() % 64));
        }
    }

    fn interrupt_count(&self) -> u32 {
        self.interrupts.iter().map(|word| word.count_ones()).sum()
    }

    fn highest_interrupt(&self) -> Option<u8> {
        let (word, bits) = self
            .interrupts
            .iter()
            .enumerate()
            .rev()
            .find(|(_, bits)| **bits != 0)?;
        u8::try_from(word * 64 + 63 - bits.leading_zeros() as usize).ok()
    }
}
