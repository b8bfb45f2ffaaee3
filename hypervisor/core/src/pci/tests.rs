use std::collections::BTreeMap;

use super::*;

extern crate std;

/// A function as hardware has it: registers, and which bits can be written.
#[derive(Clone)]
struct Fake {
    registers: [u32; 0x400],
    writable: [u32; 0x400],
}

impl Fake {
    fn new(vendor: u16, device: u16, class: u32) -> Self {
        let mut fake = Self {
            registers: [0; 0x400],
            writable: [0; 0x400],
        };
        fake.registers[0] = u32::from(vendor) | u32::from(device) << 16;
        fake.registers[1] = 7;
        fake.writable[1] = 0x547;
        fake.registers[2] = class << 8;
        fake
    }

    fn bar(mut self, index: usize, value: u32, writable: u32) -> Self {
        self.registers[4 + index] = value;
        self.writable[4 + index] = writable;
        self
    }

    fn set(mut self, offset: u16, value: u32) -> Self {
        self.registers[usize::from(offset / 4)] = value;
        self
    }

    fn capability(self, offset: u8, header: u32, after: u8) -> Self {
        let header = header | u32::from(after) << 8;
        let mut fake = self.set(u16::from(offset), header);
        fake.registers[1] |= register::HAS_CAPABILITIES;
        if fake.registers[0x34 / 4] == 0 {
            fake.registers[0x34 / 4] = u32::from(offset);
        }
        fake
    }
}

#[derive(Clone, Default)]
struct Space(BTreeMap<u16, Fake>);

impl ConfigSpace for Space {
    fn read(&self, at: Address, offset: u16) -> u32 {
        let register = |fake: &Fake| fake.registers[usize::from(offset / 4)];
        self.0.get(&at.0).map_or(u32::MAX, register)
    }

    fn write(&mut self, at: Address, offset: u16, value: u32) {
        if let Some(fake) = self.0.get_mut(&at.0) {
            let mask = fake.writable[usize::from(offset / 4)];
            let register = &mut fake.registers[usize::from(offset / 4)];
            *register = *register & !mask | value & mask;
        }
    }
}

/// A host bridge, a card with every kind of BAR and capability, and a card
/// behind a bridge.
fn machine() -> Space {
    let card = Fake::new(0x8086, 0x10d3, 0x02_0000)
        .bar(0, 0xfeb0_0000, 0xfffe_0000)
        .bar(1, 0xc001, 0xffe0)
        .bar(2, 0xe000_000c, 0xf000_0000)
        .bar(3, 0x38, u32::MAX)
        .bar(4, 0xfebc_0000, 0xffff_f000)
        .capability(0x40, 0x01, 0x50)
        .capability(0x50, 0x0080_0005, 0x70)
        .capability(0x70, 0x10, 0xa0)
        .capability(0xa0, 0x0004_0011, 0x40)
        .set(0xa4, 0x0000_0804);
    let mut card = card;
    card.registers[6] |= 0xc;
    card.writable[6] = 0xf000_0000;
    card.writable[1] = 0x547;
    let bridge = Fake::new(0x1b36, 0x000c, 0x06_0400)
        .set(0x0c, 0x0001_0000)
        .set(0x18, 0x0002_0200)
        .capability(0x40, 0x10, 0)
        .set(0x100, 0x0001_000d)
        .set(0x104, 0x1d);
    let behind = Fake::new(0x1af4, 0x1041, 0x02_0000).bar(0, 0xfe00_0000, 0xffff_c000);
    Space(BTreeMap::from([
        (
            0x00,
            Fake::new(0x8086, 0x29c0, 0x06_0000).bar(0, 0, u32::MAX << 12),
        ),
        (0x80, card),
        (0xf0, bridge),
        (0x200, behind),
    ]))
}

fn found(space: &mut Space) -> std::vec::Vec<FunctionInfo> {
    let mut all = std::vec::Vec::new();
    scan(space, |info| all.push(info));
    all
}

#[test]
fn everything_is_found_and_left_as_it_was() {
    let mut space = machine();
    let all = found(&mut space);
    let addresses: std::vec::Vec<u16> = all.iter().map(|info| info.address.0).collect();
    assert_eq!(addresses, [0x00, 0x80, 0xf0, 0x200]);
    assert_eq!(all[0].kind, Kind::HostBridge);
    assert_eq!(all[0].bars, [Bar::None; BARS]);
    let expected = Kind::Bridge {
        secondary: 2,
        subordinate: 2,
        isolates: true,
    };
    assert_eq!(all[2].kind, expected);
    let before = machine();
    for (at, fake) in &space.0 {
        assert_eq!(fake.registers, before.0[at].registers);
    }
}

#[test]
fn bars_and_capabilities_are_understood() {
    let card = found(&mut machine())[1];
    let memory = |base, size, wide| Bar::Memory { base, size, wide };
    assert_eq!(card.bars[0], memory(0xfeb0_0000, 0x2_0000, false));
    let ports = Bar::Ports {
        base: 0xc000,
        size: 0x20,
    };
    assert_eq!(card.bars[1], ports);
    assert_eq!(card.bars[1].ports(), Some((0xc000, 0xc01f)));
    assert_eq!(card.bars[2], memory(0x38_e000_0000, 0x1000_0000, true));
    assert_eq!(card.bars[3], Bar::None);
    assert_eq!(card.bars[4], memory(0xfebc_0000, 0x1000, false));
    let capabilities = Capabilities {
        power: 0x40,
        msi: 0x50,
        express: 0x70,
        msix: 0xa0,
        ..Capabilities::default()
    };
    assert_eq!(card.capabilities, capabilities);
    let table = MsixTable {
        bar: 4,
        offset: 0x800,
        entries: 5,
    };
    assert_eq!(card.msix_table, Some(table));
    let space = machine();
    assert_eq!(msix_table_address(&space, &card), Some(0xfebc_0800));
}

#[test]
fn a_bar_of_nothing_is_none() {
    assert_eq!(Bar::decode(0, 0, None), Bar::None);
    assert_eq!(Bar::decode(u32::MAX, u32::MAX, None), Bar::None);
    assert_eq!(Bar::decode(0, 1, None), Bar::None);
    assert_eq!(Bar::decode(0, 8, None), Bar::None);
    // An upper half that is wired to 0.
    let bar = Bar::decode(0xc001, 0xffff_ffe1, None);
    assert_eq!(bar.ports(), Some((0xc000, 0xc01f)));
    assert_eq!(Bar::decode(1, 0xffe1, None).ports(), None);
}

#[test]
fn a_port_without_redirection_does_not_isolate() {
    for (offset, value) in [(0x104, 0x15), (0x100, 0), (0x100, 0x0001_0001)] {
        let mut space = machine();
        let bridge = space.0.remove(&0xf0).unwrap();
        space.0.insert(0xf0, bridge.set(offset, value));
        let Kind::Bridge { isolates, .. } = found(&mut space)[2].kind else {
            panic!("no bridge");
        };
        assert!(!isolates, "{offset:#x} {value:#x}");
    }
}

/// What a partition that owns the card may do with a write.
fn verdict(offset: u16, width: u8, value: u32) -> Verdict {
    let mut space = machine();
    let card = found(&mut space)[1];
    decide_own(&card, offset, width, value, |offset| {
        space.read(card.address, offset)
    })
}

#[test]
fn a_partition_may_write_what_is_harmless() {
    use Verdict::{Messages, Pass, Refuse, Size};
    for (offset, width, value, expected) in [
        (0x04, 2, 0x0007, Pass),
        (0x04, 4, 0x0000_0403, Pass),
        (0x04, 1, 0x03, Pass),
        (0x04, 2, 0x0107, Refuse),
        (0x06, 2, 0xffff, Pass),
        (0x0c, 1, 0x10, Pass),
        (0x0f, 1, 0x40, Refuse),
        (0x3c, 1, 0x0b, Pass),
        (0x3d, 1, 0x01, Refuse),
        (0x10, 4, u32::MAX, Size(0, true)),
        (0x10, 4, 0xfeb0_0000, Size(0, false)),
        (0x10, 4, 0xfec0_0000, Refuse),
        (0x10, 2, 0x0000, Refuse),
        (0x1c, 4, u32::MAX, Size(3, true)),
        (0x30, 4, u32::MAX, Refuse),
        (0x44, 2, 0x0003, Refuse),
        (0x78, 2, 0x8000, Refuse),
        (0x78, 2, 0x2010, Pass),
        (0x7a, 2, 0x000f, Pass),
        (0x52, 2, 0x0081, Messages),
        (0x52, 2, 0x0181, Refuse),
        (0x54, 4, 0xfee0_0000, Messages),
        (0x5c, 2, 0x0041, Messages),
        (0x60, 4, 0xffff_ffff, Refuse),
        (0xa2, 2, 0x8004, Messages),
        (0xa4, 4, 0x0000_0003, Refuse),
        (0xf0, 4, 1, Refuse),
        (0x05, 2, 0, Pass),
        (0x03, 2, 0, Refuse),
        (0x04, 3, 0, Refuse),
    ] {
        let got = verdict(offset, width, value);
        assert_eq!(got, expected, "{width} bytes {value:#x} at {offset:#x}");
    }
}

#[test]
fn messages_of_msi() {
    let all = |control: u32, data: u32| {
        let read = |offset| match offset {
            0x50 => control << 16 | 5,
            0x54 => 0xfee0_1003,
            0x58 => 1,
            0x5c => data,
            _ => 0,
        };
        let mut all = std::vec::Vec::new();
        msi(read, 0x50, |message| all.push(message));
        all
    };
    assert_eq!(all(0x80, 0x41), []);
    let message = |address, data| Message { address, data };
    assert_eq!(all(0x81, 0x41), [message(0x1_fee0_1000, 0x41)]);
    assert_eq!(all(0x01, 0x41), [message(0xfee0_1000, 1)]);
    assert_eq!(all(0xa1, 0x43).len(), 4);
    assert_eq!(all(0xa1, 0x43)[3].data, 0x43);
    assert_eq!(all(0xf1, 0)[31].data, 31);
}

#[test]
fn messages_of_msix() {
    assert!(msix_is_on(0x8000_0011));
    assert!(!msix_is_on(0xc000_0011));
    assert!(!msix_is_on(0x0000_0011));
    assert_eq!(msix_message([0xfee0_0000, 0, 0x41, 1]), None);
    let message = Message {
        address: 0x2_fee0_0000,
        data: 0x41,
    };
    assert_eq!(msix_message([0xfee0_0003, 2, 0x41, 0xfffe]), Some(message));
}

#[test]
fn accesses_stay_inside_a_register() {
    assert_eq!(lanes(2, 2), Some(0xffff_0000));
    assert_eq!(lanes(3, 2), None);
    assert_eq!(lanes(0, 8), None);
    assert_eq!(part(0x1234_5678, 1, 1), 0x56);
    assert_eq!(part(0x1234_5678, 3, 2), u32::MAX);
}

/// Linux has cores 0 and 1, and nothing from 0xd000_0000 on, nor port 0xd000.
struct Strict;

impl Judge for Strict {
    fn is_foreign(&self, claim: Claim) -> bool {
        match claim {
            Claim::Memory(first, last) => first <= 0xd000_0fff && 0xd000_0000 <= last,
            Claim::Ports(first, last) => first <= 0xd000 && 0xd000 <= last,
        }
    }

    fn may_send(&self, message: Message) -> bool {
        matches!(message.address, 0xfee0_0000 | 0xfee0_1000) && message.data & 0x700 == 0
    }

    fn may_send_table(&self, _: &FunctionInfo) -> bool {
        false
    }

    fn is_way_to_partition(&self, first: u8, last: u8) -> bool {
        (first..=last).contains(&9)
    }
}

/// Has Linux write to function `index` of the machine, in order; says what
/// became of the last write.
fn linux(index: usize, writes: &[(u16, u8, u32)]) -> Result<bool, &'static str> {
    let mut space = machine();
    let info = found(&mut space)[index];
    // Everything can be written here.
    if let Some(fake) = space.0.get_mut(&info.address.0) {
        fake.writable = [u32::MAX; 0x400];
    }
    let mut last = Ok(true);
    for &(offset, width, value) in writes {
        let read = |offset: u16| space.read(info.address, offset);
        last = decide_linux(&info, (offset, width, value), read, &Strict);
        if last == Ok(true) {
            let mask = lanes(offset, width).unwrap();
            let old = space.read(info.address, offset & !3);
            let new = old & !mask | (value << (offset % 4 * 8)) & mask;
            space.write(info.address, offset & !3, new);
        }
    }
    last
}

#[test]
fn linux_moves_bars_where_nobody_else_is() {
    const FOREIGN: Result<bool, &str> = Err("it would decode what is not Linux's");
    // While it decodes, and when it is to begin to.
    assert_eq!(linux(1, &[(0x10, 4, 0xd000_0000)]), FOREIGN);
    assert_eq!(linux(1, &[(0x10, 4, 0xc000_0000)]), Ok(true));
    let hidden = [(0x04, 2, 0), (0x10, 4, 0xd000_0000)];
    assert_eq!(linux(1, &hidden), Ok(true));
    assert_eq!(linux(1, &[hidden[0], hidden[1], (0x04, 2, 2)]), FOREIGN);
    assert_eq!(linux(1, &[hidden[0], hidden[1], (0x04, 2, 1)]), Ok(true));
    assert_eq!(
        linux(1, &[(0x04, 2, 0), (0x14, 4, 0xd001), (0x04, 2, 1)]),
        FOREIGN
    );
    // Sizing.
    assert_eq!(linux(1, &[(0x04, 2, 0), (0x10, 4, u32::MAX)]), Ok(true));
    // A bridge's windows, of memory and of ports.
    assert_eq!(linux(2, &[(0x20, 4, 0xd000_cff0)]), FOREIGN);
    assert_eq!(linux(2, &[(0x20, 4, 0xcff0_cf00)]), Ok(true));
    assert_eq!(linux(2, &[(0x24, 4, 0xd000_d000)]), FOREIGN);
    assert_eq!(linux(2, &[(0x1c, 2, 0xd0d0)]), FOREIGN);
    assert_eq!(linux(2, &[(0x1c, 2, 0xc0d0)]), Ok(true));
}

#[test]
fn linux_leaves_bridges_as_they_are() {
    assert!(linux(2, &[(0x19, 1, 9)]).is_err());
    assert_eq!(linux(2, &[(0x1b, 1, 9)]), Ok(true));
    assert!(linux(0, &[(0x60, 4, 0xd000_0001)]).is_err());
    assert_eq!(linux(0, &[(0x10, 4, u32::MAX)]), Ok(false));
    assert_eq!(linux(0, &[(0x04, 2, 6)]), Ok(true));
    // One on the way to a partition's function.
    let mut space = machine();
    let mut info = found(&mut space)[2];
    info.kind = Kind::Bridge {
        secondary: 8,
        subordinate: 10,
        isolates: true,
    };
    let read = |offset: u16| space.read(info.address, offset);
    let write = |offset, value| decide_linux(&info, (offset, 2, value), read, &Strict);
    assert!(write(0x3e, 0x40).is_err());
    assert!(write(0x44, 3).is_err());
    assert!(write(0x04, 0).is_err() || read(4) & 0xffff == 0);
}

#[test]
fn linux_sends_messages_to_its_own_cores() {
    let send = |address, data, control| {
        linux(
            1,
            &[(0x54, 4, address), (0x5c, 2, data), (0x52, 2, control)],
        )
    };
    assert_eq!(send(0xfee0_1000, 0x41, 0x81), Ok(true));
    assert!(send(0xfee0_2000, 0x41, 0x81).is_err());
    assert!(send(0xfee0_1000, 0x441, 0x81).is_err());
    assert_eq!(send(0xfee0_2000, 0x41, 0x80), Ok(true));
    assert!(linux(1, &[(0x5c, 2, 0x41), (0x52, 2, 0x81)]).is_err());
    let on = [(0x54, 4, 0xfee0_0000), (0x52, 2, 0x81)];
    assert!(linux(1, &[on[0], on[1], (0x54, 4, 0xfee0_3000)]).is_err());
    assert!(
        linux(1, &[(0xa2, 2, 0x8004)]).is_err(),
        "the table is judged"
    );
    assert_eq!(
        linux(1, &[(0xa2, 2, 0xc004)]),
        Ok(true),
        "masked as a whole"
    );
}
