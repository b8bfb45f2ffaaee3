//! The memory map that Linux is given (Linux boot protocol,
//! `boot_params.e820_table`; ACPI specification, "System Address Map
//! Interfaces").

use super::{FirmwareRange, Range};

/// The most entries that `boot_params.e820_table` holds (Linux:
/// `E820_MAX_ENTRIES_ZEROPAGE`).
pub const E820_ENTRIES: usize = 128;

/// Address range types (ACPI specification, "Address Range Types"); Multiboot2
/// uses the same numbers.
pub mod kind {
    /// Memory that the operating system may use.
    pub const USABLE: u32 = 1;
    /// Reserved.
    pub const RESERVED: u32 = 2;
    /// ACPI tables, to be kept until they are read.
    pub const ACPI: u32 = 3;
    /// ACPI non-volatile storage.
    pub const NVS: u32 = 4;
    /// Broken memory.
    pub const UNUSABLE: u32 = 5;
}

/// One entry of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// Physical address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// One of [`kind`].
    pub kind: u32,
}

impl E820Entry {
    /// The addresses it is about.
    #[must_use]
    pub const fn range(&self) -> Range {
        Range {
            start: self.start,
            end: self.start.saturating_add(self.len),
        }
    }
}

/// The firmware's map with `owned` put over it: sorted, without overlaps,
/// neighbours of one kind merged. Where the firmware's entries overlap, the
/// higher type wins, as it does in Linux. `None` when it has more than
/// [`E820_ENTRIES`] entries.
pub(super) fn overlay(
    firmware: &[FirmwareRange],
    owned: &[(Range, u32)],
) -> Option<heapless::Vec<E820Entry, E820_ENTRIES>> {
    let mut entries: heapless::Vec<E820Entry, E820_ENTRIES> = heapless::Vec::new();
    let mut at = 0;
    loop {
        // The next place where anything starts or ends.
        let edges = firmware
            .iter()
            .map(FirmwareRange::range)
            .chain(owned.iter().map(|o| o.0))
            .filter(|r| !r.is_empty())
            .flat_map(|r| [r.start, r.end]);
        let Some(next) = edges.filter(|edge| *edge > at).min() else {
            return Some(entries);
        };
        if let Some(kind) = kind_at(firmware, owned, at) {
            match entries.last_mut() {
                Some(last) if last.kind == kind && last.range().end == at => {
                    last.len = next - last.start;
                }
                _ => entries
                    .push(E820Entry {
                        start: at,
                        len: next - at,
                        kind,
                    })
                    .ok()?,
            }
        }
        at = next;
    }
}

/// What the byte at `at` is, if the map knows it.
fn kind_at(firmware: &[FirmwareRange], owned: &[(Range, u32)], at: u64) -> Option<u32> {
    let own = owned.iter().find(|o| o.0.contains(at)).map(|o| o.1);
    own.or_else(|| {
        firmware
            .iter()
            .filter(|f| f.range().contains(at))
            .map(FirmwareRange::checked_kind)
            .max()
    })
}
