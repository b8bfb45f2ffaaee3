//! Tries what test cases need of the partition's PCI functions. Words of the
//! argument string, done in order:
//!
//! | word | what it does |
//! |---|---|
//! | `count=N` | the partition has N functions |
//! | `list` | a line for each: address, IDs, class, BARs |
//! | `alone` | of all functions of bus 0 exactly its own are there, with the IDs of the table |
//! | `fresh` | memory and ports on; bus mastering, INTx, MSI and MSI-X off |
//! | `sizes` | BARs tell their sizes when asked with ones, and their addresses afterwards |
//! | `master` | bus mastering can be switched on, and is left on |
//! | `forbidden` | writes what may not be written, which changes nothing; `forbidden=N` in the output says how often |
//! | `others` | writes to a function that is not there: so does `others=N` |
//! | `read=BAR:OFFSET:VALUE` | 32 bits of the first function's BAR |
//! | `write=BAR:OFFSET:VALUE` | writes them |
//! | `until=N` | the end, once the partition was restarted N times |
//! | `strict` | set_dataplane(STRICT), which must succeed |
//! | `cpuid` | one exit |
//!
//! At the end a line `device: ok`, or a line `device: MISMATCH …` for each
//! difference.
#![no_std]
#![no_main]

mod forbidden;
mod raw;

use core::fmt;

use cloister_runtime::device::Device;
use cloister_runtime::{Dataplane, Partition, args, entry, finish, println, set_dataplane};

entry!(main);

/// Command register, and bits in it.
const COMMAND: u8 = 0x04;
const DECODE: u32 = 3;
const MASTER: u32 = 1 << 2;
const INTX_OFF: u32 = 1 << 10;
const FIRST_BAR: u8 = 0x10;
/// Capability IDs.
const MSI: u8 = 0x05;
const MSI_X: u8 = 0x11;

fn main(partition: &Partition) -> u64 {
    let mut test = Test {
        partition,
        failures: 0,
    };
    for (key, value) in args::pairs(partition.args()) {
        if !test.step(key, value) {
            println!("device: cannot do {key}={value}");
            return 2;
        }
    }
    if test.failures > 0 {
        return 1;
    }
    println!("device: ok");
    0
}

struct Test<'a> {
    partition: &'a Partition,
    failures: u64,
}

/// Bus, device and function in one number.
fn function(device: &Device) -> u16 {
    (device.info().address & 0xffff) as u16
}

impl Test<'_> {
    /// `false` for a word that does not exist or is impossible here.
    fn step(&mut self, key: &str, value: &str) -> bool {
        let number = args::number(value).ok();
        match (key, number) {
            ("count", Some(count)) => {
                let got = self.partition.devices().count() as u64;
                self.compare("functions", got, count);
            }
            ("list", _) => self.partition.devices().for_each(|device| list(&device)),
            ("alone", _) => self.alone(),
            ("fresh", _) => self.each(Self::fresh),
            ("sizes", _) => self.each(Self::sizes),
            ("master", _) => self.each(|test, device| {
                let command = raw::read(function(device), COMMAND, 2);
                raw::write(function(device), COMMAND, 2, command | MASTER);
                let got = raw::read(function(device), COMMAND, 2) & MASTER;
                test.compare("bus master", got, MASTER);
            }),
            ("forbidden", _) => {
                let mut tries = 0;
                self.each(|test, device| tries += forbidden::own(test, device));
                println!("forbidden={tries}");
            }
            ("others", _) => {
                let tries = forbidden::others(self);
                println!("others={tries}");
            }
            ("read" | "write", _) => return self.register(key == "write", value),
            ("until", Some(wanted)) => {
                if u64::from(self.partition.restarts()) >= wanted {
                    finish(self.failures);
                }
            }
            ("strict", _) => return set_dataplane(Dataplane::STRICT).is_ok(),
            ("cpuid", _) => {
                let _ = cloister_runtime::cpu::cpuid(0, 0);
            }
            _ => return false,
        }
        true
    }

    fn each(&mut self, mut work: impl FnMut(&mut Self, &Device)) {
        for device in self.partition.devices() {
            work(self, &device);
        }
    }

    fn compare<T: PartialEq + fmt::LowerHex>(&mut self, what: &str, got: T, wanted: T) {
        if got != wanted {
            println!("device: MISMATCH {what}: {got:#x}, expected {wanted:#x}");
            self.failures += 1;
        }
    }

    fn alone(&mut self) {
        let mut found = 0;
        raw::read(0, 0, 4);
        self.compare("configuration address", raw::selected(), 1 << 31);
        for at in 0..0x100 {
            let ids = raw::read(at, 0, 4);
            let own = self.partition.devices().find(|own| function(own) == at);
            let wanted = own.map_or(u32::MAX, |own| {
                u32::from(own.info().vendor) | u32::from(own.info().device) << 16
            });
            self.compare("vendor and device", ids, wanted);
            found += u64::from(ids != u32::MAX);
        }
        println!("found={found}");
    }

    fn fresh(&mut self, device: &Device) {
        let at = function(device);
        let command = raw::read(at, COMMAND, 2) & (DECODE | MASTER | INTX_OFF);
        let ports = device
            .info()
            .bars
            .iter()
            .any(|bar| bar.size != 0 && bar.kind == 1);
        let memory = device
            .info()
            .bars
            .iter()
            .any(|bar| bar.size != 0 && bar.kind == 0);
        let wanted = u32::from(ports) | u32::from(memory) << 1;
        self.compare("command", command & (wanted | MASTER), wanted);
        for (offset, id) in device.capabilities() {
            let control = raw::read(at, offset + 2, 2);
            match id {
                MSI => self.compare("MSI enable", control & 1, 0),
                MSI_X => self.compare("MSI-X enable", control >> 15, 0),
                _ => {}
            }
        }
    }

    fn sizes(&mut self, device: &Device) {
        let at = function(device);
        let bars = (FIRST_BAR..).step_by(4).zip(&device.info().bars);
        for (offset, bar) in bars.filter(|(_, bar)| bar.size != 0) {
            let before = raw::read(at, offset, 4);
            raw::write(at, offset, 4, u32::MAX);
            let mask = raw::read(at, offset, 4);
            let address = if bar.kind == 0 { !0xf } else { !0x3 };
            let size = u64::from((!(mask & address)).wrapping_add(1));
            self.compare("size of a BAR", size, bar.size & 0xffff_ffff);
            raw::write(at, offset, 4, before);
            self.compare("BAR", raw::read(at, offset, 4), before);
            self.compare(
                "address",
                u64::from(before & address),
                bar.base & 0xffff_ffff,
            );
        }
    }

    fn register(&mut self, write: bool, text: &str) -> bool {
        let mut numbers = text
            .split(':')
            .map(|word| u32::try_from(args::number(word).ok()?).ok());
        let (Some(Some(bar)), Some(Some(offset)), Some(Some(value))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        let Some(device) = self.partition.devices().next() else {
            return false;
        };
        // SAFETY: the device is told no address.
        let Ok(registers) = (unsafe { device.map(bar as usize) }) else {
            return false;
        };
        let offset = offset as usize;
        if write {
            registers.write::<u32>(offset, value);
        } else {
            self.compare("register", registers.read::<u32>(offset), value);
        }
        true
    }
}

fn list(device: &Device) {
    let info = device.info();
    println!(
        "function {:#06x} {:04x}:{:04x} class {:06x} unprotected={} offset={:#x}",
        info.address, info.vendor, info.device, info.class, info.unprotected, info.dma_offset
    );
    for (index, bar) in info
        .bars
        .iter()
        .enumerate()
        .filter(|(_, bar)| bar.size != 0)
    {
        println!(
            "bar {index} kind {} base {:#x} size {:#x}",
            bar.kind, bar.base, bar.size
        );
    }
}
