//! Instructions that leave to the hypervisor, with everything that their
//! operands can be.

use core::sync::atomic::Ordering;

use cloister_runtime::abi::Hypercall;
use cloister_runtime::abi::shared::{CONSOLE_BYTES, ConsoleRing};
use cloister_runtime::hypercall::hypercall;
use cloister_runtime::{Partition, println};

use crate::raw::{self, INSTRUCTIONS};
use crate::{Counts, Outcome, random};

const UD: u8 = 6;
const GP: u8 = 13;

/// First MSR and number of those behind it: what the permission maps of either
/// vendor cover, the ranges of hypervisors, and odd ones.
const MSRS: [(u32, u32); 9] = [
    (0, 0x2000),
    (0xc000_0000, 0x2000),
    (0xc001_0000, 0x2000),
    (0x4000_0000, 0x200),
    (0x4b56_4d00, 0x10),
    (0x2000, 0x10),
    (0xbfff_fff0, 0x10),
    (0x8000_0000, 0x10),
    (0xffff_fff0, 0x10),
];

/// What is written to every MSR, besides what it holds with one bit changed.
const VALUES: [u64; 3] = [0, u64::MAX, 0x1234_8000_0000_5678];

/// Each read and write ends in a value or #GP.
pub(crate) fn msrs() -> Outcome {
    let mut counts = Counts::default();
    for index in MSRS
        .into_iter()
        .flat_map(|(first, count)| (0..count).map(move |n| first.wrapping_add(n)))
    {
        let held = expect(raw::rdmsr(index), index)?;
        counts.add(held.ok_or(GP));
        for value in VALUES.into_iter().chain(held.map(|value| value ^ 1)) {
            counts.add(expect(raw::wrmsr(index, value), index)?.ok_or(GP));
        }
        if let Some(value) = held {
            let _ = raw::wrmsr(index, value);
        }
    }
    Ok(counts)
}

/// `None` for #GP.
fn expect<T>(result: Result<T, u8>, index: u32) -> Result<Option<T>, &'static str> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(GP) => Ok(None),
        Err(vector) => {
            println!("msr {index:#x}: exception {vector}");
            Err("an MSR raised something else than #GP")
        }
    }
}

/// Denied ports read ones and drop writes; string accesses raise #GP.
pub(crate) fn ports(partition: &Partition) -> Outcome {
    let step = partition.number("step", 1).unwrap_or(1).max(1);
    let mut counts = Counts::default();
    let mut buffer = [0x5a; 32];
    for port in 0..=u16::MAX {
        if raw::in8(port) != Ok(u8::MAX) {
            println!("port {port:#x}");
            return Err("a port did not read as ones");
        }
        counts.add(raw::out8(port));
        if !u64::from(port).is_multiple_of(step) {
            continue;
        }
        if raw::in16(port) != Ok(u16::MAX) || raw::in32(port) != Ok(u32::MAX) {
            println!("port {port:#x}");
            return Err("a wide port did not read as ones");
        }
        counts.add(raw::out16(port));
        counts.add(raw::out32(port));
        if port % 0x101 == 0 {
            counts.add(raw::ins8(port, &mut buffer));
            counts.add(raw::ins16(port, &mut buffer));
            counts.add(raw::ins32(port, &mut buffer));
            counts.add(raw::outs8(port, &buffer));
            counts.add(raw::outs16(port, &buffer));
            counts.add(raw::outs32(port, &buffer));
        }
    }
    if buffer == [0x5a; 32] {
        Ok(counts)
    } else {
        Err("INS changed memory")
    }
}

/// None of them does anything but raise an exception, or nothing at all.
pub(crate) fn all() -> Outcome {
    let mut counts = Counts::default();
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for &(name, execute) in INSTRUCTIONS {
        for value in [0, 0x1000, u64::MAX, random(&mut state)] {
            let result = execute(value);
            counts.add(result);
            if value == 0 {
                match result {
                    Ok(()) => println!("{name}: done"),
                    Err(UD | GP) => {}
                    Err(vector) => println!("{name}: exception {vector}"),
                }
            }
        }
    }
    let foreign = [true, false]
        .into_iter()
        .filter(|&vmmcall| raw::hypercall_of(vmmcall, 0) == Err(UD))
        .count();
    if foreign == 1 {
        Ok(counts)
    } else {
        Err("the other vendor's hypercall did not raise #UD")
    }
}

/// Bits of CR0 that mean something, and those above 31, without which there is
/// still a program to come back to: not PE, NW, PG.
const CR0: u64 = 0xffff_ffff_4005_003e;
/// Bits of CR4 likewise: not PAE and LA57, which are the page tables' as well.
/// Others QEMU takes, and refuses at the next entry: `bad-control`.
const CR4: u64 = 0x37_0fdf;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const EFER: u32 = 0xc000_0080;

/// Changes each bit of each control register; what goes through lives through
/// an exit, and is undone.
pub(crate) fn control() -> Outcome {
    const WHAT: &str = "a control register cannot be read";
    let mut counts = Counts::default();
    let cr0 = raw::read_cr0().map_err(|_| WHAT)?;
    let (cr3, cr4) = (
        raw::read_cr3().map_err(|_| WHAT)?,
        raw::read_cr4().map_err(|_| WHAT)?,
    );
    let efer = raw::rdmsr(EFER).map_err(|_| WHAT)?;
    for bit in (0..64).map(|n| 1u64 << n) {
        let mut with_exit = |result: Result<(), u8>| {
            counts.add(result);
            raw::cpuid(1);
        };
        if bit & CR0 != 0 {
            // SAFETY: the program's code and data stay where they are; it is
            // undone below.
            with_exit(unsafe { raw::write_cr0(cr0 ^ bit) });
        }
        if bit & CR4 != 0 {
            // SAFETY: as above.
            with_exit(unsafe { raw::write_cr4(cr4 ^ bit) });
        }
        if bit < 0x1000 {
            // SAFETY: as above.
            with_exit(unsafe { raw::write_cr3(cr3 ^ bit) });
        }
        with_exit(raw::write_cr8(bit));
        with_exit(raw::wrmsr(EFER, efer ^ bit));
        // SAFETY: what the program started with.
        unsafe {
            let _ = raw::write_cr0(cr0);
            let _ = raw::write_cr4(cr4);
            let _ = raw::write_cr3(cr3);
        }
        let _ = raw::write_cr8(0);
        let _ = raw::wrmsr(EFER, efer);
    }
    // SAFETY: as above.
    counts.add(unsafe { raw::write_cr0(cr0 | CR0_NW | CR0_CD) });
    raw::cpuid(1);
    // SAFETY: as above.
    let _ = unsafe { raw::write_cr0(cr0) };
    extended(cr4, &mut counts);
    debug_registers(&mut counts)?;
    Ok(counts)
}

/// XCR0.
fn extended(cr4: u64, counts: &mut Counts) {
    const OSXSAVE: u64 = 1 << 18;
    // SAFETY: allows XSETBV.
    if unsafe { raw::write_cr4(cr4 | OSXSAVE) }.is_err() {
        return;
    }
    for bit in (0..64).map(|n| 1u64 << n) {
        for value in [bit, bit | 1, bit | 3, bit | 7, !bit] {
            counts.add(raw::xsetbv(0, value));
        }
        counts.add(raw::xsetbv(bit.trailing_zeros() + 1, 1));
        raw::cpuid(0xd);
    }
    let _ = raw::xsetbv(0, 1);
}

/// None may be read or written.
fn debug_registers(counts: &mut Counts) -> Result<(), &'static str> {
    // SAFETY: breakpoints, if they could be set, would be traps into the
    // program's own handler.
    let results = unsafe {
        [
            raw::read_dr0().map(|_| ()),
            raw::read_dr4().map(|_| ()),
            raw::read_dr6().map(|_| ()),
            raw::read_dr7().map(|_| ()),
            raw::write_dr0(0x10_0000),
            raw::write_dr1(u64::MAX),
            raw::write_dr4(0),
            raw::write_dr6(u64::MAX),
            raw::write_dr7(0xffff_0fff),
        ]
    };
    for result in results {
        counts.add(result);
    }
    let _ = raw::read_dr1();
    if results.iter().any(Result::is_ok) {
        return Err("a debug register was reached");
    }
    Ok(())
}

/// A control register with a value that the processor refuses, at the MOV or
/// at the next entry, or that leaves the program without its page tables.
pub(crate) fn bad_control(partition: &Partition) -> Outcome {
    const WHAT: &str = "a control register cannot be read";
    let mut counts = Counts::default();
    let cr0 = raw::read_cr0().map_err(|_| WHAT)?;
    let cr4 = raw::read_cr4().map_err(|_| WHAT)?;
    // SAFETY: the program goes on, or it ends.
    counts.add(unsafe {
        match partition.arg("kind") {
            Some("not-write-through") => raw::write_cr0((cr0 | CR0_NW) & !CR0_CD),
            Some("protection") => raw::write_cr0(cr0 & !1),
            Some("pae") => raw::write_cr4(cr4 & !(1 << 5)),
            Some("la57") => raw::write_cr4(cr4 ^ 1 << 12),
            Some("vmxe") => raw::write_cr4(cr4 | 1 << 13),
            Some("reserved") => raw::write_cr4(cr4 | 1 << 31),
            Some("cr3") => raw::write_cr3(0x000f_ffff_ffff_f000),
            _ => return Err("no such kind"),
        }
    });
    raw::cpuid(1);
    Ok(counts)
}

/// Unknown numbers return an error; known ones with nonsense do no harm.
pub(crate) fn hypercalls() -> Outcome {
    let mut counts = Counts::default();
    let mut state = 0x2545_f491_4f6c_dd1d;
    let beyond = [u64::MAX, 1 << 63, 1 << 32, 1 << 32 | 3, 0xffff_ffff];
    for number in (0..=4096).chain(beyond) {
        if number == Hypercall::Finish as u64 {
            continue;
        }
        for round in 0..4 {
            // An invalid bit: not the flags of set_dataplane by accident.
            let invalid = random(&mut state) | 1 << 40;
            let (b, c) = match round {
                0 => (0, 0),
                1 => (u64::MAX, u64::MAX),
                2 => (0xffd, 0x1000),
                _ => (random(&mut state), random(&mut state)),
            };
            let result = hypercall(number, invalid, b, c);
            counts.add(u64::try_from(result).map_err(|_| GP));
            if number > 4095 && result >= 0 {
                return Err("an unknown hypercall returned no error");
            }
        }
    }
    Ok(counts)
}

/// The ring's position jumps about, and each time the ring is to be printed.
pub(crate) fn console(partition: &Partition) -> Outcome {
    let mut counts = Counts::default();
    let address = usize::try_from(partition.info().console_gpa).unwrap_or(0);
    let ring = core::ptr::with_exposed_provenance::<ConsoleRing>(address);
    // SAFETY: the hypervisor maps the ring there; every field is atomic.
    let ring = unsafe { &*ring };
    for (index, byte) in ring.bytes.iter().enumerate() {
        byte.store(index.to_le_bytes()[0], Ordering::Relaxed);
    }
    let bytes = CONSOLE_BYTES as u64;
    for written in [
        u64::MAX,
        u64::MAX - 100,
        3,
        1 << 63,
        (1 << 63) - 1,
        u64::MAX - bytes,
        bytes * 2 + 1,
        0,
    ] {
        ring.written.store(written, Ordering::Release);
        counts
            .add(u64::try_from(hypercall(Hypercall::ConsoleFlush as u64, 0, 0, 0)).map_err(|_| GP));
    }
    Ok(counts)
}
