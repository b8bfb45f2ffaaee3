extern crate std;
use std::format;

use super::vtd::Capabilities;
use super::*;
use crate::memory::Range;

const DMAR: &[u8] = include_bytes!("../../fuzz/corpus/dmar/qemu");
const DMAR_RESERVED: &[u8] = include_bytes!("../../fuzz/corpus/dmar/reserved");
const IVRS: &[u8] = include_bytes!("../../fuzz/corpus/ivrs/qemu");
const IVRS_MORE: &[u8] = include_bytes!("../../fuzz/corpus/ivrs/more");

fn range(start: u64, end: u64) -> Range {
    Range::new(start, end).unwrap()
}

#[test]
fn requesters_are_printed_as_pci_functions() {
    assert_eq!(format!("{}", Requester(0x01fb)), "0000:01:1f.3");
}

#[test]
fn dmar_of_qemu() {
    let dmar = dmar(DMAR).unwrap();
    assert!(dmar.interrupt_remapping && !dmar.x2apic_opt_out);
    let unit = Unit {
        registers: 0xfed9_0000,
        segment: 0,
    };
    assert_eq!(dmar.units.as_slice(), [unit]);
    let io_apic = IoApicSource {
        id: 0,
        requester: Requester(0xff00),
    };
    assert_eq!(dmar.io_apics.as_slice(), [io_apic]);
    assert!(dmar.reserved.is_empty());
}

#[test]
fn reserved_memory_of_a_dmar() {
    let dmar = dmar(DMAR_RESERVED).unwrap();
    let usb = Reserved {
        range: range(0x7a00_0000, 0x7a80_0000),
        requester: Some(Requester(0x00a0)),
    };
    let everybody = Reserved {
        range: range(0x1000, 0x2000),
        requester: None,
    };
    assert_eq!(dmar.reserved.as_slice(), [usb, everybody]);
}

#[test]
fn damaged_tables_are_refused() {
    assert!(dmar(IVRS).is_err() && ivrs(DMAR).is_err());
    for length in [0, 1, 3] {
        let mut table = DMAR.to_vec();
        table[50] = length;
        assert!(dmar(&table).is_err(), "a structure of {length} bytes");
        let mut table = IVRS.to_vec();
        table[50] = length;
        assert!(ivrs(&table).is_err(), "a block of {length} bytes");
    }
    let mut table = DMAR.to_vec();
    table[65] = 7;
    assert!(dmar(&table).is_err(), "a scope without a path");
}

#[test]
fn ivrs_of_qemu() {
    let ivrs = ivrs(IVRS).unwrap();
    let unit = Ivhd {
        registers: 0xfed8_0000,
        function: Requester(0x10),
        capability: 0x40,
        segment: 0,
        flags: 0xd1,
    };
    assert_eq!(ivrs.units.as_slice(), [unit]);
    let io_apic = IoApicSource {
        id: 0,
        requester: Requester(0xa0),
    };
    assert_eq!(ivrs.io_apics.as_slice(), [io_apic]);
    assert!(ivrs.reserved.is_empty() && ivrs.aliases.is_empty());
}

#[test]
fn aliases_and_memory_of_an_ivrs() {
    let ivrs = ivrs(IVRS_MORE).unwrap();
    assert_eq!(ivrs.units.len(), 1, "two blocks tell of one IOMMU");
    assert_eq!(
        ivrs.aliases.as_slice(),
        [(Requester(0x200), Requester(0x100))]
    );
    let region = Reserved {
        range: range(0x7a00_0000, 0x7a01_0000),
        requester: Some(Requester(0x10)),
    };
    assert_eq!(ivrs.reserved.as_slice(), [region]);
}

const INTERRUPT: Interrupt = Interrupt {
    vector: 0x41,
    lowest_priority: false,
    logical: false,
    destination: 3,
    level: true,
};

#[test]
fn what_guests_ask_for() {
    let message = Interrupt::from_message(0xfee0_3000, 0x8041).unwrap();
    assert_eq!(message, INTERRUPT);
    let pin = Interrupt::from_redirection(0x8041, 3 << 24).unwrap();
    assert_eq!(pin, INTERRUPT);
    let lowest = Interrupt::from_message(0xfeef_f00c, 0x4141).unwrap();
    assert!(lowest.lowest_priority && lowest.logical && !lowest.level);
    assert_eq!(lowest.destination, 0xff);
    assert_eq!(Interrupt::from_redirection(0x1_0041, 0), None, "masked");
    assert_eq!(Interrupt::from_redirection(0x441, 0), None, "an NMI");
    assert_eq!(Interrupt::from_message(0xfee0_0000, 0x541), None, "INIT");
    assert_eq!(Interrupt::from_message(0xfed0_0000, 0x41), None, "memory");
}

/// VT-d specification 4.1, 9.1, 9.3, 9.9.
#[test]
fn vtd_entries() {
    assert_eq!(vtd::root_entry(0x12_3000), [0x12_3001, 0]);
    assert_eq!(vtd::context_entry(0x45_6000, 3, 2), [0x45_6001, 0x201]);
    assert_eq!(vtd::context_entry(0x45_6000, 4, 2), [0x45_6001, 0x202]);
    assert_eq!(vtd::without_faults([0x45_6001, 0x202]), [0x45_6003, 0x202]);
    let device = Requester(0x00fa);
    let entry = vtd::interrupt_entry(&INTERRUPT, device, false);
    assert_eq!(entry, [0x0000_0300_0041_0011, 0x4_00fa]);
    let entry = vtd::interrupt_entry(&INTERRUPT, device, true);
    assert_eq!(entry, [0x0000_0003_0041_0011, 0x4_00fa]);
    let logical = Interrupt {
        lowest_priority: true,
        logical: true,
        level: false,
        ..INTERRUPT
    };
    let entry = vtd::interrupt_entry(&logical, device, false);
    assert_eq!(entry[0], 0x0000_0300_0041_002d);
}

/// VT-d specification 4.1, 5.1.3 and 5.1.5.
#[test]
fn vtd_messages() {
    let address = |index, block| vtd::message(index, block).address;
    assert_eq!(address(0, false), 0xfee0_0010);
    assert_eq!(address(1, true), 0xfee0_0038);
    assert_eq!(address(0x8001, false), 0xfee0_0034);
    assert_eq!(vtd::message(7, false).data, 0);
    assert_eq!(vtd::redirection(1, &INTERRUPT), 3 << 48 | 0x8041);
    assert_eq!(vtd::redirection(0x8000, &INTERRUPT), 1 << 48 | 0x8841);
}

/// VT-d specification 4.1, 6.5.2.
#[test]
fn vtd_descriptors() {
    assert_eq!(vtd::descriptor::CONTEXT, [0x11, 0]);
    assert_eq!(vtd::descriptor::INTERRUPT, [0x04, 0]);
    assert_eq!(vtd::descriptor::iotlb((true, true)), [0xd2, 0]);
    assert_eq!(
        vtd::descriptor::wait(0x1000, 7),
        [0x0000_0007_0000_0025, 0x1000]
    );
}

/// VT-d specification 4.1, 11.4.14.6.
#[test]
fn vtd_faults() {
    assert_eq!(vtd::fault([0x1000, 0]), None);
    let write = vtd::fault([0xfeed_b123, 1 << 63 | 5 << 32 | 0x30]).unwrap();
    assert_eq!(write.requester, Requester(0x30));
    assert_eq!((write.address, write.code), (0xfeed_b000, 5));
    assert_eq!(write.access, Access::Write);
    let read = vtd::fault([0, 3 << 62 | 6 << 32]).unwrap();
    assert_eq!(read.access, Access::Read);
    let interrupt = vtd::fault([9 << 48, 1 << 63 | 0x26 << 32]).unwrap();
    assert_eq!(
        (interrupt.address, interrupt.access),
        (9, Access::Interrupt)
    );
}

/// VT-d specification 4.1, 11.4.2 and 11.4.3.
#[test]
fn vtd_capabilities() {
    let small = Capabilities {
        cap: 0x00d2_008c_2226_0206,
        ecap: 0x00f0_0f4a,
    };
    assert_eq!(small.levels(), Some(3));
    assert_eq!(small.address_end(), 1 << 39);
    assert_eq!(small.largest_page(), 3);
    assert_eq!((small.fault_offset(), small.faults()), (0x220, 1));
    assert_eq!(small.drains(), (true, true));
    assert_eq!(small.domains(), 1 << 16);
    assert_eq!(small.register_bytes(), 0x1000);
    assert!(small.queue() && small.interrupts() && !small.coherent());
    let none = Capabilities { cap: 0, ecap: 0 };
    assert_eq!((none.levels(), none.largest_page()), (None, 1));
}

/// AMD 48882, 2.2.2.1 and 2.2.5.2.
#[test]
fn amdvi_entries() {
    use amdvi::DeviceEntry;
    let entry = DeviceEntry::translated(0x12_3000, 2);
    assert_eq!(entry.0, [0x6000_0000_0012_3803, 2, 0, 0]);
    let remapped = entry.with_interrupts(0x45_6000);
    assert_eq!(remapped.0[2], 0x2000_0000_0045_6013);
    assert_eq!(entry.without_interrupts().0[2], 1, "IntCtl 0: refused");
    assert_eq!(entry.with_nmi().0[2], 1 << 58);
    assert_eq!(entry.without_faults().0[1], 0x4_0000_0002);
    assert_eq!(amdvi::interrupt_entry(&INTERRUPT), 0x0041_0301);
    let far = Interrupt {
        destination: 0x1234_5678,
        logical: true,
        lowest_priority: true,
        ..INTERRUPT
    };
    assert_eq!(
        amdvi::extended_interrupt_entry(&far),
        [0x3456_7845, 0x1200_0000_0000_0041]
    );
    assert_eq!(amdvi::message(0x101).data, 0x101);
    assert_eq!(amdvi::redirection(0x41, true), 0x8041);
}

/// AMD 48882, 2.4.
#[test]
fn amdvi_commands() {
    use amdvi::command;
    let device = Requester(0x30);
    assert_eq!(command::device(device), [0x2000_0000_0000_0030, 0]);
    assert_eq!(command::interrupts(device), [0x5000_0000_0000_0030, 0]);
    let pages = command::pages(2);
    assert_eq!(pages, [0x3000_0002_0000_0000, 0x7fff_ffff_ffff_f003]);
    assert_eq!(command::ALL, [0x8000_0000_0000_0000, 0]);
    let wait = command::completion_wait(0x1000, 7);
    assert_eq!(wait, [0x1000_0000_0000_1001, 7]);
}

/// AMD 48882, 2.5; the second as QEMU writes it.
#[test]
fn amdvi_events() {
    assert_eq!(amdvi::event([0, 0]), None);
    assert_eq!(amdvi::event([5 << 60, 0x1000]), None, "a command's");
    let write = amdvi::event([2 << 60 | 1 << 53 | 0x30, 0xfeed_b123]).unwrap();
    assert_eq!(write.requester, Requester(0x30));
    assert_eq!((write.address, write.code), (0xfeed_b123, 2));
    assert_eq!(write.access, Access::Write);
    let qemu = |perms: u64| amdvi::event([(0x2008 | perms) << 48, 0x1000]).unwrap();
    assert_eq!(qemu(2).access, Access::Write);
    assert_eq!(qemu(1).access, Access::Read);
    let interrupt = amdvi::event([2 << 60 | 1 << 51, 0xfee0_1000]).unwrap();
    assert_eq!(interrupt.access, Access::Interrupt);
}
