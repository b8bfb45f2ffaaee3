//! What GRUB says about the machine (Multiboot2 specification, section 3.6
//! "Boot information format").

use cloister_core::memory::Range;
use cloister_core::multiboot::{
    self, MAX_COMMAND_LINE, MAX_MODULE_NAME, MAX_REGIONS, MultibootError, Region,
};
use heapless::{String, Vec};

pub(crate) use cloister_core::multiboot::MAX_MODULES;

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
    pub(crate) command_line: String<MAX_COMMAND_LINE>,
    pub(crate) regions: Vec<Region, MAX_REGIONS>,
    pub(crate) modules: Vec<Module, MAX_MODULES>,
    /// ACPI revision and physical address of the RSDT (0) or XSDT (2).
    pub(crate) acpi_root: Option<(u8, u64)>,
    /// OEM ID of the RSDP.
    pub(crate) oem_id: [u8; 6],
}

/// What is wrong with the boot information.
pub(crate) type Complaint = MultibootError;

impl BootInfo {
    /// Reads the information at `address`.
    ///
    /// # Errors
    /// Says which part is missing or too large.
    ///
    /// # Safety
    /// A Multiboot2 loader passed `address`, and nothing has been overwritten.
    pub(crate) unsafe fn read(address: u64) -> Result<Self, Complaint> {
        let header = address as *const u32;
        // SAFETY: the caller's promise; the information begins with its length
        // in bytes.
        let bytes = unsafe {
            let length = usize::try_from(header.read()).unwrap_or(0);
            core::slice::from_raw_parts(header.cast::<u8>(), length)
        };
        let information = multiboot::parse(bytes)?;
        let modules = information.modules.into_iter().map(|module| Module {
            name: module.name,
            range: module.range,
            _from_grub: (),
        });
        Ok(Self {
            command_line: information.command_line,
            regions: information.regions,
            modules: modules.collect(),
            acpi_root: information.acpi_root,
            oem_id: information.oem_id,
        })
    }

    /// The module called `name`.
    pub(crate) fn module(&self, name: &str) -> Option<&Module> {
        self.modules.iter().find(|module| module.name == name)
    }
}
