//! Who has which entries of the tables of interrupts.

use heapless::Vec;

use super::Requester;

/// Most pins of one I/O APIC.
pub const PINS: u8 = 240;
/// Most sources of interrupts.
const SOURCES: usize = 128;

/// Who raises interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A PCI function.
    Function(Requester),
    /// An I/O APIC, by its ID.
    IoApic(u8),
}

/// One table for all, handed out in blocks of a power of two.
#[derive(Debug, Default)]
pub struct Blocks {
    blocks: Vec<(Source, u16, u16), SOURCES>,
    used: u16,
}

impl Blocks {
    /// The first of the entries of `source`, which are at least `count`: new
    /// ones if it has none yet. `None`: the table of `size` entries is full.
    pub fn first(&mut self, source: Source, count: u16, size: u16) -> Option<u16> {
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
pub struct PinTable {
    /// By index: the pin plus one, or 0.
    owners: [u8; 512],
}

impl Default for PinTable {
    fn default() -> Self {
        Self::new()
    }
}

impl PinTable {
    /// All entries are free.
    #[must_use]
    pub const fn new() -> Self {
        Self { owners: [0; 512] }
    }

    /// The entry for `pin`. `None`: two other level-triggered pins have the
    /// vector.
    pub fn index(&mut self, pin: u8, vector: u8, level: bool) -> Option<u16> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_apart_and_stay() {
        let mut blocks = Blocks::default();
        let device = |id| Source::Function(Requester(id));
        assert_eq!(blocks.first(device(1), 1, 64), Some(0));
        assert_eq!(blocks.first(Source::IoApic(1), 24, 64), Some(32));
        assert_eq!(blocks.first(device(1), 1, 64), Some(0));
        assert_eq!(blocks.first(device(1), 2, 64), None, "it has one");
        assert_eq!(blocks.first(device(2), 1, 64), None, "full");
        assert_eq!(blocks.first(device(2), u16::MAX, 64), None);
    }

    #[test]
    fn level_triggered_pins_get_the_entry_of_their_vector() {
        let mut pins = PinTable::new();
        assert_eq!(pins.index(10, 0x41, true), Some(0x41));
        assert_eq!(pins.index(11, 0x41, true), Some(0x141));
        assert_eq!(pins.index(12, 0x41, true), None);
        assert_eq!(pins.index(10, 0x42, true), Some(0x42), "it moves");
        assert_eq!(pins.index(12, 0x41, true), Some(0x41));
    }

    #[test]
    fn other_pins_keep_out_of_the_way() {
        let mut pins = PinTable::new();
        assert_eq!(pins.index(1, 0x30, false), Some(511));
        assert_eq!(pins.index(2, 0x30, false), Some(510));
        assert_eq!(pins.index(1, 0x31, false), Some(511), "it stays");
        for pin in 0..PINS {
            assert!(pins.index(pin, 0x30, false).is_some());
        }
        assert_eq!(pins.index(u8::MAX, 0x30, false), None);
    }
}
