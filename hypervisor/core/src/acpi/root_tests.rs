//! What Linux finds when it follows the RSDP.

use super::super::checksum;
use super::*;

#[test]
fn root_of_acpi_1() {
    let tables = [(*b"FACP", 0x1000), (*b"APIC", 0x2000)];
    let root = RootTables {
        oem_id: *b"BOCHS ",
        oem_table_id: *b"BXPC    ",
        xsdt: false,
        tables: &tables,
    };
    let mut dst = [0xaa; 256];
    let built = build_root(&root, 0x9_0000, &mut dst).unwrap();
    assert_eq!(
        built,
        Root {
            rsdp: 0x9_0000,
            length: 64 + 36 + 8
        }
    );
    assert_eq!(&dst[..8], b"RSD PTR ");
    assert_eq!(checksum(&dst[..20]), 0);
    assert_eq!(dst[15], 0);
    assert_eq!(bytes::u32_at(&dst, 16), Some(0x9_0040));
    let header = Header::verify(&dst[64..]).unwrap();
    assert_eq!((&header.signature, header.length), (b"RSDT", 44));
    assert_eq!(bytes::u32_at(&dst, 64 + 36), Some(0x1000));
    assert_eq!(bytes::u32_at(&dst, 64 + 40), Some(0x2000));
    assert_eq!(dst[108], 0xaa, "nothing past the end");

    let high = RootTables {
        tables: &[(*b"SSDT", 1 << 32)],
        ..root
    };
    assert!(matches!(
        build_root(&high, 0, &mut dst),
        Err(AcpiError::AddressTooHigh {
            address: 0x1_0000_0000,
            ..
        })
    ));
    assert!(build_root(&root, 1 << 32, &mut dst).is_err());
    assert!(matches!(
        build_root(&root, 0, &mut dst[..107]),
        Err(AcpiError::DestinationTooSmall {
            needed: 108,
            available: 107
        })
    ));
}

#[test]
fn root_of_acpi_2() {
    let tables = [
        (*b"FACP", 0x1000),
        (*b"SSDT", 0x1_0000_0000),
        (*b"APIC", 0x2000),
    ];
    let root = RootTables {
        oem_id: *b"OEMOEM",
        oem_table_id: *b"TABLETAB",
        xsdt: true,
        tables: &tables,
    };
    let mut dst = [0; 256];
    build_root(&root, 0x9_0000, &mut dst).unwrap();
    assert_eq!(checksum(&dst[..20]), 0);
    assert_eq!(checksum(&dst[..36]), 0);
    assert_eq!((dst[15], bytes::u32_at(&dst, 20)), (2, Some(36)));
    assert_eq!(&dst[9..15], b"OEMOEM");
    let rsdt = Header::verify(&dst[64..]).unwrap();
    assert_eq!(
        rsdt.length, 44,
        "the table above 4 GiB is in the XSDT alone"
    );
    let xsdt = usize::try_from(bytes::u64_at(&dst, 24).unwrap() - 0x9_0000).unwrap();
    let header = Header::verify(&dst[xsdt..]).unwrap();
    assert_eq!((&header.signature, header.length), (b"XSDT", 60));
    assert_eq!(xsdt % 16, 0);
    for (index, (_, address)) in tables.iter().enumerate() {
        assert_eq!(bytes::u64_at(&dst, xsdt + 36 + 8 * index), Some(*address));
    }
    build_root(&root, 1 << 32, &mut dst).unwrap();
    assert_eq!(bytes::u32_at(&dst, 16), Some(0), "no RSDT above 4 GiB");
}
