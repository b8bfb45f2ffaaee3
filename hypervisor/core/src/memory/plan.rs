//! The memory plan: one owner for every byte.

use core::fmt;

use cloister_abi::MAX_PARTITIONS;

use super::e820::overlay;
use super::range::align_up;
use super::{E820_ENTRIES, E820Entry, GIB, LARGE_PAGE, MIB, PAGE, Range, RangeSet, kind};

/// Bytes set aside for what Linux reads at boot: `boot_params`, command line,
/// ACPI copies.
pub const BOOT_DATA: u64 = 64 << 10;
/// Where real-mode code can no longer be: the start of the EBDA at the latest.
const LOW_END: u64 = 640 << 10;
/// Linux is not loaded below its preferred address's usual value: what is
/// below belongs to firmware, ISA devices and the hypervisor.
const KERNEL_FLOOR: u64 = 16 * MIB;
const FOUR_GIB: u64 = 4 * GIB;
/// Ranges of free memory the plan can tell apart: 128 of the firmware's, cut
/// by at most [`MAX_MODULES`] modules and 36 allocations.
const FREE: usize = 256;
const MAX_FIRMWARE: usize = 128;
const MAX_MODULES: usize = 64;

/// One entry of the firmware's memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwareRange {
    /// Physical address.
    pub start: u64,
    /// Length in bytes. An entry that ends beyond 2^64 ends there.
    pub len: u64,
    /// One of [`kind`]; 0 counts as reserved.
    pub kind: u32,
}

impl FirmwareRange {
    pub(super) fn range(&self) -> Range {
        Range {
            start: self.start,
            end: self.start.saturating_add(self.len),
        }
    }

    pub(super) fn checked_kind(&self) -> u32 {
        if self.kind == 0 {
            kind::RESERVED
        } else {
            self.kind
        }
    }
}

/// Memory that is in use when the plan is made: a GRUB module, or the boot
/// information. Nothing is placed over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// Where it is.
    pub range: Range,
    /// It stays the hypervisor's for good (the program of a partition that may
    /// be started again): reserved for Linux. Otherwise Linux gets its memory.
    pub keep: bool,
}

/// What a partition needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionNeed<'a> {
    /// Its name, for errors.
    pub name: &'a str,
    /// Its memory in bytes; rounded up to 4 KiB.
    pub memory: u64,
}

/// What Linux's kernel needs (Linux boot protocol, "Details of Header Fields").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinuxNeed {
    /// `init_size` in bytes.
    pub init_size: u64,
    /// `kernel_alignment` in bytes, a power of two.
    pub alignment: u64,
    /// `pref_address`.
    pub preferred: u64,
}

/// What there is and who wants it.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    /// The firmware's memory map, at most 128 entries; may be unsorted and
    /// overlap.
    pub firmware: &'a [FirmwareRange],
    /// The hypervisor's image, where it runs.
    pub image: Range,
    /// GRUB's modules, at most 64, the initrd among them: it stays in place.
    pub modules: &'a [Module],
    /// Bytes of the hypervisor's pool; rounded up to 2 MiB.
    pub pool_bytes: u64,
    /// The partitions, at most [`MAX_PARTITIONS`].
    pub partitions: &'a [PartitionNeed<'a>],
    /// Linux, if it is started.
    pub linux: Option<LinuxNeed>,
}

/// The plan. All ranges are disjoint, and none overlaps the image or a module.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The hypervisor's memory, 2 MiB-aligned, below 4 GiB if possible.
    pub pool: Range,
    /// One block per partition, in the order of the input: 1 GiB-aligned if
    /// its size is a multiple and such a block is free, else 2 MiB-aligned.
    pub partitions: heapless::Vec<Range, MAX_PARTITIONS>,
    /// One page below 640 KiB for the code that starts other cores; Linux's
    /// afterwards.
    pub trampoline: Range,
    /// Where Linux's kernel goes: from 16 MiB, below 4 GiB.
    pub kernel: Option<Range>,
    /// [`BOOT_DATA`] bytes below 4 GiB for Linux's boot data; ACPI data in the
    /// map.
    pub boot_data: Option<Range>,
    /// Linux's memory map.
    pub e820: heapless::Vec<E820Entry, E820_ENTRIES>,
}

/// Who was to own a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner<'a> {
    /// The hypervisor's pool.
    Pool,
    /// A partition, by name.
    Partition(&'a str),
    /// Linux's kernel.
    Kernel,
    /// Linux's boot data.
    BootData,
    /// The code that starts other cores.
    Trampoline,
}

impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pool => f.write_str(
                "the hypervisor and the channels (keys `hypervisor.memory`, `channel.size`)",
            ),
            Self::Partition(name) => write!(f, "partition `{name}`"),
            Self::Kernel => f.write_str("Linux's kernel (below 4 GiB)"),
            Self::BootData => f.write_str("Linux's boot data (below 4 GiB)"),
            Self::Trampoline => f.write_str("the start code of the cores (below 640 KiB)"),
        }
    }
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError<'a> {
    /// No free block is large enough.
    NoRoom {
        /// Who needs it.
        owner: Owner<'a>,
        /// How many bytes, in one piece.
        size: u64,
        /// Alignment in bytes.
        align: u64,
        /// The largest block that is free where it may be.
        largest: u64,
    },
    /// A size of 0, or an alignment that is no power of two.
    BadNeed(Owner<'a>),
    /// More entries than the plan can hold.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        limit: usize,
    },
    /// A module that stays shares a 4 KiB page with one that does not.
    SharedPage(Range),
}

impl fmt::Display for PlanError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoRoom {
                owner,
                size,
                align,
                largest,
            } => write!(
                f,
                "{owner} needs {} in one piece, aligned to {}; the largest free block is {}",
                Bytes(size),
                Bytes(align),
                Bytes(largest)
            ),
            Self::BadNeed(owner) => write!(
                f,
                "{owner} needs a size above 0 and an alignment that is a power of two"
            ),
            Self::TooMany { what, limit } => write!(f, "more than {limit} {what}"),
            Self::SharedPage(range) => {
                write!(
                    f,
                    "the module at {range} shares a 4 KiB page with another one"
                )
            }
        }
    }
}

/// A size as people write it.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= GIB && n % GIB == 0 => write!(f, "{} GiB", n / GIB),
            n if n >= MIB && (n % MIB == 0 || n >= 16 * MIB) => write!(f, "{} MiB", n / MIB),
            n if n >= 1024 => write!(f, "{} KiB", n >> 10),
            n => write!(f, "{n} bytes"),
        }
    }
}

type Free = RangeSet<FREE>;

/// Makes the plan.
///
/// # Errors
/// [`PlanError`], which names who needs how much and what there is.
pub fn plan<'a>(input: &PlanInput<'a>) -> Result<Plan, PlanError<'a>> {
    let mut free = free_memory(input)?;
    let trampoline = take(Owner::Trampoline, &mut free, PAGE, PAGE, LOW_END)?;
    let _ = free.remove(Range { start: 0, end: MIB });

    let kernel = match input.linux {
        Some(need) => Some(kernel(&mut free, need)?),
        None => None,
    };
    let pool = pool(&mut free, input.pool_bytes)?;
    let boot_data = match input.linux {
        Some(_) => Some(take(Owner::BootData, &mut free, BOOT_DATA, PAGE, FOUR_GIB)?),
        None => None,
    };
    let partitions = partitions(&mut free, input.partitions)?;

    let mut owned: heapless::Vec<(Range, u32), { MAX_PARTITIONS + MAX_MODULES + 3 }> =
        heapless::Vec::new();
    let kept = input.modules.iter().filter(|m| m.keep).map(|m| m.range);
    let reserved = [input.image, pool]
        .into_iter()
        .chain(partitions.iter().copied())
        .chain(kept);
    let all = reserved
        .map(|range| (range.align_outward(PAGE), kind::RESERVED))
        .chain(boot_data.map(|range| (range, kind::ACPI)));
    for one in all {
        owned
            .push(one)
            .map_err(|_| too_many("owned ranges", MAX_PARTITIONS + MAX_MODULES))?;
    }
    let e820 = overlay(input.firmware, &owned)
        .ok_or_else(|| too_many("entries in Linux's memory map", E820_ENTRIES))?;
    Ok(Plan {
        pool,
        partitions,
        trampoline,
        kernel,
        boot_data,
        e820,
    })
}

fn too_many<'a>(what: &'static str, limit: usize) -> PlanError<'a> {
    PlanError::TooMany { what, limit }
}

/// Whole pages of usable memory that nothing is in, page 0 left out.
fn free_memory<'a>(input: &PlanInput<'a>) -> Result<Free, PlanError<'a>> {
    for (count, what, limit) in [
        (
            input.firmware.len(),
            "entries in the firmware's memory map",
            MAX_FIRMWARE,
        ),
        (input.modules.len(), "modules", MAX_MODULES),
        (input.partitions.len(), "partitions", MAX_PARTITIONS),
    ] {
        if count > limit {
            return Err(too_many(what, limit));
        }
    }
    for kept in input.modules.iter().filter(|m| m.keep) {
        let pages = kept.range.align_outward(PAGE);
        if input
            .modules
            .iter()
            .any(|m| !m.keep && m.range.overlaps(&pages))
        {
            return Err(PlanError::SharedPage(kept.range));
        }
    }
    let full = |_| too_many("pieces of free memory", FREE);
    let mut free = Free::new();
    for range in input.firmware.iter().filter(|f| f.kind == kind::USABLE) {
        free.add(range.range()).map_err(full)?;
    }
    let reserved = input
        .firmware
        .iter()
        .filter(|f| f.kind != kind::USABLE)
        .map(|f| f.range());
    let used = input.modules.iter().map(|m| m.range).chain([input.image]);
    for range in reserved.chain(used).chain([Range {
        start: 0,
        end: PAGE,
    }]) {
        free.remove(range.align_outward(PAGE)).map_err(full)?;
    }
    let mut pages = Free::new();
    for range in free.iter() {
        pages.add(range.align_inward(PAGE)).map_err(full)?;
    }
    Ok(pages)
}

fn no_room<'a>(owner: Owner<'a>, free: &Free, size: u64, align: u64, below: u64) -> PlanError<'a> {
    PlanError::NoRoom {
        owner,
        size,
        align,
        largest: free.largest(below),
    }
}

/// The highest free block below `below`.
fn take<'a>(
    owner: Owner<'a>,
    free: &mut Free,
    size: u64,
    align: u64,
    below: u64,
) -> Result<Range, PlanError<'a>> {
    free.allocate_top(size, align, below)
        .ok_or_else(|| no_room(owner, free, size, align, below))
}

fn kernel<'a>(free: &mut Free, need: LinuxNeed) -> Result<Range, PlanError<'a>> {
    if need.init_size == 0 || !need.alignment.is_power_of_two() {
        return Err(PlanError::BadNeed(Owner::Kernel));
    }
    let bad = PlanError::BadNeed(Owner::Kernel);
    let size = align_up(need.init_size, PAGE).ok_or(bad)?;
    let align = need.alignment.max(PAGE);
    let preferred = Range::at(need.preferred, size)
        .filter(|r| r.start >= KERNEL_FLOOR && r.end <= FOUR_GIB && r.start % align == 0);
    if let Some(range) = preferred.and_then(|range| free.take(range)) {
        return Ok(range);
    }
    free.allocate_bottom(size, align, KERNEL_FLOOR, FOUR_GIB)
        .ok_or_else(|| no_room(Owner::Kernel, free, size, align, FOUR_GIB))
}

fn pool<'a>(free: &mut Free, bytes: u64) -> Result<Range, PlanError<'a>> {
    let bad = PlanError::BadNeed(Owner::Pool);
    let size = align_up(bytes, LARGE_PAGE)
        .filter(|size| *size != 0)
        .ok_or(bad)?;
    take(Owner::Pool, free, size, LARGE_PAGE, FOUR_GIB)
        .or_else(|_| take(Owner::Pool, free, size, LARGE_PAGE, u64::MAX))
}

/// The largest are placed first: they are the hardest to place.
fn partitions<'a>(
    free: &mut Free,
    needs: &[PartitionNeed<'a>],
) -> Result<heapless::Vec<Range, MAX_PARTITIONS>, PlanError<'a>> {
    let mut order: heapless::Vec<usize, MAX_PARTITIONS> = (0..needs.len()).collect();
    order.sort_unstable_by_key(|i| {
        core::cmp::Reverse((
            needs.get(*i).map_or(0, |n| n.memory),
            core::cmp::Reverse(*i),
        ))
    });
    let mut blocks: heapless::Vec<Range, MAX_PARTITIONS> =
        needs.iter().map(|_| Range::default()).collect();
    for i in order {
        let (Some(need), Some(block)) = (needs.get(i), blocks.get_mut(i)) else {
            continue;
        };
        let owner = Owner::Partition(need.name);
        let size = align_up(need.memory, PAGE)
            .filter(|size| *size != 0)
            .ok_or(PlanError::BadNeed(owner))?;
        let gib = (size % GIB == 0)
            .then(|| free.allocate_top(size, GIB, u64::MAX))
            .flatten();
        *block = match gib {
            Some(block) => block,
            None => take(owner, free, size, LARGE_PAGE, u64::MAX)?,
        };
    }
    Ok(blocks)
}
