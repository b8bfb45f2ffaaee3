//! The zero page, `struct boot_params`.

use super::{BzImageError, Kernel, field};
use crate::bytes;

/// Bytes of the zero page.
pub const BOOT_PARAMS_SIZE: usize = 4096;
/// Memory ranges that the zero page holds (`E820_MAX_ENTRIES_ZEROPAGE`).
pub const MAX_E820: usize = 128;

/// Offsets outside the setup header (zero-page.rst).
mod offset {
    pub(super) const ORIG_VIDEO_MODE: usize = 0x06;
    pub(super) const ORIG_VIDEO_COLS: usize = 0x07;
    pub(super) const ORIG_VIDEO_LINES: usize = 0x0e;
    pub(super) const ORIG_VIDEO_IS_VGA: usize = 0x0f;
    pub(super) const ORIG_VIDEO_POINTS: usize = 0x10;
    pub(super) const ACPI_RSDP_ADDR: usize = 0x70;
    pub(super) const EXT_RAMDISK_IMAGE: usize = 0xc0;
    pub(super) const EXT_RAMDISK_SIZE: usize = 0xc4;
    pub(super) const EXT_CMD_LINE_PTR: usize = 0xc8;
    pub(super) const E820_ENTRIES: usize = 0x1e8;
    pub(super) const E820_TABLE: usize = 0x2d0;
}

const E820_ENTRY: usize = 20;
const _: () = assert!(offset::E820_TABLE + MAX_E820 * E820_ENTRY <= BOOT_PARAMS_SIZE);

/// `type_of_loader` of a loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
/// `loadflags`: the protected-mode kernel is above 1 MiB.
const LOADED_HIGH: u8 = 1 << 0;
/// `loadflags`: Linux prints nothing early.
const QUIET_FLAG: u8 = 1 << 5;
/// `loadflags`: `heap_end_ptr` is valid; only real-mode code uses it.
const CAN_USE_HEAP: u8 = 1 << 7;

/// Type of a memory range (ACPI 6.5 §15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum E820Kind {
    /// Usable RAM.
    Ram = 1,
    /// Not for the kernel.
    Reserved = 2,
    /// ACPI tables, reclaimable.
    Acpi = 3,
    /// ACPI non-volatile storage.
    Nvs = 4,
    /// Bad memory.
    Unusable = 5,
    /// Persistent memory.
    Persistent = 7,
}

/// A memory range of the map that Linux gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// Physical address.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// What it is.
    pub kind: E820Kind,
}

/// What the hypervisor decided for Linux. All addresses are guest-physical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootData {
    /// Where [`Kernel::payload`] is loaded.
    pub load_address: u64,
    /// Where the command line is, terminated by 0.
    pub command_line: u64,
    /// Address and length of the initial RAM disk.
    pub initrd: Option<(u64, u64)>,
    /// Address of the RSDP; 0 lets Linux search for it.
    pub rsdp: u64,
}

/// Fills the zero page `out` for `kernel`: its setup header, `data` and the
/// memory map `e820`. The screen is described as VGA text mode 80×25, which
/// Linux's console code probes for and does without where there is none.
///
/// # Errors
/// [`BzImageError::LoadAddress`], [`BzImageError::Initrd`],
/// [`BzImageError::CommandLine`] and [`BzImageError::TooManyE820`].
pub fn boot_params(
    out: &mut [u8; BOOT_PARAMS_SIZE],
    kernel: &Kernel<'_>,
    data: &BootData,
    e820: impl Iterator<Item = E820Entry>,
) -> Result<(), BzImageError> {
    check(kernel, data)?;
    out.fill(0);
    // Every offset below is in the page, so `put` cannot fail; the map's
    // entries are counted before they are written.
    bytes::put(out, field::SETUP_SECTS, kernel.header());
    let mut put = |offset, value: &[u8]| {
        bytes::put(out, offset, value);
    };

    put(field::TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
    let flags = kernel
        .header()
        .get(field::LOADFLAGS - field::SETUP_SECTS)
        .copied()
        .unwrap_or(0);
    let flags = (flags | LOADED_HIGH) & !(QUIET_FLAG | CAN_USE_HEAP);
    put(field::LOADFLAGS, &[flags]);
    put(field::CODE32_START, low(data.load_address).as_slice());
    put(field::SETUP_DATA, &0u64.to_le_bytes());

    put(field::CMD_LINE_PTR, low(data.command_line).as_slice());
    put(offset::EXT_CMD_LINE_PTR, high(data.command_line).as_slice());
    let (initrd, length) = data.initrd.unwrap_or((0, 0));
    put(field::RAMDISK_IMAGE, low(initrd).as_slice());
    put(offset::EXT_RAMDISK_IMAGE, high(initrd).as_slice());
    put(field::RAMDISK_SIZE, low(length).as_slice());
    put(offset::EXT_RAMDISK_SIZE, high(length).as_slice());
    put(offset::ACPI_RSDP_ADDR, &data.rsdp.to_le_bytes());

    put(offset::ORIG_VIDEO_MODE, &[3]);
    put(offset::ORIG_VIDEO_COLS, &[80]);
    put(offset::ORIG_VIDEO_LINES, &[25]);
    put(offset::ORIG_VIDEO_IS_VGA, &[1]);
    put(offset::ORIG_VIDEO_POINTS, &16u16.to_le_bytes());

    let mut count = 0usize;
    for entry in e820 {
        if count < MAX_E820 {
            let at = offset::E820_TABLE + count * E820_ENTRY;
            put(at, &entry.start.to_le_bytes());
            put(at + 8, &entry.length.to_le_bytes());
            put(at + 16, &(entry.kind as u32).to_le_bytes());
        }
        count = count.saturating_add(1);
    }
    match u8::try_from(count) {
        Ok(entries) if count <= MAX_E820 => put(offset::E820_ENTRIES, &[entries]),
        _ => return Err(BzImageError::TooManyE820(count)),
    }
    Ok(())
}

/// What this kernel can be told.
fn check(kernel: &Kernel<'_>, data: &BootData) -> Result<(), BzImageError> {
    const FOUR_GIB: u64 = 1 << 32;
    let limit = if kernel.loads_above_4g() {
        u64::MAX
    } else {
        FOUR_GIB
    };
    let load_end = data.load_address.checked_add(kernel.init_size());
    if !data.load_address.is_multiple_of(kernel.alignment())
        || load_end.is_none_or(|end| end > limit)
    {
        return Err(BzImageError::LoadAddress(data.load_address));
    }
    if data.command_line >= limit {
        return Err(BzImageError::CommandLine(data.command_line));
    }
    if let Some((address, length)) = data.initrd {
        let end = address.checked_add(length);
        if end.is_none_or(|end| end > kernel.initrd_limit()) {
            return Err(BzImageError::Initrd(address));
        }
    }
    Ok(())
}

/// Bits 31:0, little-endian.
fn low(value: u64) -> [u8; 4] {
    let [a, b, c, d, ..] = value.to_le_bytes();
    [a, b, c, d]
}

/// Bits 63:32, little-endian.
fn high(value: u64) -> [u8; 4] {
    low(value >> 32)
}
