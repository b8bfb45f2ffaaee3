//! Ports that Linux has like everything else, but of which the hypervisor must
//! see the writes: power-off, sleep and reset. And what a partition gets at a
//! port that is not its own.
//!
//! Sources: ACPI Specification 6.5 §4.8.3.2 (PM1 control), §4.8.3.6 (reset
//! register), §4.8.3.7 (sleep control); Intel PCH datasheets, "Reset Control
//! Register" (0xcf9) and "INIT Register" (0x92); keyboard controller (8042)
//! commands 0xf0 to 0xff.

use super::Guest;
use crate::acpi::Fadt;

/// What the ACPI tables say about power.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoFacts {
    /// PM1a control register (16 bits); 0 if there is none.
    pub pm1a_control: u16,
    /// PM1b control register; 0 if there is none.
    pub pm1b_control: u16,
    /// Sleep control register of hardware-reduced machines (8 bits); 0 if
    /// there is none in I/O space.
    pub sleep_control: u16,
    /// SLP_TYPa and SLP_TYPb of states S1 to S5, at index state - 1.
    pub sleep_types: [Option<(u8, u8)>; 5],
    /// Port and value of the FADT's reset register, if it is in I/O space.
    pub reset: Option<(u16, u8)>,
}

/// Control port A: bit 0 resets the processor.
const FAST_RESET: u16 = 0x92;
/// Command port of the keyboard controller.
const KEYBOARD: u16 = 0x64;
/// PCI configuration address (4 bytes wide only), and the chipset's reset
/// control register, which lies inside it.
const PCI_ADDRESS: u16 = 0xcf8;
const RESET_CONTROL: u16 = 0xcf9;

/// A port access that exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAccess {
    /// First port.
    pub port: u16,
    /// 1, 2 or 4 bytes.
    pub width: u8,
    /// What is written; `None` for an input. Bits above the width are ignored.
    pub output: Option<u32>,
}

impl PortAccess {
    /// The byte that is written to `port`, if this access writes to it.
    fn byte_to(&self, port: u16) -> Option<u8> {
        let index = usize::from(port.checked_sub(self.port)?);
        if index >= usize::from(self.width) {
            return None;
        }
        self.output?.to_le_bytes().get(index).copied()
    }
}

/// What to do about a port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoAction {
    /// Do it on the hardware.
    Pass,
    /// The machine is about to be powered off: flush the report, then do it.
    PowerOff,
    /// The machine is about to be reset: flush the report, then do it.
    Reset,
    /// Linux wants sleep state S1 to S4; 0 for a type that no table defines.
    /// Dataplane cores cannot sleep: drop it and record it.
    Sleep(u8),
    /// Do not do it.
    Drop,
    /// An input that is not done: all bits read as 1.
    Ones,
}

impl IoFacts {
    /// What `fadt` says, with the sleep types that `sleep_type` finds in the
    /// AML tables (1 to 5; see [`crate::acpi::sleep_type`]).
    pub fn new(fadt: &Fadt, sleep_type: impl Fn(u8) -> Option<(u8, u8)>) -> Self {
        Self {
            pm1a_control: fadt.pm1a_control.unwrap_or(0),
            pm1b_control: fadt.pm1b_control.unwrap_or(0),
            sleep_control: fadt
                .sleep_control
                .and_then(|register| register.port())
                .unwrap_or(0),
            sleep_types: [1, 2, 3, 4, 5].map(sleep_type),
            reset: fadt
                .reset
                .and_then(|reset| Some((reset.register.port()?, reset.value))),
        }
    }

    /// The ports of which writes by Linux must exit, without 0s; some may come
    /// twice.
    pub fn ports(&self) -> impl Iterator<Item = u16> + use<> {
        let pm1 = [self.pm1a_control, self.pm1b_control];
        let reset = self.reset.map_or(0, |(port, _)| port);
        pm1.into_iter()
            .chain(pm1.map(|port| if port == 0 { 0 } else { port.wrapping_add(1) }))
            .chain([
                self.sleep_control,
                reset,
                KEYBOARD,
                FAST_RESET,
                RESET_CONTROL,
            ])
            .filter(|port| *port != 0)
    }

    /// The state that SLP_TYP `value` means in PM1a (`which` 0) or PM1b (1).
    /// S5 wins where firmware gives several states the same type.
    fn state(&self, value: u8, second: bool) -> u8 {
        (1..=5u8)
            .zip(self.sleep_types)
            .filter(|(_, types)| types.is_some_and(|(a, b)| value == if second { b } else { a }))
            .map(|(state, _)| state)
            .max()
            .unwrap_or(0)
    }

    /// What a write to a sleep register asks for: SLP_TYP in bits 4:2 and
    /// SLP_EN in bit 5 of `byte`, which is the high byte of PM1 control or the
    /// sleep control register.
    fn sleep(&self, byte: u8, second: bool) -> Option<IoAction> {
        const SLP_EN: u8 = 1 << 5;
        if byte & SLP_EN == 0 {
            return None;
        }
        Some(match self.state((byte >> 2) & 7, second) {
            5 => IoAction::PowerOff,
            state => IoAction::Sleep(state),
        })
    }
}

/// Decides about a port access that exited.
///
/// Linux's inputs pass. Of its outputs, those that power off, sleep or reset
/// are told apart, by each byte that they write, whatever the width; all others
/// pass. An access of a partition that exits is not to its own ports.
#[must_use]
pub fn decide(access: &PortAccess, guest: Guest, facts: &IoFacts) -> IoAction {
    match (guest, access.output) {
        (Guest::Partition { .. }, None) => IoAction::Ones,
        (Guest::Partition { .. }, Some(_)) => IoAction::Drop,
        (Guest::Linux, None) => IoAction::Pass,
        (Guest::Linux, Some(_)) => sleep(access, facts)
            .or_else(|| reset(access, facts))
            .unwrap_or(IoAction::Pass),
    }
}

fn sleep(access: &PortAccess, facts: &IoFacts) -> Option<IoAction> {
    let register = |port: u16, high: u16, second| {
        let byte = access.byte_to(port.checked_add(high)?)?;
        if port == 0 {
            None
        } else {
            facts.sleep(byte, second)
        }
    };
    register(facts.pm1a_control, 1, false)
        .or_else(|| register(facts.pm1b_control, 1, true))
        .or_else(|| register(facts.sleep_control, 0, false))
}

fn reset(access: &PortAccess, facts: &IoFacts) -> Option<IoAction> {
    // A 4-byte access to 0xcf8 is a PCI configuration address; only narrower
    // ones reach the reset control register.
    if access.port == PCI_ADDRESS && access.width == 4 {
        return None;
    }
    let asks = |port, test: fn(u8) -> bool| access.byte_to(port).is_some_and(test);
    // RST_CPU.
    let by_chipset = asks(RESET_CONTROL, |byte| byte & 4 != 0);
    // Pulses the output lines whose bit is 0; line 0 is the reset.
    let by_keyboard = asks(KEYBOARD, |byte| byte & 0xf1 == 0xf0);
    let by_port_92 = asks(FAST_RESET, |byte| byte & 1 != 0);
    let by_firmware = facts
        .reset
        .is_some_and(|(port, value)| access.byte_to(port) == Some(value));
    (by_chipset || by_keyboard || by_port_92 || by_firmware).then_some(IoAction::Reset)
}

#[cfg(test)]
#[path = "io_tests.rs"]
mod tests;
