//! The machine's ACPI tables, as the firmware left them (ACPI 6.5, ch. 5).

use core::cell::Cell;
use core::ptr::NonNull;

use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use cloister_core::acpi::{Fadt, MadtCore, Signature, hide_sleep_states, madt_cores, sleep_type};
use heapless::Vec;

use crate::boot::info::BootInfo;

/// Most tables of one machine.
const MAX_TABLES: usize = 64;

/// One table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub(crate) signature: Signature,
    pub(crate) bytes: &'static [u8],
}

/// All that Cloister takes from ACPI.
#[derive(Debug, Default)]
pub(crate) struct Firmware {
    /// Revision of the RSDP: 0 for ACPI 1.0.
    pub(crate) revision: u8,
    pub(crate) oem_id: [u8; 6],
    pub(crate) tables: Vec<Table, MAX_TABLES>,
    /// Enabled cores, the boot core first, then in MADT order.
    pub(crate) cores: Vec<MadtCore, { cloister_abi::MAX_CORES }>,
    pub(crate) fadt: Option<Fadt>,
    /// SLP_TYP values for S1 to S5, of PM1a and PM1b.
    pub(crate) sleep_types: [Option<(u8, u8)>; 5],
}

/// Memory is identity-mapped, so mapping is naming. Remembers the last
/// address, which the `acpi` crate's iterator over headers does not tell.
#[derive(Clone)]
struct Identity<'a> {
    last: &'a Cell<usize>,
}

impl AcpiHandler for Identity<'_> {
    unsafe fn map_physical_region<T>(
        &self,
        physical_address: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        self.last.set(physical_address);
        let pointer = NonNull::new(physical_address as *mut T).unwrap_or(NonNull::dangling());
        // SAFETY: the first 4 GiB, where firmware keeps its tables, are mapped.
        unsafe { PhysicalMapping::new(physical_address, pointer, size, size, self.clone()) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

impl Firmware {
    /// Finds the tables.
    ///
    /// # Errors
    /// Says which table is missing or broken.
    pub(crate) fn read(info: &BootInfo, boot_apic_id: u32) -> Result<Self, &'static str> {
        let (revision, root) = info
            .acpi_root
            .ok_or("the boot loader found no ACPI RSDP; Cloister needs ACPI")?;
        let last = Cell::new(0);
        let root = usize::try_from(root).map_err(|_| "the ACPI root table is out of reach")?;
        // SAFETY: the boot loader vouches for the root table's address, and the
        // first 4 GiB are mapped.
        let tables = unsafe { AcpiTables::from_rsdt(Identity { last: &last }, revision, root) }
            .map_err(|_| "the ACPI root table is damaged (signature or checksum)")?;
        let mut firmware = Self {
            revision,
            oem_id: info.oem_id,
            ..Self::default()
        };
        for header in tables.headers() {
            let length = usize::try_from(header.length).unwrap_or(0);
            // SAFETY: the header has just been read from there.
            let bytes = unsafe { core::slice::from_raw_parts(last.get() as *const u8, length) };
            let signature = bytes.first_chunk().copied().unwrap_or_default();
            let table = Table { signature, bytes };
            firmware
                .tables
                .push(table)
                .map_err(|_| "more than 64 ACPI tables")?;
        }
        firmware.read_cores(boot_apic_id)?;
        if let Some(table) = firmware.table(b"FACP") {
            let fadt = Fadt::parse(table).map_err(|_| "the ACPI FADT is damaged")?;
            // SAFETY: nobody has looked at the DSDT before.
            if let Some(dsdt) = unsafe { dsdt(&fadt) } {
                firmware.sleep_types = [1, 2, 3, 4, 5].map(|state| sleep_type(dsdt, state));
                // No core may sleep while a partition runs: Linux is not to ask
                // for it. Firmware makes its tables anew at every boot.
                hide_sleep_states(dsdt);
            }
            firmware.fadt = Some(fadt);
        }
        Ok(firmware)
    }

    /// The first table called `signature`.
    pub(crate) fn table(&self, signature: &Signature) -> Option<&'static [u8]> {
        self.tables
            .iter()
            .find(|table| table.signature == *signature)
            .map(|table| table.bytes)
    }

    fn read_cores(&mut self, boot_apic_id: u32) -> Result<(), &'static str> {
        let madt = self
            .table(b"APIC")
            .ok_or("ACPI has no MADT, which names the cores")?;
        const DAMAGED: &str = "the ACPI MADT is damaged";
        // Twice through the table: the boot core comes first.
        for wants_boot in [true, false] {
            for core in madt_cores(madt).map_err(|_| DAMAGED)? {
                let core = core.map_err(|_| DAMAGED)?;
                let is_new = self.cores.iter().all(|known| known.apic_id != core.apic_id);
                let is_boot = core.apic_id == boot_apic_id;
                if is_boot == wants_boot && is_new && (is_boot || core.enabled) {
                    self.cores.push(core).map_err(|_| "more than 64 cores")?;
                }
            }
        }
        if self.cores.is_empty() {
            return Err("the ACPI MADT names no enabled core");
        }
        Ok(())
    }
}

/// The DSDT that the FADT names.
///
/// # Safety
/// There is no other reference to it.
unsafe fn dsdt(fadt: &Fadt) -> Option<&'static mut [u8]> {
    const HEADER: u64 = 36;
    const FOUR_GIB: u64 = 1 << 32;
    if fadt.dsdt == 0 || fadt.dsdt + HEADER > FOUR_GIB {
        return None;
    }
    let address = fadt.dsdt as *mut u8;
    // SAFETY: below 4 GiB, so mapped; the FADT says that a table is there. The
    // header has its length at offset 4.
    let length = unsafe { address.add(4).cast::<u32>().read_unaligned() };
    let length = u64::from(length);
    if length < HEADER || fadt.dsdt + length > FOUR_GIB {
        return None;
    }
    let length = usize::try_from(length).ok()?;
    // SAFETY: as above, for the length that its header states; the caller
    // vouches for nobody else.
    Some(unsafe { core::slice::from_raw_parts_mut(address, length) })
}
