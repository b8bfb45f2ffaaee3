//! Who has which entries of the tables of interrupts.

use cloister_core::iommu::Requester;
use heapless::Vec;

/// Most pins of one I/O APIC.
pub(super) const PINS: u8 = 240;
/// Most sources of interrupts.
const SOURCES: usize = 128;

/// Who raises interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Function(Requester),
    /// By its ID.
    IoApic(u8),
}

/// One table for all, handed out in blocks of a power of two.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    blocks: Vec<(Source, u16, u16), SOURCES>,
    used: u16,
}

impl Blocks {
    /// The first of the entries of `source`, which are at least `count`: new
    /// ones if it has none yet. `None`: the table of `size` entries is full.
    pub(super) fn first(&mut self, source: Source, count: u16, size: u16) -> Option<u16> {
        let known = self.blocks.iter().find(|(owner, ..)| *owner == source);
        if let Some(&(_, first, length)) = known {
            return (count <= length).then_some(first);
        }
        let length = count.checked_next_power_of_two()?;
        let first = self.used.checked_next_multiple_of(length)?;
        let end = first.checked_add(length).filter(|&end| end <= size)?;
        self.blocks.push((source, first, length)).ok()?;
        self.used = end;
        Some(first)
    }
}

/// The entries of one I/O APIC on AMD-Vi, where a level-triggered pin needs one
/// whose low byte is the vector: that is what its end of interrupt names.
#[derive(Debug)]
pub(super) struct PinTable {
    /// By index: the pin plus one, or 0.
    owners: [u8; 512],
}

impl PinTable {
    pub(super) const fn new() -> Self {
        Self { owners: [0; 512] }
    }

    /// The entry for `pin`. `None`: two other level-triggered pins have the
    /// vector.
    pub(super) fn index(&mut self, pin: u8, vector: u8, level: bool) -> Option<u16> {
        let owner = pin.checked_add(1)?;
        let free = |index: &usize| {
            let current = self.owners.get(*index);
            current.is_some_and(|&current| current == 0 || current == owner)
        };
        let index = if level {
            [usize::from(vector), usize::from(vector) + 256]
                .into_iter()
                .find(free)?
        } else {
            // Any will do; those from the end are needed least.
            let own = self.owners.iter().position(|&current| current == owner);
            own.or_else(|| (0..512).rev().find(free))?
        };
        for (at, current) in self.owners.iter_mut().enumerate() {
            if *current == owner && at != index {
                *current = 0;
            }
        }
        *self.owners.get_mut(index)? = owner;
        u16::try_from(index).ok()
    }
}
