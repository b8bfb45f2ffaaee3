//! Maps further pages into the program's own page tables.
//!
//! The hypervisor's loader maps all RAM and the shared pages, address for
//! address. What else a partition owns, and what it does not own but a test
//! wants to reach for, is mapped here, the same way.

use core::fmt;
use core::hint;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::cpu;

/// Entry bits (Intel SDM vol. 3, table 4-20): present, writable, write-through,
/// cache-disable, page size.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const UNCACHED: u64 = 1 << 3 | 1 << 4;
const LARGE: u64 = 1 << 7;
/// Address bits of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Entries of one table.
const ENTRIES: usize = 512;
/// Tables that [`map_device_page`] can add: enough for 4 far-apart regions.
const SPARE_TABLES: usize = 12;

#[repr(C, align(4096))]
struct Table([AtomicU64; ENTRIES]);

static SPARE: [Table; SPARE_TABLES] =
    [const { Table([const { AtomicU64::new(0) }; ENTRIES]) }; SPARE_TABLES];
static USED: AtomicUsize = AtomicUsize::new(0);
static BUSY: AtomicBool = AtomicBool::new(false);

/// Why a page was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// Page 0 stays unmapped.
    Null,
    /// Not below 2^47: no identity mapping in the lower half.
    TooHigh,
    /// The spare page tables are used up.
    NoTables,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "page 0 stays unmapped",
            Self::TooHigh => "the address must be below 2^47",
            Self::NoTables => "no spare page table left",
        })
    }
}

/// Maps the 4 KiB page that holds `address` at its own address, writable and
/// uncached. Nothing changes where it is mapped already.
///
/// # Errors
/// See [`MapError`].
pub fn map_device_page(address: u64) -> Result<(), MapError> {
    if address < 0x1000 {
        return Err(MapError::Null);
    }
    if address >= 1 << 47 {
        return Err(MapError::TooHigh);
    }
    while BUSY.swap(true, Ordering::Acquire) {
        hint::spin_loop();
    }
    let result = map(address);
    BUSY.store(false, Ordering::Release);
    result
}

/// Called by one core at a time.
fn map(address: u64) -> Result<(), MapError> {
    let mut table = table_at(cpu::cr3() & ADDRESS);
    for shift in [39, 30, 21] {
        let entry = &table.0[index(address, shift)];
        let mut value = entry.load(Ordering::Relaxed);
        if value & PRESENT == 0 {
            let spare = SPARE
                .get(USED.load(Ordering::Relaxed))
                .ok_or(MapError::NoTables)?;
            USED.fetch_add(1, Ordering::Relaxed);
            value = ptr::from_ref(spare).expose_provenance() as u64 | PRESENT | WRITABLE;
            entry.store(value, Ordering::Release);
        } else if value & LARGE != 0 {
            return Ok(());
        }
        table = table_at(value & ADDRESS);
    }
    let entry = &table.0[index(address, 12)];
    if entry.load(Ordering::Relaxed) & PRESENT == 0 {
        entry.store(
            (address & ADDRESS) | PRESENT | WRITABLE | UNCACHED,
            Ordering::Release,
        );
    }
    Ok(())
}

/// Which entry of a table covers `address`, whose entries cover `1 << shift`.
#[expect(clippy::cast_possible_truncation, reason = "9 bits")]
fn index(address: u64, shift: u32) -> usize {
    (address >> shift) as usize % ENTRIES
}

fn table_at(address: u64) -> &'static Table {
    #[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits here")]
    let address = address as usize;
    // SAFETY: `address` is from CR3 or a present entry that is no large page,
    // so a page table is there; RAM is mapped at its own address, and the
    // tables are changed through atomics only.
    unsafe { &*ptr::with_exposed_provenance::<Table>(address) }
}
