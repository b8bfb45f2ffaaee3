//! Interrupts of devices at cores that are not Linux's: MSI and MSI-X of every
//! function that has them, and I/O APIC pins.

use anyhow::{Context, Result};

use crate::memory::Page;
use crate::ports::{self, read_config, write_config};

/// Offsets, capability IDs (PCI Local Bus Specification 3.0, 6.2, 6.8).
const COMMAND: u32 = 0x04;
const CAPABILITIES: u32 = 0x34;
const MSI: u32 = 0x05;
const MSI_X: u32 = 0x11;
/// Delivery modes that a message or a pin may have: fixed, lowest priority,
/// SMI, NMI, INIT, ExtINT.
const MODES: [u32; 6] = [0, 1, 2, 4, 5, 7];
const FIXED: u32 = 0;
/// Everybody.
const BROADCAST: u32 = 0xff;
/// The first I/O APIC, and a pin that nobody uses.
const IO_APIC: u64 = 0xfec0_0000;
const PIN: u32 = 20;
const MASKED: u32 = 1 << 16;

/// What was tried, and what of it was done.
#[derive(Default)]
struct Count {
    foreign: u64,
    foreign_done: u64,
    own: u64,
    own_done: u64,
}

impl Count {
    fn note(&mut self, is_own: bool, done: bool) {
        let (tried, counted) = match is_own {
            true => (&mut self.own, &mut self.own_done),
            false => (&mut self.foreign, &mut self.foreign_done),
        };
        *tried += 1;
        *counted += u64::from(done);
    }

    fn print(&self, name: &str) {
        println!(
            "{name}: foreign={} foreign_done={} own={} own_done={}",
            self.foreign, self.foreign_done, self.own, self.own_done
        );
    }
}

/// The cores that are tried, and the broadcast.
fn targets(all: u32) -> impl Iterator<Item = u32> {
    (0..all).chain([BROADCAST])
}

/// Targets, modes and vectors: every vector for fixed ones, three for others.
fn messages(all: u32) -> impl Iterator<Item = (u32, u32, u32)> {
    targets(all).flat_map(|target| {
        let fixed = (16..256).map(move |vector| (target, FIXED, vector));
        let others = MODES
            .into_iter()
            .skip(1)
            .flat_map(move |mode| [16, 0x41, 255].map(move |vector| (target, mode, vector)));
        fixed.chain(others)
    })
}

/// Linux's cores have the APIC IDs below `own`; vectors go there, by fixed and
/// lowest-priority delivery.
pub(crate) fn forge(own: u64, all: u64) -> Result<()> {
    ports::all()?;
    let all = u32::try_from(all)?;
    let is_own = |target: u32, mode: u32| u64::from(target) < own && mode <= 1;
    let (mut msi, mut msix) = (Count::default(), Count::default());
    for function in 0..0x100 {
        if read_config(function, 0) == u32::MAX {
            continue;
        }
        for (at, id) in capabilities(function) {
            match id {
                MSI => forge_msi(function, at, all, is_own, &mut msi),
                MSI_X => forge_msix(function, at, all, is_own, &mut msix)?,
                _ => {}
            }
        }
    }
    msi.print("msi");
    msix.print("msix");
    pins(all, is_own)
}

fn capabilities(function: u32) -> Vec<(u32, u32)> {
    let mut found = Vec::new();
    if read_config(function, COMMAND) >> 20 & 1 == 0 {
        return found;
    }
    let mut at = read_config(function, CAPABILITIES) & 0xfc;
    while at >= 0x40 && found.len() < 48 {
        let header = read_config(function, at);
        found.push((at, header & 0xff));
        at = header >> 8 & 0xfc;
    }
    found
}

/// Address and data written while it is off, then switched on; and once more
/// while it is on at a core that is Linux's.
fn forge_msi(
    function: u32,
    at: u32,
    all: u32,
    is_own: impl Fn(u32, u32) -> bool,
    count: &mut Count,
) {
    const ENABLE: u32 = 1 << 16;
    let header = read_config(function, at) & !ENABLE;
    let data = if header & 1 << 23 != 0 {
        at + 12
    } else {
        at + 8
    };
    for (target, mode, vector) in messages(all) {
        write_config(function, at, header);
        write_config(function, at + 4, 0xfee0_0000 | target << 12);
        write_config(function, data, vector | mode << 8);
        write_config(function, at, header | ENABLE);
        count.note(
            is_own(target, mode),
            read_config(function, at) & ENABLE != 0,
        );
    }
    for target in targets(all) {
        write_config(function, at, header);
        write_config(function, at + 4, 0xfee0_0000);
        write_config(function, data, 0x41);
        write_config(function, at, header | ENABLE);
        let aim = 0xfee0_0000 | target << 12;
        write_config(function, at + 4, aim);
        count.note(is_own(target, FIXED), read_config(function, at + 4) == aim);
    }
    // An address that is no interrupt's: a store to memory.
    write_config(function, at + 4, 0x10_0000);
    count.note(false, read_config(function, at + 4) == 0x10_0000);
    write_config(function, at, header);
}

/// An entry of the table, unmasked.
fn forge_msix(
    function: u32,
    at: u32,
    all: u32,
    is_own: impl Fn(u32, u32) -> bool,
    count: &mut Count,
) -> Result<()> {
    let command = read_config(function, COMMAND) & 0xffff;
    write_config(function, COMMAND, command | 2);
    let place = read_config(function, at + 4);
    let bar = read_config(function, 0x10 + (place & 7) * 4) & !0xf;
    let address = u64::from(bar) + u64::from(place & !7);
    let page = Page::map(address & !0xfff).context("the MSI-X table cannot be mapped")?;
    let base = usize::try_from(address & 0xfff)?;
    for (target, mode, vector) in messages(all) {
        page.write(base + 12, 1);
        page.write(base, 0xfee0_0000 | target << 12);
        page.write(base + 4, 0);
        page.write(base + 8, vector | mode << 8);
        page.write(base + 12, 0);
        count.note(is_own(target, mode), page.read(base + 12) & 1 == 0);
    }
    page.write(base + 12, 1);
    write_config(function, COMMAND, command);
    Ok(())
}

fn pins(all: u32, is_own: impl Fn(u32, u32) -> bool) -> Result<()> {
    let page = Page::map(IO_APIC).context("the I/O APIC cannot be mapped")?;
    let write = |index: u32, value: u32| {
        page.write(0, index);
        page.write(0x10, value);
    };
    let read = |index: u32| {
        page.write(0, index);
        page.read(0x10)
    };
    let (low, high) = (0x10 + 2 * PIN, 0x11 + 2 * PIN);
    let mut count = Count::default();
    for (target, mode, vector) in messages(all) {
        write(low, MASKED);
        write(high, target << 24);
        write(low, vector | mode << 8);
        // An ExtINT to one's own core is what the 8259 has.
        let own = is_own(target, if mode == 7 { FIXED } else { mode });
        count.note(own, read(low) & MASKED == 0);
    }
    write(low, MASKED);
    count.print("pins");
    Ok(())
}
