//! The hypervisor's own page tables: all memory at its own address, nothing
//! both writable and executable, guard pages below the stacks (Intel SDM vol.
//! 3, "4-Level Paging"; AMD APM vol. 2, "Long-Mode Page Translation").

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use cloister_core::memory::Range;
use cloister_core::nested::{Builder, Format, MapError, MemoryType, Rights, Tables};
use spin::Mutex;

use crate::arch::cpu;
use crate::arch::memory::{FramePool, PAGE};

/// Ordinary long-mode entries, supervisor only.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

impl Format for Host {
    const LEVELS: u8 = 4;
    const IGNORED: u64 = 1 << 9;

    fn table(pa: u64, _: u8) -> u64 {
        pa | PRESENT | WRITABLE
    }

    fn leaf(pa: u64, level: u8, rights: Rights, memory_type: MemoryType) -> u64 {
        let mut entry = pa;
        if rights.read {
            entry |= PRESENT;
        }
        if rights.write {
            entry |= WRITABLE;
        }
        if !rights.execute {
            entry |= NO_EXECUTE;
        }
        if level > 1 {
            entry |= LARGE;
        }
        // With the PAT at its reset value: PCD and PWT give UC, PWT gives WT.
        match memory_type {
            MemoryType::WriteBack => entry,
            MemoryType::WriteThrough => entry | WRITE_THROUGH,
            _ => entry | CACHE_DISABLE | WRITE_THROUGH,
        }
    }

    fn present(entry: u64) -> bool {
        entry & PRESENT != 0
    }

    fn is_leaf(entry: u64, level: u8) -> bool {
        level == 1 || entry & LARGE != 0
    }

    fn address(entry: u64, level: u8) -> u64 {
        if level > 1 && Self::is_leaf(entry, level) {
            entry & ADDRESS & !0x1000
        } else {
            entry & ADDRESS
        }
    }

    fn rights(entry: u64) -> Rights {
        Rights {
            read: true,
            write: entry & WRITABLE != 0,
            execute: entry & NO_EXECUTE == 0,
        }
    }

    fn memory_type(entry: u64, _: u8) -> MemoryType {
        match entry & (CACHE_DISABLE | WRITE_THROUGH) {
            0 => MemoryType::WriteBack,
            WRITE_THROUGH => MemoryType::WriteThrough,
            _ => MemoryType::Uncacheable,
        }
    }
}

/// Tables in pages of a pool; used for nested tables as well.
pub(crate) struct PoolTables<'a>(pub(crate) &'a FramePool);

impl Tables for PoolTables<'_> {
    fn allocate(&mut self) -> Option<u64> {
        self.0.page().map(|frame| frame.address())
    }

    fn read(&self, table: u64, index: usize) -> u64 {
        // SAFETY: tables come from `allocate`: a mapped page of 512 entries,
        // which a processor may be walking, hence the volatile read.
        unsafe { (table as *const u64).add(index & 511).read_volatile() }
    }

    fn write(&mut self, table: u64, index: usize, value: u64) {
        // SAFETY: as above, and only the holder of the builder writes.
        unsafe { (table as *mut u64).add(index & 511).write_volatile(value) }
    }
}

static TABLES: Mutex<Option<Builder<Host>>> = Mutex::new(None);

/// The root, for cores that start later.
static ROOT: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __data_end: u8;
    static cloister_boot_stack_guard: u8;
    static cloister_boot_stack: u8;
}

/// Where the image is, as the linker and GRUB placed it.
pub(crate) fn image() -> Range {
    Range {
        start: &raw const __rodata_start as u64,
        end: &raw const __data_end as u64,
    }
}

/// Builds the tables, and switches this core to them: everything below `top` at its own address, RAM
/// write-back, the rest uncached, the image by segment.
///
/// # Errors
/// When the pool is too small.
pub(crate) fn build(
    pool: &FramePool,
    ram: impl Iterator<Item = Range>,
    gib_pages: bool,
) -> Result<(), MapError> {
    const FOUR_GIB: u64 = 1 << 32;
    let tables = &mut PoolTables(pool);
    let mut builder = Builder::<Host>::new(tables, gib_pages)?;
    let image = image();
    // RAM first; what it leaves of the low 4 GiB is devices and firmware.
    let mut next = 0;
    for range in ram {
        let start = range.start & !(PAGE - 1);
        let end = range.end.next_multiple_of(PAGE);
        if next < start && next < FOUR_GIB {
            let hole = start.min(FOUR_GIB) - next;
            builder.map(
                tables,
                next,
                next,
                hole,
                Rights::RW,
                MemoryType::Uncacheable,
            )?;
        }
        let from = start.max(next);
        if from < end {
            builder.map(
                tables,
                from,
                from,
                end - from,
                Rights::RW,
                MemoryType::WriteBack,
            )?;
            next = end;
        }
    }
    if next < FOUR_GIB {
        builder.map(
            tables,
            next,
            next,
            FOUR_GIB - next,
            Rights::RW,
            MemoryType::Uncacheable,
        )?;
    }
    builder.unmap(tables, image.start, image.len())?;
    for (start, end, rights) in [
        (
            &raw const __rodata_start,
            &raw const __rodata_end,
            Rights::READ,
        ),
        (&raw const __text_start, &raw const __text_end, Rights::RX),
        (&raw const __data_start, &raw const __data_end, Rights::RW),
    ] {
        let (start, end) = (start as u64, end as u64);
        builder.map(
            tables,
            start,
            start,
            end - start,
            rights,
            MemoryType::WriteBack,
        )?;
    }
    // Address 0 and the page below the boot stack are mapped by nobody.
    builder.unmap(tables, &raw const cloister_boot_stack_guard as u64, PAGE)?;
    builder.unmap(tables, 0, PAGE)?;
    ROOT.store(builder.root(), Ordering::SeqCst);
    let stack = &raw const cloister_boot_stack as u64;
    note_stack(stack, stack + crate::boot::BOOT_STACK as u64);
    *TABLES.lock() = Some(builder);
    // SAFETY: they are complete.
    unsafe { enter() };
    Ok(())
}

/// Switches this core to the tables that [`build`] made.
///
/// # Safety
/// [`build`] has returned `Ok`.
pub(crate) unsafe fn enter() {
    // SAFETY: the tables map the image, the stacks and all RAM where they are.
    unsafe { cpu::set_cr3(ROOT.load(Ordering::SeqCst)) };
}

/// Whether `address` is mapped, and is no memory: a device's or nobody's.
pub(crate) fn is_device(address: u64) -> bool {
    // Nothing is allocated for looking up; the pool is not needed.
    struct Look;
    impl Tables for Look {
        fn allocate(&mut self) -> Option<u64> {
            None
        }

        fn read(&self, table: u64, index: usize) -> u64 {
            // SAFETY: tables that `build` made.
            unsafe { (table as *const u64).add(index & 511).read_volatile() }
        }

        fn write(&mut self, _: u64, _: usize, _: u64) {}
    }
    TABLES.lock().as_ref().is_some_and(|builder| {
        builder
            .lookup(&Look, address)
            .is_some_and(|page| page.memory_type == MemoryType::Uncacheable)
    })
}

/// Maps the page of a device at `address`, if nothing is mapped there yet.
///
/// # Errors
/// The pool is empty, or no processor reaches the address.
pub(crate) fn map_device(pool: &FramePool, address: u64) -> Result<(), MapError> {
    let page = address & !(PAGE - 1);
    let mut tables = TABLES.lock();
    let Some(builder) = tables.as_mut() else {
        return Ok(());
    };
    let pool = &mut PoolTables(pool);
    match builder.lookup(pool, page) {
        Some(_) => Ok(()),
        None => builder.map(pool, page, page, PAGE, Rights::RW, MemoryType::Uncacheable),
    }
}

/// Reads a 32-bit register of a device, if there is a device at `address`.
pub(crate) fn device_read(address: u64) -> Option<u32> {
    let usable = address.is_multiple_of(4) && is_device(address);
    // SAFETY: mapped at its own address, uncached: no memory.
    usable.then(|| unsafe { (address as *const u32).read_volatile() })
}

/// Writes one.
pub(crate) fn device_write(address: u64, value: u32) {
    device_write_part(address, 4, u64::from(value));
}

/// Writes the low `width` (1, 2, 4 or 8) bytes of `value` to a device, at a
/// multiple of the width.
#[expect(clippy::cast_possible_truncation, reason = "the width says how much")]
pub(crate) fn device_write_part(address: u64, width: u8, value: u64) {
    if width == 0 || !address.is_multiple_of(u64::from(width)) || !is_device(address) {
        return;
    }
    // SAFETY: mapped at its own address, uncached: no memory; callers name
    // registers that have no effect on memory that is not their device's, or
    // that the guest for whom they write may write.
    unsafe {
        match width {
            1 => (address as *mut u8).write_volatile(value as u8),
            2 => (address as *mut u16).write_volatile(value as u16),
            4 => (address as *mut u32).write_volatile(value as u32),
            8 => (address as *mut u64).write_volatile(value),
            _ => {}
        }
    }
}

/// Takes the page at `address` away, so that a stack that grows into it
/// faults. Only cores that enter the tables later are sure to see it.
///
/// # Errors
/// When the pool is too small to split a large page.
pub(crate) fn guard(pool: &FramePool, address: u64) -> Result<(), MapError> {
    match TABLES.lock().as_mut() {
        Some(builder) => builder.unmap(&mut PoolTables(pool), address, PAGE),
        None => Ok(()),
    }
}

/// Lowest and highest address of every stack, for backtraces.
static STACKS: [(AtomicU64, AtomicU64); cloister_abi::MAX_CORES] =
    [const { (AtomicU64::new(0), AtomicU64::new(0)) }; cloister_abi::MAX_CORES];
static STACK_COUNT: AtomicUsize = AtomicUsize::new(0);

/// Remembers a core's stack.
pub(crate) fn note_stack(low: u64, high: u64) {
    let slot = STACK_COUNT.fetch_add(1, Ordering::SeqCst);
    if let Some((start, end)) = STACKS.get(slot) {
        start.store(low, Ordering::SeqCst);
        end.store(high, Ordering::SeqCst);
    }
}

/// Whether a frame (saved RBP and return address) can be read at `address`.
pub(crate) fn is_stack(address: u64) -> bool {
    address.is_multiple_of(8)
        && STACKS.iter().any(|(low, high)| {
            let (low, high) = (low.load(Ordering::SeqCst), high.load(Ordering::SeqCst));
            address >= low && address.checked_add(16).is_some_and(|end| end <= high)
        })
}
