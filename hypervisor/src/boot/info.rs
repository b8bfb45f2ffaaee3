//! What GRUB says about the machine (Multiboot2 specification, section 3.6
//! "Boot information format").

use cloister_core::memory::Range;
use heapless::{String, Vec};
use multiboot2::{BootInformation, BootInformationHeader};

/// Most entries of a firmware memory map.
const MAX_REGIONS: usize = 128;
/// Most GRUB modules.
pub(crate) const MAX_MODULES: usize = 40;
/// Longest module name, bytes.
const MAX_MODULE_NAME: usize = 63;

/// One entry of the firmware's memory map; `kind` as in E820 (1 is usable).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) kind: u32,
}

/// One file that GRUB loaded.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    /// First word of its command line.
    pub(crate) name: String<MAX_MODULE_NAME>,
    pub(crate) range: Range,
    /// Modules come from GRUB alone.
    _from_grub: (),
}

impl Module {
    /// Its contents. The memory plan leaves modules where they are: programs
    /// for good, all others until Linux runs, and then nobody has a
    /// [`BootInfo`] any more.
    pub(crate) fn bytes(&self) -> &'static [u8] {
        let length = usize::try_from(self.range.len()).unwrap_or(0);
        // SAFETY: GRUB put the file there; only `BootInfo::read` makes a
        // `Module`, and nobody is given its memory, as said above.
        unsafe { core::slice::from_raw_parts(self.range.start as *const u8, length) }
    }
}

/// The parts of the boot information that Cloister uses, copied out of memory
/// that is about to change hands.
#[derive(Debug)]
pub(crate) struct BootInfo {
    pub(crate) command_line: String<256>,
    pub(crate) regions: Vec<Region, MAX_REGIONS>,
    pub(crate) modules: Vec<Module, MAX_MODULES>,
    /// ACPI revision and physical address of the RSDT (0) or XSDT (2).
    pub(crate) acpi_root: Option<(u8, u64)>,
    /// OEM ID of the RSDP.
    pub(crate) oem_id: [u8; 6],
}

/// What is wrong with the boot information.
pub(crate) type Complaint = &'static str;

impl BootInfo {
    /// Reads the information at `address`.
    ///
    /// # Errors
    /// Says which part is missing or too large.
    ///
    /// # Safety
    /// A Multiboot2 loader passed `address`, and nothing has been overwritten.
    pub(crate) unsafe fn read(address: u64) -> Result<Self, Complaint> {
        let header = address as *const BootInformationHeader;
        // SAFETY: the caller's promise.
        let source = unsafe { BootInformation::load(header) }
            .map_err(|_| "the Multiboot2 information is damaged: no valid sequence of tags")?;
        let mut info = Self {
            command_line: String::new(),
            regions: Vec::new(),
            modules: Vec::new(),
            acpi_root: None,
            oem_id: [b' '; 6],
        };
        if let Some(Ok(line)) = source.command_line_tag().map(|tag| tag.cmdline()) {
            let _ = info.command_line.push_str(line);
        }
        let map = source
            .memory_map_tag()
            .ok_or("the boot loader gave no memory map")?;
        for area in map.memory_areas() {
            let kind = area.typ().val();
            let region = Region {
                start: area.start_address(),
                len: area.size(),
                kind,
            };
            info.regions
                .push(region)
                .map_err(|_| "the memory map has over 128 entries")?;
        }
        for tag in source.module_tags() {
            let words = tag
                .cmdline()
                .map_err(|_| "a module's command line is not UTF-8")?;
            let word = words.split_whitespace().next().unwrap_or("");
            let name = String::try_from(word).map_err(|_| "a module's name is over 63 bytes")?;
            let (start, end) = (u64::from(tag.start_address()), u64::from(tag.end_address()));
            if end < start {
                return Err("a module ends before it starts");
            }
            let module = Module {
                name,
                range: Range { start, end },
                _from_grub: (),
            };
            info.modules
                .push(module)
                .map_err(|_| "more than 40 modules")?;
        }
        if let Some(tag) = source.rsdp_v2_tag() {
            info.acpi_root = Some((2, tag.xsdt_address() as u64));
            info.oem_id = oem(tag.oem_id().unwrap_or(""));
        } else if let Some(tag) = source.rsdp_v1_tag() {
            info.acpi_root = Some((0, tag.rsdt_address() as u64));
            info.oem_id = oem(tag.oem_id().unwrap_or(""));
        }
        Ok(info)
    }

    /// The module called `name`.
    pub(crate) fn module(&self, name: &str) -> Option<&Module> {
        self.modules.iter().find(|module| module.name == name)
    }
}

fn oem(name: &str) -> [u8; 6] {
    let mut id = [b' '; 6];
    for (to, from) in id.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    id
}
