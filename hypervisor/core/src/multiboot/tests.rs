extern crate std;

use std::string::ToString;
use std::vec::Vec;

use super::*;

fn tag(kind: u32, content: &[u8]) -> Vec<u8> {
    let size = u32::try_from(HEADER + content.len()).unwrap();
    let mut bytes = Vec::from(kind.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(ALIGN), 0xee);
    bytes
}

fn information(tags: &[Vec<u8>]) -> Vec<u8> {
    let body: Vec<u8> = tags.concat();
    let total = u32::try_from(HEADER + body.len() + HEADER).unwrap();
    let mut bytes = Vec::from(total.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes.extend(tag(tag::END, &[]));
    bytes
}

fn map(entries: &[(u64, u64, u32)], size: u32) -> Vec<u8> {
    let mut content = Vec::from(size.to_le_bytes());
    content.extend([0; 4]);
    for (start, len, kind) in entries {
        let at = content.len();
        content.extend(start.to_le_bytes());
        content.extend(len.to_le_bytes());
        content.extend(kind.to_le_bytes());
        content.resize(at + usize::try_from(size).unwrap(), 0);
    }
    tag(tag::MEMORY_MAP, &content)
}

fn file(start: u32, end: u32, line: &[u8]) -> Vec<u8> {
    let mut content = Vec::from(start.to_le_bytes());
    content.extend(end.to_le_bytes());
    content.extend(line);
    tag(tag::MODULE, &content)
}

fn rsdp(kind: u32) -> Vec<u8> {
    let mut content = Vec::from(*b"RSD PTR \0CLOIST\x02");
    content.extend(0x7fe_0000u32.to_le_bytes());
    if kind == tag::RSDP_V2 {
        content.extend(36u32.to_le_bytes());
        content.extend(0x1_7fe0_0000u64.to_le_bytes());
        content.extend([0; 4]);
    }
    tag(kind, &content)
}

#[test]
fn what_grub_says() {
    // Entries may be longer than what is known of them.
    let bytes = information(&[
        tag(tag::COMMAND_LINE, b"console=com2\0"),
        tag(9, b"unknown"),
        file(0x10_0000, 0x10_2000, b"manifest\0"),
        file(0x20_0000, 0x20_0000, b"spin.elf and more\0"),
        rsdp(tag::RSDP_V2),
        rsdp(tag::RSDP_V1),
        map(&[(0, 0x9_fc00, 1), (0x10_0000, 0x3ff0_0000, 1)], 32),
    ]);
    let found = parse(&bytes).unwrap();
    assert_eq!(found.command_line, "console=com2");
    let names: Vec<&str> = found.modules.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["manifest", "spin.elf"]);
    assert_eq!(found.modules[0].range.len(), 0x2000);
    assert_eq!(found.acpi_root, Some((2, 0x1_7fe0_0000)));
    assert_eq!(&found.oem_id, b"CLOIST");
    let region = Region {
        start: 0x10_0000,
        len: 0x3ff0_0000,
        kind: 1,
    };
    assert_eq!(found.regions[1..], [region]);
    // What follows is not looked at.
    let longer = [bytes.as_slice(), &[0xff; 40]].concat();
    assert_eq!(parse(&longer), Ok(found));
}

#[test]
fn old_machines() {
    let bytes = information(&[rsdp(tag::RSDP_V1), map(&[], 24)]);
    let found = parse(&bytes).unwrap();
    assert_eq!(found.acpi_root, Some((0, 0x7fe_0000)));
    assert_eq!(found.command_line, "");
}

#[test]
fn refusals() {
    use MultibootError as E;
    let good = map(&[(0, 1, 1)], 24);
    let error = |tags: &[Vec<u8>]| parse(&information(tags)).unwrap_err();
    assert_eq!(error(&[]), E::NoMemoryMap);
    assert_eq!(error(&[map(&[], 16)]), E::Damaged);
    assert_eq!(
        error(&[map(&[(0, 1, 1); MAX_REGIONS + 1], 24)]),
        E::TooManyRegions
    );
    let with = |tag: Vec<u8>| error(&[good.clone(), tag]);
    assert_eq!(with(file(0, 1, b"\xff\0")), E::ModuleText);
    assert_eq!(with(file(0, 1, b"no end")), E::ModuleText);
    assert_eq!(with(file(0, 1, &[b'x'; 65])), E::ModuleText);
    let long = [[b'x'; 64].as_slice(), &[0]].concat();
    assert_eq!(with(file(0, 1, &long)), E::ModuleName);
    assert_eq!(with(file(2, 1, b"x\0")), E::ModuleRange);
    assert_eq!(with(tag(tag::MODULE, &[0; 7])), E::Damaged);
    assert_eq!(with(tag(tag::RSDP_V1, &[0; 19])), E::Damaged);
    assert_eq!(with(tag(tag::RSDP_V2, &[0; 31])), E::Damaged);
    let many: Vec<Vec<u8>> = (0..=MAX_MODULES).map(|_| file(0, 1, b"x\0")).collect();
    assert_eq!(error(&many), E::TooManyModules);
    // Cut anywhere, also before the tag that ends the others.
    let whole = information(&[good]);
    for end in 0..whole.len() {
        assert_eq!(parse(&whole[..end]), Err(E::Damaged), "{end}");
    }
    let mut endless = whole.clone();
    let total = u32::try_from(whole.len() - HEADER).unwrap();
    endless[..4].copy_from_slice(&total.to_le_bytes());
    assert_eq!(parse(&endless), Err(E::Damaged));
    // A tag smaller than its own header.
    let mut small = whole.clone();
    small[HEADER + 4] = 7;
    assert_eq!(parse(&small), Err(E::Damaged));
    assert!(E::ModuleName.to_string().contains("over 63 bytes"));
}
