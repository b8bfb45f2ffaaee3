//! Ports: root may ask Linux for all of them, and then no system call is in
//! the way.

use std::arch::asm;

use anyhow::{Result, bail};

/// Asks Linux for all ports (iopl(2)).
pub(crate) fn all() -> Result<()> {
    // SAFETY: changes what this process may do, nothing else.
    if unsafe { libc::iopl(3) } == 0 {
        Ok(())
    } else {
        bail!("iopl: {}", std::io::Error::last_os_error());
    }
}

macro_rules! ports {
    ($($type:ty: $in:ident $out:ident $register:tt;)*) => {$(
        fn $in(port: u16) -> $type {
            let value: $type;
            // SAFETY: `all` came first, and devices are what is tested here.
            unsafe { asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value) };
            value
        }

        fn $out(port: u16, value: $type) {
            // SAFETY: as above.
            unsafe { asm!(concat!("out dx, ", $register), in("dx") port, in($register) value) };
        }
    )*};
}

ports! {
    u8: in8 out8 "al";
    u16: in16 out16 "ax";
    u32: in32 out32 "eax";
}

/// Ports whose reading takes something from Linux's own drivers: keyboard and
/// console.
const SPARED: [u16; 10] = [
    0x60, 0x64, 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff,
];

pub(crate) fn sweep() -> Result<()> {
    all()?;
    let mut ones = 0u64;
    for port in (0..=u16::MAX).filter(|port| !SPARED.contains(port)) {
        ones += u64::from(in8(port) == u8::MAX);
        if port % 4 == 0 && !SPARED.contains(&(port + 3)) {
            in16(port);
            in32(port);
        }
    }
    // Masks of the 8259s and what they held; the 8254's channels 1 and 2; the
    // DMA page and mask registers; the RTC's index; port 80 and the speaker.
    let masks = (in8(0x21), in8(0xa1));
    for value in [0u8, 0x55, 0xff] {
        for port in [0x21, 0xa1, 0x41, 0x42, 0x0f, 0xde, 0x81, 0x87, 0x80, 0x61] {
            out8(port, value & !3);
        }
        out16(0x80, u16::from(value));
        // SMI command port with no command, and the reset register without
        // its reset bit.
        out8(0xb3, value);
        out8(0xcf9, value & !6);
    }
    out8(0x21, masks.0);
    out8(0xa1, masks.1);
    println!("ports: ones={ones}");
    Ok(())
}

fn config(bus: u32, device: u32, function: u32, register: u32) -> u32 {
    out32(
        0xcf8,
        1 << 31 | bus << 16 | device << 11 | function << 8 | register,
    );
    in32(0xcfc)
}

/// Reads the 32 bits at `register` of `function` (bus << 8 | device << 3 |
/// function). [`all`] came first.
pub(crate) fn read_config(function: u32, register: u32) -> u32 {
    config(function >> 8, function >> 3 & 31, function & 7, register)
}

/// Writes them.
pub(crate) fn write_config(function: u32, register: u32, value: u32) {
    out32(0xcf8, 1 << 31 | function << 8 | register);
    out32(0xcfc, value);
}

/// Reads and writes a function that is somebody else's, in all widths.
pub(crate) fn function(function: u32) -> Result<()> {
    all()?;
    let (mut ones, mut other) = (0u64, 0u64);
    let mut note = |is_ones: bool| match is_ones {
        true => ones += 1,
        false => other += 1,
    };
    for register in 0..256u32 {
        out32(0xcf8, 1 << 31 | function << 8 | register & !3);
        let port = 0xcfc + u16::try_from(register & 3)?;
        out8(port, 0);
        note(in8(port) == u8::MAX);
        if register % 2 == 0 {
            out16(port, 0);
            note(in16(port) == u16::MAX);
        }
        if register % 4 == 0 {
            out32(port, 0);
            note(in32(port) == u32::MAX);
        }
    }
    println!("function: ones={ones} other={other}");
    Ok(())
}

pub(crate) fn pci() -> Result<()> {
    const BARS: u32 = 0x10;
    const BARS_END: u32 = 0x28;
    all()?;
    let (mut functions, mut written) = (0, 0);
    for bus in 0..256 {
        for slot in 0..256 {
            let (device, function) = (slot >> 3, slot & 7);
            if config(bus, device, function, 0) == u32::MAX {
                continue;
            }
            functions += 1;
            for register in (0..256).step_by(4) {
                let value = config(bus, device, function, register);
                if (BARS..BARS_END).contains(&register) {
                    out32(0xcfc, u32::MAX);
                }
                out32(0xcfc, value);
                written += 1;
            }
        }
    }
    println!("pci: functions={functions} written={written}");
    Ok(())
}

pub(crate) fn sleep(port: u64) -> Result<()> {
    const SLP_EN: u16 = 1 << 13;
    all()?;
    let port = u16::try_from(port)?;
    let held = in16(port);
    for kind in 1..8 {
        out16(port, held & !0x3c00 | kind << 10 | SLP_EN);
        out8(port + 1, u8::try_from(kind << 2 | 0x20)?);
        out32(port, u32::from(held & !0x3c00 | kind << 10 | SLP_EN));
    }
    out16(port, held & !SLP_EN);
    println!("sleep: tried=7");
    Ok(())
}

pub(crate) fn reset() -> Result<()> {
    all()?;
    println!("reset: now=1");
    out8(0xcf9, 2);
    out8(0xcf9, 6);
    bail!("the machine was not reset");
}
