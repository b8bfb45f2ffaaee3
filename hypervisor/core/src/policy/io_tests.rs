//! Power-off, sleep and reset by every way there is.

extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const PARTITION: Guest = Guest::Partition { apic: false };

/// QEMU's q35.
const FACTS: IoFacts = IoFacts {
    pm1a_control: 0x604,
    pm1b_control: 0,
    sleep_control: 0,
    sleep_types: [None, None, Some((1, 1)), Some((2, 2)), Some((0, 0))],
    reset: Some((0xcf9, 0xf)),
};

fn out(port: u16, width: u8, value: u32) -> IoAction {
    out_with(&FACTS, port, width, value)
}

fn out_with(facts: &IoFacts, port: u16, width: u8, value: u32) -> IoAction {
    decide(
        &PortAccess {
            port,
            width,
            output: Some(value),
        },
        Guest::Linux,
        facts,
    )
}

#[test]
fn sleep_types_decide() {
    assert_eq!(out(0x604, 2, 0x2001), IoAction::PowerOff);
    assert_eq!(out(0x604, 4, 0x2001), IoAction::PowerOff);
    assert_eq!(
        out(0x605, 1, 0x20),
        IoAction::PowerOff,
        "the high byte alone"
    );
    assert_eq!(out(0x604, 2, 0x2401), IoAction::Sleep(3));
    assert_eq!(out(0x604, 2, 0x2801), IoAction::Sleep(4));
    assert_eq!(out(0x604, 2, 0x3c01), IoAction::Sleep(0), "no such state");
    assert_eq!(out(0x604, 2, 0x0001), IoAction::Pass, "SLP_EN is clear");
    assert_eq!(out(0x604, 1, 0x20), IoAction::Pass, "the low byte alone");
    assert_eq!(out(0x602, 2, 0x2000), IoAction::Pass);
}

#[test]
fn second_block_and_sleep_register() {
    let facts = IoFacts {
        pm1b_control: 0x1904,
        sleep_control: 0x240,
        sleep_types: [None, None, None, None, Some((5, 6))],
        ..FACTS
    };
    assert_eq!(out_with(&facts, 0x604, 2, 0x3400), IoAction::PowerOff);
    assert_eq!(out_with(&facts, 0x604, 2, 0x3800), IoAction::Sleep(0));
    assert_eq!(out_with(&facts, 0x1904, 2, 0x3800), IoAction::PowerOff);
    assert_eq!(out_with(&facts, 0x240, 1, 0x34), IoAction::PowerOff);
    assert_eq!(out_with(&facts, 0x240, 1, 0x14), IoAction::Pass);
}

#[test]
fn absent_registers_are_no_ports() {
    let none = IoFacts::default();
    assert_eq!(out_with(&none, 0, 2, 0x2000), IoAction::Pass);
    assert_eq!(none.ports().collect::<Vec<_>>(), [0x64, 0x92, 0xcf9]);
    let mut ports: Vec<u16> = FACTS.ports().collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports, [0x64, 0x92, 0x604, 0x605, 0xcf9]);
}

#[test]
fn reset_control_inside_the_pci_address() {
    assert_eq!(
        out(0xcf8, 4, 0x8000_0600),
        IoAction::Pass,
        "register 6 of function 0"
    );
    assert_eq!(out(0xcf8, 4, 0x8000_ff00), IoAction::Pass);
    assert_eq!(out(0xcf9, 1, 0x06), IoAction::Reset);
    assert_eq!(out(0xcf9, 1, 0x0e), IoAction::Reset);
    assert_eq!(out(0xcf9, 1, 0x0f), IoAction::Reset);
    assert_eq!(
        out(0xcf9, 1, 0x02),
        IoAction::Pass,
        "hard reset chosen, not started"
    );
    assert_eq!(
        out(0xcf8, 2, 0x0600),
        IoAction::Reset,
        "narrow accesses reach it"
    );
    assert_eq!(out(0xcf8, 2, 0x0006), IoAction::Pass);
    assert_eq!(out(0xcf7, 4, 0x06_0000), IoAction::Reset);
}

#[test]
fn other_resets() {
    assert_eq!(out(0x64, 1, 0xfe), IoAction::Reset);
    assert_eq!(out(0x64, 1, 0xf0), IoAction::Reset);
    assert_eq!(out(0x64, 1, 0xff), IoAction::Pass, "pulses nothing");
    assert_eq!(out(0x64, 1, 0xae), IoAction::Pass);
    assert_eq!(out(0x92, 1, 0x03), IoAction::Reset);
    assert_eq!(out(0x92, 1, 0x02), IoAction::Pass, "the A20 gate");
    let facts = IoFacts {
        reset: Some((0x1234, 0x55)),
        ..FACTS
    };
    assert_eq!(out_with(&facts, 0x1234, 1, 0x55), IoAction::Reset);
    assert_eq!(out_with(&facts, 0x1234, 1, 0x54), IoAction::Pass);
}

#[test]
fn facts_of_a_fadt() {
    let register = |address| crate::acpi::Register {
        space: crate::acpi::AddressSpace::Io,
        address,
    };
    let fadt = Fadt {
        pm1a_control: Some(0x604),
        pm1b_control: None,
        pm_timer: None,
        pm_timer_32bit: false,
        sleep_control: None,
        reset: Some(crate::acpi::Reset {
            register: register(0xcf9),
            value: 0xf,
        }),
        smi_command: None,
        acpi_enable: 0,
        acpi_disable: 0,
        hardware_reduced: false,
        dsdt: 0,
        facs: 0,
        blocks: [(0, 0); 9],
    };
    let types = |state| match state {
        3 => Some((1, 1)),
        4 => Some((2, 2)),
        5 => Some((0, 0)),
        _ => None,
    };
    assert_eq!(IoFacts::new(&fadt, types), FACTS);
    let memory = crate::acpi::AddressSpace::Memory;
    let elsewhere = crate::acpi::Register {
        space: memory,
        address: 0xfed0_0000,
    };
    let fadt = Fadt {
        reset: Some(crate::acpi::Reset {
            register: elsewhere,
            value: 1,
        }),
        ..fadt
    };
    assert_eq!(IoFacts::new(&fadt, types).reset, None);
}

proptest! {
    #[test]
    fn inputs_change_nothing(port in any::<u16>(), width in prop_oneof![Just(1u8), Just(2), Just(4)]) {
        let access = PortAccess { port, width, output: None };
        prop_assert_eq!(decide(&access, Guest::Linux, &FACTS), IoAction::Pass);
        prop_assert_eq!(decide(&access, PARTITION, &FACTS), IoAction::Ones);
    }

    #[test]
    fn partitions_never_reach_hardware(port in any::<u16>(), width in any::<u8>(), value in any::<u32>()) {
        let access = PortAccess { port, width, output: Some(value) };
        prop_assert_eq!(decide(&access, PARTITION, &FACTS), IoAction::Drop);
    }

    /// Whatever is not passed touches a port that `ports` makes exit.
    #[test]
    fn every_watched_write_exits(
        port in prop_oneof![0x5fcu16..0x60a, 0x5eu16..0x68, 0xcf0u16..0xd04, any::<u16>()],
        width in prop_oneof![Just(1u8), Just(2), Just(4)],
        value in any::<u32>(),
    ) {
        if out(port, width, value) != IoAction::Pass {
            let touches = |watched: u16| {
                watched.checked_sub(port).is_some_and(|distance| distance < u16::from(width))
            };
            prop_assert!(FACTS.ports().any(touches));
        }
    }
}
