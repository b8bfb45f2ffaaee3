//! What a Multiboot2 loader says about the machine (Multiboot2 Specification
//! version 2.0, section 3.6 "Boot information format"): the tags that Cloister
//! needs, copied out.

use core::fmt;

use heapless::{String, Vec};

use crate::bytes;
use crate::memory::Range;

/// Most entries of a firmware memory map.
pub const MAX_REGIONS: usize = 128;
/// Most modules.
pub const MAX_MODULES: usize = 40;
/// Longest module name, bytes.
pub const MAX_MODULE_NAME: usize = 63;
/// Longest command line of the hypervisor, bytes.
pub const MAX_COMMAND_LINE: usize = 256;

/// Bytes before the first tag, and before the content of each.
const HEADER: usize = 8;
const ALIGN: usize = 8;

mod tag {
    pub(super) const END: u32 = 0;
    pub(super) const COMMAND_LINE: u32 = 1;
    pub(super) const MODULE: u32 = 3;
    pub(super) const MEMORY_MAP: u32 = 6;
    pub(super) const RSDP_V1: u32 = 14;
    pub(super) const RSDP_V2: u32 = 15;
}

/// Why boot information cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MultibootError {
    /// A tag does not fit in, or none ends the others.
    Damaged,
    /// There is no memory map.
    NoMemoryMap,
    /// More than [`MAX_REGIONS`] entries.
    TooManyRegions,
    /// A module's command line is not UTF-8.
    ModuleText,
    /// The first word of a module's command line has over [`MAX_MODULE_NAME`]
    /// bytes.
    ModuleName,
    /// A module's end address is below its start address.
    ModuleRange,
    /// More than [`MAX_MODULES`].
    TooManyModules,
}

impl fmt::Display for MultibootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged => {
                f.write_str("the Multiboot2 information is damaged: no valid sequence of tags")
            }
            Self::NoMemoryMap => f.write_str("the boot loader gave no memory map"),
            Self::TooManyRegions => write!(f, "the memory map has over {MAX_REGIONS} entries"),
            Self::ModuleText => f.write_str("a module's command line is not UTF-8"),
            Self::ModuleName => write!(f, "a module's name is over {MAX_MODULE_NAME} bytes"),
            Self::ModuleRange => f.write_str("a module ends before it starts"),
            Self::TooManyModules => write!(f, "more than {MAX_MODULES} modules"),
        }
    }
}

impl core::error::Error for MultibootError {}

/// One entry of the firmware's memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Physical address.
    pub start: u64,
    /// Bytes; `start + len` may overflow in a firmware's nonsense.
    pub len: u64,
    /// As in E820: 1 is usable.
    pub kind: u32,
}

/// One file that the loader put into memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// First word of its command line.
    pub name: String<MAX_MODULE_NAME>,
    /// Where it is, physical.
    pub range: Range,
}

/// The parts of the boot information that Cloister uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Information {
    /// The hypervisor's own; empty if there is none, or none that is UTF-8 and
    /// fits.
    pub command_line: String<MAX_COMMAND_LINE>,
    /// The memory map, in its order.
    pub regions: Vec<Region, MAX_REGIONS>,
    /// The modules, in the order of GRUB's configuration.
    pub modules: Vec<Module, MAX_MODULES>,
    /// ACPI revision and physical address of the RSDT (0) or XSDT (2).
    pub acpi_root: Option<(u8, u64)>,
    /// OEM ID of the RSDP.
    pub oem_id: [u8; 6],
}

/// Reads the boot information at the start of `source`: what its header says
/// of its length counts, and what is behind is left alone.
///
/// # Errors
/// [`MultibootError`], whatever the bytes are.
pub fn parse(source: &[u8]) -> Result<Information, MultibootError> {
    let mut information = Information {
        oem_id: [b' '; 6],
        ..Information::default()
    };
    let mut map = false;
    for found in Tags::new(source)? {
        let (kind, content) = found?;
        match kind {
            tag::COMMAND_LINE => {
                if let Some(line) = text(content) {
                    // One that does not fit is none.
                    let _ = information.command_line.push_str(line);
                }
            }
            tag::MODULE => {
                let module = module(content)?;
                information
                    .modules
                    .push(module)
                    .map_err(|_| MultibootError::TooManyModules)?;
            }
            tag::MEMORY_MAP if !map => {
                map = true;
                regions(content, &mut information.regions)?;
            }
            // ACPI 6.5, table 5.3: OEM ID at 9, RSDT at 16, XSDT at 24.
            tag::RSDP_V1 if information.acpi_root.is_none() => {
                let rsdt = bytes::u32_at(content, 16).ok_or(MultibootError::Damaged)?;
                information.acpi_root = Some((0, rsdt.into()));
                information.oem_id = bytes::array(content, 9).ok_or(MultibootError::Damaged)?;
            }
            tag::RSDP_V2 => {
                let xsdt = bytes::u64_at(content, 24).ok_or(MultibootError::Damaged)?;
                information.acpi_root = Some((2, xsdt));
                information.oem_id = bytes::array(content, 9).ok_or(MultibootError::Damaged)?;
            }
            _ => {}
        }
    }
    if map {
        Ok(information)
    } else {
        Err(MultibootError::NoMemoryMap)
    }
}

/// The tags and their content, without the type and size before it; an error,
/// and then nothing, where one does not fit.
struct Tags<'a> {
    left: Option<&'a [u8]>,
}

impl<'a> Tags<'a> {
    fn new(source: &'a [u8]) -> Result<Self, MultibootError> {
        let total = bytes::u32_at(source, 0).and_then(|total| usize::try_from(total).ok());
        total
            .and_then(|total| source.get(HEADER..total))
            .map(|tags| Self { left: Some(tags) })
            .ok_or(MultibootError::Damaged)
    }
}

impl<'a> Iterator for Tags<'a> {
    type Item = Result<(u32, &'a [u8]), MultibootError>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = self.left.take()?;
        let read = || {
            let kind = bytes::u32_at(left, 0)?;
            let size = usize::try_from(bytes::u32_at(left, 4)?).ok()?;
            Some((kind, size, left.get(HEADER..size)?))
        };
        let Some((kind, size, content)) = read() else {
            return Some(Err(MultibootError::Damaged));
        };
        if kind == tag::END {
            return None;
        }
        // The size has been seen to be within a slice.
        self.left = Some(left.get(size.next_multiple_of(ALIGN)..).unwrap_or_default());
        Some(Ok((kind, content)))
    }
}

/// UTF-8 up to a 0, which must be there.
fn text(content: &[u8]) -> Option<&str> {
    let end = content.iter().position(|byte| *byte == 0)?;
    core::str::from_utf8(content.get(..end)?).ok()
}

fn module(content: &[u8]) -> Result<Module, MultibootError> {
    let address = |at| bytes::u32_at(content, at).map(u64::from);
    let (Some(start), Some(end)) = (address(0), address(4)) else {
        return Err(MultibootError::Damaged);
    };
    let words = content
        .get(8..)
        .and_then(text)
        .ok_or(MultibootError::ModuleText)?;
    let word = words.split_whitespace().next().unwrap_or("");
    let name = String::try_from(word).map_err(|_| MultibootError::ModuleName)?;
    if end < start {
        return Err(MultibootError::ModuleRange);
    }
    Ok(Module {
        name,
        range: Range { start, end },
    })
}

fn regions(content: &[u8], regions: &mut Vec<Region, MAX_REGIONS>) -> Result<(), MultibootError> {
    const ENTRY: usize = 24;
    let size = bytes::u32_at(content, 0)
        .and_then(|size| usize::try_from(size).ok())
        .filter(|size| *size >= ENTRY)
        .ok_or(MultibootError::Damaged)?;
    for entry in content.get(8..).unwrap_or_default().chunks_exact(size) {
        let read = || {
            Some(Region {
                start: bytes::u64_at(entry, 0)?,
                len: bytes::u64_at(entry, 8)?,
                kind: bytes::u32_at(entry, 16)?,
            })
        };
        let region = read().ok_or(MultibootError::Damaged)?;
        regions
            .push(region)
            .map_err(|_| MultibootError::TooManyRegions)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
