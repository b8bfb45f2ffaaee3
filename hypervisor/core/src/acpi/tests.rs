//! Tables of real machines, hand-built odd ones, and arbitrary bytes.

extern crate std;

use std::format;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

#[path = "testdata.rs"]
mod testdata;

/// A MADT with these entries.
fn madt(entries: &[&[u8]]) -> Vec<u8> {
    let mut table = vec![0; 44];
    table[..4].copy_from_slice(b"APIC");
    table.extend(entries.concat());
    let length = u32::try_from(table.len()).unwrap();
    table[4..8].copy_from_slice(&length.to_le_bytes());
    seal(&mut table);
    table
}

fn filtered(src: &[u8], keep: impl Fn(u32) -> bool) -> Vec<u8> {
    let mut dst = vec![0xaa; src.len()];
    let length = filter_madt(src, &keep, &mut dst).unwrap();
    dst.truncate(length);
    dst
}

fn ids(madt: &[u8]) -> Vec<u32> {
    madt_cores(madt)
        .unwrap()
        .map(|core| core.unwrap().apic_id)
        .collect()
}

const LAPIC_0: &[u8] = &[0, 8, 0, 0, 1, 0, 0, 0];
const LAPIC_1: &[u8] = &[0, 8, 1, 1, 1, 0, 0, 0];
const X2APIC_300: &[u8] = &[9, 16, 0, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0];
const NMI_ALL: &[u8] = &[4, 6, 0xff, 0, 0, 1];
const NMI_UID_1: &[u8] = &[4, 6, 1, 0, 0, 1];
const X2NMI_UID_7: &[u8] = &[0xa, 12, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0];
const X2NMI_ALL: &[u8] = &[0xa, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0];
const IOAPIC: &[u8] = &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0];
const MAILBOX: &[u8] = &[0x10, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0];

#[test]
fn real_madt_lists_disabled_cores() {
    let table = testdata::bytes(testdata::MADT);
    assert_eq!(Header::verify(&table).unwrap().length, 160);
    let cores: Vec<_> = madt_cores(&table).unwrap().map(Result::unwrap).collect();
    assert_eq!(cores.len(), 6);
    let enabled = |core: &&MadtCore| core.enabled;
    assert_eq!(cores.iter().filter(enabled).count(), 4);
    assert_eq!(cores[3].apic_id, 3);
    assert!(!cores[5].enabled && !cores[5].online_capable);
}

#[test]
fn real_madt_keeps_two_cores_and_everything_else() {
    let table = testdata::bytes(testdata::MADT);
    let result = filtered(&table, |id| id < 2 || id == 5);
    assert_eq!(ids(&result), [0, 1]);
    assert_eq!(result.len(), 160 - 4 * 8);
    assert_eq!(Header::verify(&result).unwrap().length, 128);
    // From the I/O APIC on nothing changes.
    assert_eq!(result[44 + 2 * 8..], table[44 + 6 * 8..]);
}

#[test]
fn io_apics_are_listed() {
    let table = madt(&[
        LAPIC_0,
        IOAPIC,
        NMI_ALL,
        &[1, 12, 2, 0, 0, 0x10, 0xc0, 0xfe, 24, 0, 0, 0],
    ]);
    let found: Vec<_> = madt_io_apics(&table).unwrap().collect();
    let expected =
        [(0, 0xfec0_0000, 0), (2, 0xfec0_1000, 24)].map(|(id, address, gsi_base)| IoApic {
            id,
            address,
            gsi_base,
        });
    assert_eq!(found, expected);
    assert!(madt_io_apics(b"APIC").is_err());
}

#[test]
fn nmi_entries_follow_their_processors() {
    let table = madt(&[
        LAPIC_0,
        LAPIC_1,
        X2APIC_300,
        NMI_ALL,
        NMI_UID_1,
        X2NMI_UID_7,
        X2NMI_ALL,
        IOAPIC,
        MAILBOX,
    ]);
    assert_eq!(
        filtered(&table, |id| id == 0),
        madt(&[LAPIC_0, NMI_ALL, X2NMI_ALL, IOAPIC])
    );
    assert_eq!(
        filtered(&table, |id| id == 1),
        madt(&[LAPIC_1, NMI_ALL, NMI_UID_1, X2NMI_ALL, IOAPIC])
    );
    assert_eq!(
        filtered(&table, |id| id == 300),
        madt(&[X2APIC_300, NMI_ALL, X2NMI_UID_7, X2NMI_ALL, IOAPIC])
    );
}

#[test]
fn disabled_twin_of_a_kept_core_goes() {
    let disabled = &[0, 8, 9, 0, 2, 0, 0, 0];
    let table = madt(&[disabled, LAPIC_0, LAPIC_0]);
    assert_eq!(
        ids(&table),
        [0, 0],
        "the enabled one is better than the first"
    );
    assert_eq!(filtered(&table, |_| true), madt(&[LAPIC_0, LAPIC_0]));
}

#[test]
fn malformed_madt_is_refused() {
    let mut dst = [0; 256];
    let mut filter = |src: &[u8]| filter_madt(src, &|_| true, &mut dst);
    let entry = |offset| {
        Err(AcpiError::Entry {
            table: *b"APIC",
            offset,
        })
    };
    assert_eq!(filter(&madt(&[LAPIC_0, &[1, 0]])), entry(52));
    assert_eq!(filter(&madt(&[&[1, 13, 0, 0]])), entry(44));
    assert_eq!(
        filter(&madt(&[&[0, 4, 0, 0]])),
        entry(44),
        "shorter than a local APIC"
    );
    assert_eq!(filter(&madt(&[LAPIC_0, &[1]])), entry(52));
    assert!(matches!(
        filter(&testdata::bytes(testdata::FADT_REVISION_1)),
        Err(AcpiError::Signature { .. })
    ));
    assert!(matches!(
        filter(&madt(&[LAPIC_0])[..50]),
        Err(AcpiError::Truncated { .. })
    ));
    let table = madt(&[LAPIC_0, LAPIC_1]);
    assert_eq!(
        filter_madt(&table, &|_| true, &mut [0; 59]),
        Err(AcpiError::DestinationTooSmall {
            needed: 60,
            available: 59
        })
    );
}

#[test]
fn header_checks() {
    let mut table = testdata::bytes(testdata::FADT_REVISION_3);
    let header = Header::verify(&table).unwrap();
    assert_eq!(&header.oem_id, b"BOCHS ");
    table[60] ^= 1;
    assert!(matches!(
        Header::verify(&table),
        Err(AcpiError::Checksum { table, .. }) if &table == b"FACP"
    ));
    seal(&mut table);
    assert_eq!(checksum(&table), 0);
    table[4..8].copy_from_slice(&20u32.to_le_bytes());
    let error = Header::verify(&table).unwrap_err();
    assert_eq!(
        format!("{error}"),
        "ACPI table FACP needs 36 bytes, only 20 are there"
    );
}

#[test]
fn fadt_of_both_revisions() {
    let old = Fadt::parse(&testdata::bytes(testdata::FADT_REVISION_1)).unwrap();
    assert_eq!(old.pm1a_control, Some(0x604));
    assert_eq!(old.pm1b_control, None);
    assert_eq!(old.pm_timer, Some(0x608));
    assert_eq!(old.reset, None);
    assert_eq!(old.smi_command, Some(0xb2));
    assert_eq!((old.acpi_enable, old.acpi_disable), (0xf1, 0xf0));
    assert_eq!((old.dsdt, old.facs), (0x3ffe_0040, 0x3ffe_0000));

    let new = Fadt::parse(&testdata::bytes(testdata::FADT_REVISION_3)).unwrap();
    assert_eq!(new.pm1a_control, Some(0x604));
    assert_eq!(new.pm1b_control, None);
    assert_eq!(new.pm_timer, Some(0x608));
    let reset = new.reset.unwrap();
    assert_eq!((reset.register.port(), reset.value), (Some(0xcf9), 0xf));
    assert_eq!((new.dsdt, new.facs), (0x3ffe_0040, 0x3ffe_0000));
    assert!(!new.hardware_reduced);
}

#[test]
fn fadt_of_revision_6() {
    let mut table = testdata::bytes(testdata::FADT_REVISION_3);
    table.resize(276, 0);
    table[4..8].copy_from_slice(&276u32.to_le_bytes());
    // X_PM1a_CNT elsewhere, X_PM1b_CNT in memory space beside a port in PM1b.
    table[176..184].copy_from_slice(&0x1804u64.to_le_bytes());
    table[68..72].copy_from_slice(&0x1900u32.to_le_bytes());
    table[184] = 0;
    table[188..196].copy_from_slice(&0xfed0_0000u64.to_le_bytes());
    table[140..148].copy_from_slice(&0x1_2345_6780u64.to_le_bytes());
    table[244] = 1;
    table[248..256].copy_from_slice(&0x240u64.to_le_bytes());
    // Reset register not supported, hardware-reduced.
    table[112..116].copy_from_slice(&(1u32 << 20).to_le_bytes());
    let fadt = Fadt::parse(&table).unwrap();
    assert_eq!(fadt.pm1a_control, Some(0x1804));
    assert_eq!(fadt.pm1b_control, Some(0x1900));
    assert_eq!(fadt.dsdt, 0x1_2345_6780);
    assert_eq!(fadt.sleep_control.unwrap().port(), Some(0x240));
    assert!(fadt.hardware_reduced && fadt.reset.is_none());
}

#[test]
fn sleep_types_of_real_tables() {
    let qemu = testdata::bytes(testdata::SLEEP_AML);
    assert_eq!(sleep_type(&qemu, 3), Some((1, 1)));
    assert_eq!(sleep_type(&qemu, 4), Some((2, 2)));
    assert_eq!(sleep_type_s5(&qemu), Some((0, 0)));
    assert_eq!(sleep_type(&qemu, 1), None);
    assert_eq!(
        sleep_type_s5(&testdata::bytes(testdata::SLEEP_AML_BOCHS)),
        Some((0, 0))
    );
}

#[test]
fn hidden_sleep_states_are_not_found() {
    let mut table = [&[0; 36][..], &testdata::bytes(testdata::SLEEP_AML)].concat();
    seal(&mut table);
    let before = table.clone();
    assert_eq!(hide_sleep_states(&mut table), 2);
    assert_eq!(checksum(&table), 0);
    for state in 1..=4 {
        assert_eq!(sleep_type(&table, state), None);
    }
    assert_eq!(sleep_type_s5(&table), Some((0, 0)));
    // Two names and the checksum.
    let changed = table.iter().zip(&before).filter(|(a, b)| a != b).count();
    assert_eq!(changed, 3);
    assert_eq!(hide_sleep_states(&mut table), 0);
    let mut other = [&[0; 36][..], b"\x08\\_S1_\x12\x06\x04\x01\x01\x00\x00"].concat();
    assert_eq!(hide_sleep_states(&mut other), 1);
    assert_eq!(sleep_type(&other, 1), None);
}

#[test]
fn sleep_type_encodings() {
    let s5 = |package: &[u8]| sleep_type_s5(&[b"\x00\x08\\_S5_", package].concat());
    assert_eq!(s5(b"\x12\x06\x02\x0a\x07\x0a\x05"), Some((7, 5)));
    assert_eq!(s5(b"\x12\x05\x04\x01\x00\x00"), Some((1, 0)));
    assert_eq!(
        s5(b"\x12\x47\x00\x02\x0a\x07\x01\x00"),
        Some((7, 1)),
        "two-byte PkgLength"
    );
    assert_eq!(s5(b"\x12\x08\x02\x0b\x06\x00\x0b\x04\x00"), Some((6, 4)));
    assert_eq!(
        s5(b"\x12\x05\x01\x0b\x06\x05"),
        Some((6, 5)),
        "both in one integer"
    );
    assert_eq!(
        s5(b"\x12\x04\x02\x0a\x07\x01"),
        None,
        "second outside the package"
    );
    assert_eq!(s5(b"\x12\x06\x02\x0a\x08\x0a\x05"), None, "three bits");
    assert_eq!(
        s5(b"\x12\x20\x02\x0a\x07\x0a\x05"),
        None,
        "longer than the table"
    );
    assert_eq!(s5(b"\x12\x06\x02\x70\x07\x0a\x05"), None, "no integer");
    assert_eq!(s5(b"\x12\x01\x02\x00\x00"), None, "empty");
    let later = [b"_S5_".as_slice(), b"\x08_S5_\x12\x05\x04\x01\x01\x00"].concat();
    assert_eq!(sleep_type_s5(&later), Some((1, 1)));
}

#[test]
fn iommu_tables_are_hidden() {
    assert!(hidden_from_linux(b"DMAR") && hidden_from_linux(b"IVRS"));
    assert!(!hidden_from_linux(b"FACP") && !hidden_from_linux(b"APIC"));
}

/// An entry of any type, more often one that is looked at, with a true or a
/// wrong length.
fn any_entry() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![Just(0u8), Just(4), Just(9), Just(10), Just(1), any::<u8>()];
    (
        kind,
        prop::collection::vec(any::<u8>(), 0..20),
        prop::option::weighted(0.05, any::<u8>()),
    )
        .prop_map(|(kind, body, wrong)| {
            let length = u8::try_from(body.len() + 2).unwrap();
            [vec![kind, wrong.unwrap_or(length)], body].concat()
        })
}

proptest! {
    #[test]
    fn filtered_madt_is_sound(
        entries in prop::collection::vec(any_entry(), 0..12),
        kept in any::<u64>(),
    ) {
        let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        let table = madt(&entries);
        let keep = |id: u32| id < 64 && kept >> id & 1 != 0;
        let mut dst = vec![0; table.len()];
        if let Ok(length) = filter_madt(&table, &keep, &mut dst) {
            let result = &dst[..length];
            prop_assert_eq!(checksum(result), 0);
            prop_assert_eq!(Header::parse(result).unwrap().length as usize, length);
            for core in madt_cores(result).unwrap() {
                let core = core.unwrap();
                prop_assert!(core.enabled && keep(core.apic_id));
            }
            let again = filtered(result, keep);
            prop_assert_eq!(&again[..], result);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        signature in prop_oneof![Just(*b"APIC"), Just(*b"FACP"), any::<[u8; 4]>()],
        length in 0u32..310,
        room in 0usize..300,
    ) {
        if let Some(start) = bytes.get_mut(..8) {
            start[..4].copy_from_slice(&signature);
            start[4..].copy_from_slice(&length.to_le_bytes());
        }
        let _ = Header::verify(&bytes);
        let _ = Fadt::parse(&bytes);
        if let Ok(cores) = madt_cores(&bytes) {
            cores.for_each(drop);
        }
        let mut dst = vec![0; room];
        if let Ok(end) = filter_madt(&bytes, &|id| id % 2 == 0, &mut dst) {
            prop_assert_eq!(checksum(&dst[..end]), 0);
        }
    }

    #[test]
    fn arbitrary_aml_gives_three_bits(tail in prop::collection::vec(any::<u8>(), 0..40), state in any::<u8>()) {
        let aml = [b"\x08_S5_\x12".as_slice(), &tail].concat();
        if let Some((a, b)) = sleep_type_s5(&aml) {
            prop_assert!(a < 8 && b < 8);
        }
        let _ = sleep_type(&aml, state);
    }

    #[test]
    fn sealed_bytes_add_up(mut bytes in prop::collection::vec(any::<u8>(), 10..100)) {
        seal(&mut bytes);
        prop_assert_eq!(checksum(&bytes), 0);
    }
}
