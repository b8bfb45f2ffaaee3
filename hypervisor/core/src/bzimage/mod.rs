//! The Linux/x86 boot protocol: reading a bzImage and filling its zero page.
//!
//! Source: Linux, Documentation/arch/x86/boot.rst (fields of the setup header,
//! 64-bit boot protocol) and Documentation/arch/x86/zero-page.rst. The kernel
//! is an operator's file: nothing in it is trusted.

mod boot_params;

use core::fmt;

pub use boot_params::{BOOT_PARAMS_SIZE, BootData, E820Entry, E820Kind, MAX_E820, boot_params};

use crate::bytes;

/// Offsets of setup header fields, in the file and in the zero page alike.
pub(crate) mod field {
    pub(crate) const SETUP_SECTS: usize = 0x1f1;
    pub(crate) const BOOT_FLAG: usize = 0x1fe;
    /// Operand of the jump at 0x200: the header ends at 0x202 plus this.
    pub(crate) const JUMP_OPERAND: usize = 0x201;
    pub(crate) const MAGIC: usize = 0x202;
    pub(crate) const VERSION: usize = 0x206;
    pub(crate) const TYPE_OF_LOADER: usize = 0x210;
    pub(crate) const LOADFLAGS: usize = 0x211;
    pub(crate) const CODE32_START: usize = 0x214;
    pub(crate) const RAMDISK_IMAGE: usize = 0x218;
    pub(crate) const RAMDISK_SIZE: usize = 0x21c;
    pub(crate) const CMD_LINE_PTR: usize = 0x228;
    pub(crate) const INITRD_ADDR_MAX: usize = 0x22c;
    pub(crate) const KERNEL_ALIGNMENT: usize = 0x230;
    pub(crate) const RELOCATABLE: usize = 0x234;
    pub(crate) const XLOADFLAGS: usize = 0x236;
    pub(crate) const CMDLINE_SIZE: usize = 0x238;
    pub(crate) const PAYLOAD_OFFSET: usize = 0x248;
    pub(crate) const PAYLOAD_LENGTH: usize = 0x24c;
    pub(crate) const SETUP_DATA: usize = 0x250;
    pub(crate) const PREF_ADDRESS: usize = 0x258;
    pub(crate) const INIT_SIZE: usize = 0x260;
}

/// Where the zero page's header area ends: `edd_mbr_sig_buffer` follows.
const HEADER_LIMIT: usize = 0x290;
/// The oldest protocol that has `xloadflags`.
const PROTOCOL_2_12: u16 = 0x20c;
const SECTOR: usize = 512;
/// `xloadflags`.
const XLF_KERNEL_64: u16 = 1 << 0;
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;

/// Offset of the 64-bit entry point in the protected-mode kernel.
pub const ENTRY_64: u64 = 0x200;

/// Why a file is no kernel that Cloister can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BzImageError {
    /// No boot flag 0xaa55 at 0x1fe, or no `HdrS` at 0x202.
    NotBzImage,
    /// The file ends before this many bytes.
    Truncated {
        /// Bytes that the header asks for.
        needed: u64,
        /// Bytes in the file.
        available: u64,
    },
    /// Boot protocol below 2.12; the version (major in the high byte).
    OldProtocol(u16),
    /// No 64-bit entry point (`XLF_KERNEL_64` is clear).
    No64BitEntry,
    /// `relocatable_kernel` is 0.
    NotRelocatable,
    /// `kernel_alignment` is not a power of two of at least 4 KiB; its value.
    Alignment(u32),
    /// The setup header claims to end at this offset, past the zero page's
    /// room for it, or before `init_size`.
    HeaderLength(usize),
    /// `init_size` is smaller than the protected-mode kernel.
    InitSize(u32),
    /// More memory ranges than the zero page holds.
    TooManyE820(usize),
    /// The load address is not a multiple of `kernel_alignment`, or above
    /// 4 GiB for a kernel that cannot be there.
    LoadAddress(u64),
    /// The initrd lies (partly) above what this kernel can reach.
    Initrd(u64),
    /// The command line lies above 4 GiB, which this kernel cannot reach.
    CommandLine(u64),
}

impl fmt::Display for BzImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBzImage => f.write_str("not a Linux/x86 bzImage (no 0xaa55 and HdrS)"),
            Self::Truncated { needed, available } => write!(
                f,
                "the kernel's header asks for {needed} bytes, the file has {available}"
            ),
            Self::OldProtocol(version) => write!(
                f,
                "boot protocol {}.{:02}; 2.12 or later (Linux 3.8) is needed",
                version >> 8,
                version & 0xff
            ),
            Self::No64BitEntry => f.write_str(
                "the kernel has no 64-bit entry point (XLF_KERNEL_64); an x86-64 kernel is needed",
            ),
            Self::NotRelocatable => {
                f.write_str("the kernel is not relocatable; CONFIG_RELOCATABLE=y is needed")
            }
            Self::Alignment(value) => write!(
                f,
                "kernel_alignment {value:#x} is no power of two of at least 0x1000"
            ),
            Self::HeaderLength(end) => write!(
                f,
                "the setup header ends at {end:#x}; between 0x264 and 0x290 is possible"
            ),
            Self::InitSize(size) => {
                write!(f, "init_size {size:#x} is smaller than the kernel itself")
            }
            Self::TooManyE820(count) => {
                write!(f, "{count} memory ranges; the zero page holds {MAX_E820}")
            }
            Self::LoadAddress(address) => write!(
                f,
                "the kernel cannot be loaded at {address:#x}: wrong alignment, or above 4 GiB"
            ),
            Self::Initrd(address) => {
                write!(f, "this kernel cannot reach an initrd at {address:#x}")
            }
            Self::CommandLine(address) => {
                write!(f, "this kernel cannot reach a command line at {address:#x}")
            }
        }
    }
}

impl core::error::Error for BzImageError {}

/// A bzImage that can be started by the 64-bit boot protocol.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    /// Setup header, from offset 0x1f1 of the file to its own end.
    header: &'a [u8],
    payload: &'a [u8],
    version: u16,
    alignment: u32,
    xloadflags: u16,
    cmdline_size: u32,
    initrd_addr_max: u32,
    pref_address: u64,
    init_size: u32,
}

impl<'a> Kernel<'a> {
    /// Reads the headers of the bzImage `file`.
    ///
    /// # Errors
    /// See [`BzImageError`]: the file is no bzImage, is cut short, or cannot
    /// be started in 64-bit mode at an address of our choice.
    pub fn parse(file: &'a [u8]) -> Result<Self, BzImageError> {
        let read = || {
            Some((
                bytes::u16_at(file, field::BOOT_FLAG)?,
                bytes::array::<4>(file, field::MAGIC)?,
                bytes::u16_at(file, field::VERSION)?,
                bytes::u8_at(file, field::JUMP_OPERAND)?,
            ))
        };
        let (boot_flag, magic, version, jump) = read().ok_or(BzImageError::NotBzImage)?;
        if boot_flag != 0xaa55 || magic != *b"HdrS" {
            return Err(BzImageError::NotBzImage);
        }
        if version < PROTOCOL_2_12 {
            return Err(BzImageError::OldProtocol(version));
        }
        let header_end = field::MAGIC + usize::from(jump);
        if !(field::INIT_SIZE + 4..=HEADER_LIMIT).contains(&header_end) {
            return Err(BzImageError::HeaderLength(header_end));
        }
        let truncated = |needed: usize| BzImageError::Truncated {
            needed: needed as u64,
            available: file.len() as u64,
        };
        let header = file
            .get(field::SETUP_SECTS..header_end)
            .ok_or(truncated(header_end))?;
        let sectors = match header.first() {
            Some(0) | None => 4,
            Some(count) => usize::from(*count),
        };
        let start = (sectors + 1) * SECTOR;
        let payload = file.get(start..).unwrap_or_default();
        let short = || -> Option<Self> {
            Some(Self {
                header,
                payload,
                version,
                alignment: bytes::u32_at(file, field::KERNEL_ALIGNMENT)?,
                xloadflags: bytes::u16_at(file, field::XLOADFLAGS)?,
                cmdline_size: bytes::u32_at(file, field::CMDLINE_SIZE)?,
                initrd_addr_max: bytes::u32_at(file, field::INITRD_ADDR_MAX)?,
                pref_address: bytes::u64_at(file, field::PREF_ADDRESS)?,
                init_size: bytes::u32_at(file, field::INIT_SIZE)?,
            })
        };
        let kernel = short().ok_or(truncated(header_end))?;
        if kernel.xloadflags & XLF_KERNEL_64 == 0 {
            return Err(BzImageError::No64BitEntry);
        }
        if bytes::u8_at(file, field::RELOCATABLE) == Some(0) {
            return Err(BzImageError::NotRelocatable);
        }
        if !kernel.alignment.is_power_of_two() || kernel.alignment < 0x1000 {
            return Err(BzImageError::Alignment(kernel.alignment));
        }
        kernel.check_whole(file, start)?;
        Ok(kernel)
    }

    /// The compressed kernel, and code up to the entry point, are in the file.
    fn check_whole(&self, file: &[u8], start: usize) -> Result<(), BzImageError> {
        let field = |at| u64::from(bytes::u32_at(file, at).unwrap_or(0));
        let end = (field(field::PAYLOAD_OFFSET) + field(field::PAYLOAD_LENGTH)).max(ENTRY_64 + 1);
        let needed = end + start as u64;
        if needed > file.len() as u64 {
            return Err(BzImageError::Truncated {
                needed,
                available: file.len() as u64,
            });
        }
        if u64::from(self.init_size) < self.payload.len() as u64 {
            return Err(BzImageError::InitSize(self.init_size));
        }
        Ok(())
    }

    /// The protected-mode kernel: what is loaded, in file order. Its entry
    /// point is [`ENTRY_64`] bytes in.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The setup header as it is in the file, from offset 0x1f1 on.
    #[must_use]
    pub fn header(&self) -> &'a [u8] {
        self.header
    }

    /// Boot protocol version, major in the high byte.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.version
    }

    /// Bytes that must be free from the load address on.
    #[must_use]
    pub fn init_size(&self) -> u64 {
        u64::from(self.init_size)
    }

    /// Where the kernel likes to be loaded, physical.
    #[must_use]
    pub fn preferred_address(&self) -> u64 {
        self.pref_address
    }

    /// The load address must be a multiple of this: a power of two, at least
    /// 4 KiB.
    #[must_use]
    pub fn alignment(&self) -> u64 {
        u64::from(self.alignment)
    }

    /// Longest command line, bytes without the terminating 0.
    #[must_use]
    pub fn command_line_size(&self) -> u32 {
        self.cmdline_size
    }

    /// `xloadflags`.
    #[must_use]
    pub fn xloadflags(&self) -> u16 {
        self.xloadflags
    }

    /// Kernel, initrd, command line and zero page may be above 4 GiB.
    #[must_use]
    pub fn loads_above_4g(&self) -> bool {
        self.xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G != 0
    }

    /// One past the highest address that the initrd's bytes may have.
    #[must_use]
    pub fn initrd_limit(&self) -> u64 {
        if self.loads_above_4g() {
            u64::MAX
        } else {
            u64::from(self.initrd_addr_max) + 1
        }
    }
}

#[cfg(test)]
mod tests;
