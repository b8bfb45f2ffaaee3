//! Layouts of VT-d (Intel VT-d specification 4.1, chapters 6, 9 and 11), legacy
//! mode.

use super::{Access, Fault, Interrupt, Message, Requester};

/// Capability register (11.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// CAP_REG.
    pub cap: u64,
    /// ECAP_REG (11.4.3).
    pub ecap: u64,
}

impl Capabilities {
    /// Domain IDs, including 0.
    #[must_use]
    pub const fn domains(self) -> u32 {
        match self.cap & 7 {
            // 7 is reserved.
            7 => 1 << 16,
            bits => 1 << (4 + 2 * bits),
        }
    }

    /// Software flushes write buffers.
    #[must_use]
    pub const fn needs_write_flush(self) -> bool {
        self.cap & 1 << 4 != 0
    }

    /// Protected memory regions may be on.
    #[must_use]
    pub const fn has_protected_memory(self) -> bool {
        self.cap & 3 << 5 != 0
    }

    /// Entries that are not present are cached too.
    #[must_use]
    pub const fn caches_absent(self) -> bool {
        self.cap & 1 << 7 != 0
    }

    /// Levels of tables that the unit walks: 4 if it can, else 3; `None` if
    /// neither.
    #[must_use]
    pub const fn levels(self) -> Option<u8> {
        match self.cap >> 8 {
            sagaw if sagaw & 4 != 0 => Some(4),
            sagaw if sagaw & 2 != 0 => Some(3),
            _ => None,
        }
    }

    /// One past the highest device address.
    #[must_use]
    pub const fn address_end(self) -> u64 {
        1 << ((self.cap >> 16 & 0x3f) + 1)
    }

    /// The largest page, as a level: 1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB.
    #[must_use]
    pub const fn largest_page(self) -> u8 {
        match self.cap >> 34 & 3 {
            3 => 3,
            1 => 2,
            _ => 1,
        }
    }

    /// Offset of the fault recording registers.
    #[must_use]
    pub const fn fault_offset(self) -> u64 {
        (self.cap >> 24 & 0x3ff) * 16
    }

    /// How many there are.
    #[must_use]
    pub const fn faults(self) -> u64 {
        (self.cap >> 40 & 0xff) + 1
    }

    /// Writes and reads that wait are drained on invalidation.
    #[must_use]
    pub const fn drains(self) -> (bool, bool) {
        (self.cap & 1 << 54 != 0, self.cap & 1 << 55 != 0)
    }

    /// Bytes of registers, in whole pages.
    #[must_use]
    pub const fn register_bytes(self) -> u64 {
        let faults = self.fault_offset() + self.faults() * 16;
        let iotlb = (self.ecap >> 8 & 0x3ff) * 16 + 16;
        let end = if faults > iotlb { faults } else { iotlb };
        end.next_multiple_of(0x1000)
    }

    /// Tables are read through the caches.
    #[must_use]
    pub const fn coherent(self) -> bool {
        self.ecap & 1 != 0
    }

    /// Queued invalidation.
    #[must_use]
    pub const fn queue(self) -> bool {
        self.ecap & 2 != 0
    }

    /// Interrupt remapping.
    #[must_use]
    pub const fn interrupts(self) -> bool {
        self.ecap & 8 != 0
    }

    /// Destinations of 32 bits.
    #[must_use]
    pub const fn extended_interrupts(self) -> bool {
        self.ecap & 16 != 0
    }
}

/// A structure of two words, low first.
pub type Pair = [u64; 2];

/// Root entry (9.1) for the bus whose context table is at `table`.
#[must_use]
pub const fn root_entry(table: u64) -> Pair {
    [table | 1, 0]
}

/// Context entry (9.3): requests without PASID through the tables at `root` of
/// `levels` (3 or 4) levels; translated requests are refused.
#[must_use]
pub const fn context_entry(root: u64, levels: u8, domain: u16) -> Pair {
    [
        root | 1,
        (levels as u64).saturating_sub(2) & 7 | (domain as u64) << 8,
    ]
}

/// The same entry, whose faults are not recorded any more (FPD).
#[must_use]
pub const fn without_faults(entry: Pair) -> Pair {
    [entry[0] | 2, entry[1]]
}

/// Interrupt remapping entry (9.9): from `requester` alone. `extended`:
/// destinations have 32 bits.
#[must_use]
pub fn interrupt_entry(interrupt: &Interrupt, requester: Requester, extended: bool) -> Pair {
    let destination = if extended {
        u64::from(interrupt.destination)
    } else {
        u64::from(interrupt.destination & 0xff) << 8
    };
    let low = 1
        | u64::from(interrupt.logical) << 2
        | u64::from(interrupt.lowest_priority) << 3
        | u64::from(interrupt.level) << 4
        | u64::from(interrupt.lowest_priority) << 5
        | u64::from(interrupt.vector) << 16
        | destination << 32;
    // SVT 1: all 16 bits of the requester (SQ 0).
    [low, u64::from(requester.0) | 1 << 18]
}

/// The message by which a device raises the interrupt at `index`, with its own
/// message's number, if `block`, added to it (5.1.3, 5.1.5.2).
#[must_use]
pub const fn message(index: u16, block: bool) -> Message {
    let index = index as u64;
    Message {
        address: 0xfee0_0000
            | (index & 0x7fff) << 5
            | 1 << 4
            | (block as u64) << 3
            | index >> 15 << 2,
        data: 0,
    }
}

/// The redirection entry of an I/O APIC's pin (5.1.5.1). The vector is what the
/// pin's end of interrupt is known by.
#[must_use]
pub fn redirection(index: u16, interrupt: &Interrupt) -> u64 {
    let index = u64::from(index);
    u64::from(interrupt.vector)
        | index >> 15 << 11
        | u64::from(interrupt.level) << 15
        | 1 << 48
        | (index & 0x7fff) << 49
}

/// Invalidation descriptors (6.5.2).
pub mod descriptor {
    use super::Pair;

    /// All context entries.
    pub const CONTEXT: Pair = [1 | 1 << 4, 0];
    /// All interrupt entries.
    pub const INTERRUPT: Pair = [4, 0];

    /// All translations; `drains` as [`super::Capabilities::drains`] says.
    #[must_use]
    pub const fn iotlb((writes, reads): (bool, bool)) -> Pair {
        [2 | 1 << 4 | (writes as u64) << 6 | (reads as u64) << 7, 0]
    }

    /// Writes `data` to `address`, a multiple of four, when all before it is
    /// done.
    #[must_use]
    pub const fn wait(address: u64, data: u32) -> Pair {
        [5 | 1 << 5 | (data as u64) << 32, address]
    }
}

/// Bit 31 of the last word of a fault recording register: it holds a fault.
pub const FAULT: u32 = 1 << 31;

/// Reads a fault recording register (11.4.14.6); `None`: it holds none.
#[must_use]
pub const fn fault(record: Pair) -> Option<Fault> {
    const FIRST_OF_INTERRUPTS: u8 = 0x20;
    const LAST_OF_INTERRUPTS: u8 = 0x2f;
    let [low, high] = record;
    if high >> 63 == 0 {
        return None;
    }
    let [first, second, _, _, code, ..] = high.to_le_bytes();
    let interrupt = code >= FIRST_OF_INTERRUPTS && code <= LAST_OF_INTERRUPTS;
    Some(Fault {
        requester: Requester(u16::from_le_bytes([first, second])),
        address: if interrupt { low >> 48 } else { low & !0xfff },
        access: match (interrupt, high >> 62 & 1) {
            (true, _) => Access::Interrupt,
            (false, 0) => Access::Write,
            (false, _) => Access::Read,
        },
        code,
    })
}
