//! A hand-built kernel header, changed one field at a time.

extern crate std;

use std::format;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

const SETUP_SECTS: usize = 3;
const PAYLOAD: usize = 0x1000;

fn put(image: &mut [u8], offset: usize, value: &[u8]) {
    image[offset..offset + value.len()].copy_from_slice(value);
}

/// A kernel of protocol 2.15 like Debian's.
fn image() -> Vec<u8> {
    let mut image = vec![0; (SETUP_SECTS + 1) * 512 + PAYLOAD];
    let put = |image: &mut [u8], offset, value: &[u8]| put(image, offset, value);
    put(&mut image, 0x1f1, &[3]);
    put(&mut image, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut image, 0x202, b"HdrS");
    put(&mut image, 0x206, &0x20fu16.to_le_bytes());
    put(&mut image, 0x211, &[0xa1]);
    put(&mut image, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut image, 0x230, &0x20_0000u32.to_le_bytes());
    put(&mut image, 0x234, &[1, 21]);
    put(&mut image, 0x236, &0x7fu16.to_le_bytes());
    put(&mut image, 0x238, &2047u32.to_le_bytes());
    put(&mut image, 0x248, &0x300u32.to_le_bytes());
    put(&mut image, 0x24c, &0xd00u32.to_le_bytes());
    put(&mut image, 0x250, &0xdead_beefu64.to_le_bytes());
    put(&mut image, 0x258, &0x100_0000u64.to_le_bytes());
    put(&mut image, 0x260, &0x337_8000u32.to_le_bytes());
    image
}

fn changed(offset: usize, value: &[u8]) -> Vec<u8> {
    let mut image = image();
    put(&mut image, offset, value);
    image
}

fn error(image: &[u8]) -> BzImageError {
    Kernel::parse(image).unwrap_err()
}

#[test]
fn header_fields() {
    let image = image();
    let kernel = Kernel::parse(&image).unwrap();
    assert_eq!(kernel.payload(), &image[2048..]);
    assert_eq!(kernel.version(), 0x20f);
    assert_eq!(kernel.alignment(), 0x20_0000);
    assert_eq!(kernel.preferred_address(), 0x100_0000);
    assert_eq!(kernel.init_size(), 0x337_8000);
    assert_eq!(kernel.command_line_size(), 2047);
    assert_eq!(kernel.header().len(), 0x202 + 0x6a - 0x1f1);
    assert!(kernel.loads_above_4g());
    let four_setup_sectors = [&changed(0x1f1, &[0])[..], &[0; 512]].concat();
    let kernel = Kernel::parse(&four_setup_sectors).unwrap();
    assert_eq!(kernel.payload(), &four_setup_sectors[5 * 512..]);
}

#[test]
fn refusals() {
    assert_eq!(error(&[]), BzImageError::NotBzImage);
    assert_eq!(error(&changed(0x1fe, &[0])), BzImageError::NotBzImage);
    assert_eq!(error(&changed(0x202, b"HdrT")), BzImageError::NotBzImage);
    assert_eq!(
        error(&changed(0x206, &[0x0b, 2])),
        BzImageError::OldProtocol(0x20b)
    );
    assert_eq!(error(&changed(0x236, &[0x7e])), BzImageError::No64BitEntry);
    assert_eq!(error(&changed(0x234, &[0])), BzImageError::NotRelocatable);
    assert_eq!(
        error(&changed(0x230, &[1])),
        BzImageError::Alignment(0x20_0001)
    );
    assert_eq!(
        error(&changed(0x230, &[0, 8, 0])),
        BzImageError::Alignment(0x800)
    );
    assert_eq!(
        error(&changed(0x201, &[0x61])),
        BzImageError::HeaderLength(0x263)
    );
    assert_eq!(
        error(&changed(0x201, &[0x8f])),
        BzImageError::HeaderLength(0x291)
    );
    assert_eq!(error(&changed(0x260, &[0; 4])), BzImageError::InitSize(0));
    let short = &image()[..0x800 + 0xfff];
    assert_eq!(
        error(short),
        BzImageError::Truncated {
            needed: 0x1800,
            available: 0x17ff
        }
    );
    assert_eq!(
        format!("{}", error(&changed(0x206, &[0x0b, 2]))),
        "boot protocol 2.11; 2.12 or later (Linux 3.8) is needed"
    );
}

const DATA: BootData = BootData {
    load_address: 0x20_0000,
    command_line: 0x2_0009_0000,
    initrd: Some((0x1_3000_0000, 0x2_0000_1234)),
    rsdp: 0x8_1234,
};

fn ram(count: u64) -> impl Iterator<Item = E820Entry> {
    (0..count).map(|n| E820Entry {
        start: n << 32,
        length: n + 1,
        kind: E820Kind::Reserved,
    })
}

#[test]
fn zero_page() {
    let image = image();
    let kernel = Kernel::parse(&image).unwrap();
    let mut page = [0xaa; BOOT_PARAMS_SIZE];
    boot_params(&mut page, &kernel, &DATA, ram(128)).unwrap();
    let u32_at = |at| bytes::u32_at(&page, at).unwrap();
    let u64_at = |at| bytes::u64_at(&page, at).unwrap();
    assert_eq!(u64_at(0x70), 0x8_1234);
    assert_eq!((u32_at(0xc0), u32_at(0xc4), u32_at(0xc8)), (1, 2, 2));
    assert_eq!((u32_at(0x218), u32_at(0x21c)), (0x3000_0000, 0x1234));
    assert_eq!(u32_at(0x228), 0x9_0000);
    assert_eq!(page[0x210], 0xff);
    assert_eq!(
        page[0x211], 1,
        "LOADED_HIGH; neither QUIET nor CAN_USE_HEAP"
    );
    assert_eq!(u32_at(0x214), 0x20_0000);
    assert_eq!(u64_at(0x250), 0, "no setup_data");
    assert_eq!(page[0x1ef], 0, "sentinel");
    // Unchanged parts of the header: from kernel_alignment to cmdline_size.
    assert_eq!(page[0x22c..0x250], image[0x22c..0x250]);
    assert_eq!(u32_at(0x260), 0x337_8000);
    // Text mode, VGA, 80 columns, 25 lines of 16 pixels.
    assert_eq!(
        (page[6], page[7], page[0xe], page[0xf], page[0x10]),
        (3, 80, 25, 1, 16)
    );
    assert_eq!(page[0x1e8], 128);
    let entry = |n: usize| 0x2d0 + n * 20;
    assert_eq!(
        (
            u64_at(entry(1)),
            u64_at(entry(1) + 8),
            u32_at(entry(1) + 16)
        ),
        (1 << 32, 2, 2)
    );
    assert_eq!(
        (u64_at(entry(127)), u64_at(entry(127) + 8)),
        (127 << 32, 128)
    );
    assert!(page[entry(128)..].iter().all(|byte| *byte == 0));
    assert!(page[0x26c..0x2d0].iter().all(|byte| *byte == 0));
}

#[test]
fn zero_page_refusals() {
    let image = image();
    let kernel = Kernel::parse(&image).unwrap();
    let mut page = [0; BOOT_PARAMS_SIZE];
    let mut fill = |data: &BootData, count| boot_params(&mut page, &kernel, data, ram(count));
    assert_eq!(fill(&DATA, 129), Err(BzImageError::TooManyE820(129)));
    assert_eq!(fill(&DATA, 256), Err(BzImageError::TooManyE820(256)));
    let data = BootData {
        load_address: 0x10_0000,
        ..DATA
    };
    assert_eq!(fill(&data, 1), Err(BzImageError::LoadAddress(0x10_0000)));
    let data = BootData {
        initrd: Some((1, u64::MAX)),
        ..DATA
    };
    assert_eq!(fill(&data, 1), Err(BzImageError::Initrd(1)));
}

#[test]
fn kernel_that_stays_below_4g() {
    let image = changed(0x236, &[1]);
    let kernel = Kernel::parse(&image).unwrap();
    let mut page = [0; BOOT_PARAMS_SIZE];
    let mut fill = |data: &BootData| boot_params(&mut page, &kernel, data, ram(1));
    let low = BootData {
        command_line: 0x9_0000,
        initrd: Some((0x7000_0000, 0x1000_0000)),
        ..DATA
    };
    assert_eq!(fill(&low), Ok(()));
    let high = BootData {
        initrd: Some((0x7000_0000, 0x1000_0001)),
        ..low
    };
    assert_eq!(fill(&high), Err(BzImageError::Initrd(0x7000_0000)));
    let high = BootData {
        command_line: 1 << 32,
        ..low
    };
    assert_eq!(fill(&high), Err(BzImageError::CommandLine(1 << 32)));
    let high = BootData {
        load_address: 0xfe00_0000,
        ..low
    };
    assert_eq!(fill(&high), Err(BzImageError::LoadAddress(0xfe00_0000)));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(file in prop::collection::vec(any::<u8>(), 0..1200)) {
        let _ = Kernel::parse(&file);
    }

    #[test]
    fn mutated_kernels_never_panic(
        changes in prop::collection::vec((0x1f1usize..0x270, any::<u8>()), 0..4),
        cut in 0usize..0x1800,
        load_address in prop_oneof![Just(0x20_0000u64), any::<u64>()],
        initrd in any::<Option<(u64, u64)>>(),
    ) {
        let mut file = image();
        for (at, value) in changes {
            file[at] = value;
        }
        file.truncate(file.len() - cut / 8);
        if let Ok(kernel) = Kernel::parse(&file) {
            let mut page = [0; BOOT_PARAMS_SIZE];
            let data = BootData { load_address, initrd, ..DATA };
            if boot_params(&mut page, &kernel, &data, ram(2)).is_ok() {
                prop_assert_eq!(page[0x1e8], 2);
                prop_assert_eq!(load_address % kernel.alignment(), 0);
            }
        }
    }
}
