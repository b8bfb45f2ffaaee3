//! Layouts of AMD-Vi (AMD I/O Virtualization Technology specification 48882,
//! chapters 2 and 3).

use super::{Access, Fault, Interrupt, Message, Requester};

/// Extended feature register (3.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// Interrupt destinations of 32 bits (XTSup, and GASup, which its table
    /// format needs).
    #[must_use]
    pub const fn extended_interrupts(self) -> bool {
        self.0 & (1 << 2 | 1 << 7) == 1 << 2 | 1 << 7
    }

    /// One command invalidates everything (IASup).
    #[must_use]
    pub const fn invalidate_all(self) -> bool {
        self.0 & 1 << 6 != 0
    }

    /// Bytes of registers: with performance counters there are more (3.2).
    #[must_use]
    pub const fn register_bytes(self) -> u64 {
        if self.0 & 1 << 9 != 0 {
            512 << 10
        } else {
            16 << 10
        }
    }
}

/// Device table entry (2.2.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceEntry(pub [u64; 4]);

/// Interrupts of a device: 512 of them.
pub const INTERRUPTS: u16 = 512;

impl DeviceEntry {
    /// Everything is refused and reported: translation is on, over no tables,
    /// with no right.
    pub const BLOCKED: Self = Self([0b11, 0, 0, 0]);

    /// DMA through the four-level tables at `root`.
    #[must_use]
    pub const fn translated(root: u64, domain: u16) -> Self {
        const MODE: u64 = 4 << 9;
        const READ: u64 = 1 << 61;
        const WRITE: u64 = 1 << 62;
        Self([0b11 | MODE | root | READ | WRITE, domain as u64, 0, 0])
    }

    /// The same, whose interrupts go through the table at `table` of
    /// [`INTERRUPTS`] entries.
    #[must_use]
    pub const fn with_interrupts(self, table: u64) -> Self {
        const VALID: u64 = 1;
        const LENGTH: u64 = 9 << 1;
        const REMAP: u64 = 2 << 60;
        let [first, second, _, last] = self.0;
        Self([first, second, VALID | LENGTH | table | REMAP, last])
    }

    /// The same, all of whose interrupts are refused.
    #[must_use]
    pub const fn without_interrupts(self) -> Self {
        let [first, second, _, last] = self.0;
        Self([first, second, 1, last])
    }

    /// The same, whose NMIs pass: the IOMMU's own.
    #[must_use]
    pub const fn with_nmi(self) -> Self {
        let [first, second, third, last] = self.0;
        Self([first, second, third | 1 << 58, last])
    }

    /// The same, whose faults are not reported any more (SA).
    #[must_use]
    pub const fn without_faults(self) -> Self {
        let [first, second, third, last] = self.0;
        Self([first, second | 1 << 34, third, last])
    }
}

/// Interrupt remapping entry of 32 bits (2.2.5.2, GAEn = 0).
#[must_use]
pub fn interrupt_entry(interrupt: &Interrupt) -> u32 {
    1 | u32::from(interrupt.lowest_priority) << 2
        | u32::from(interrupt.logical) << 6
        | (interrupt.destination & 0xff) << 8
        | u32::from(interrupt.vector) << 16
}

/// Interrupt remapping entry of 128 bits, low word first (2.2.5.2, GAEn and
/// XTEn = 1).
#[must_use]
pub fn extended_interrupt_entry(interrupt: &Interrupt) -> [u64; 2] {
    let destination = u64::from(interrupt.destination);
    [
        1 | u64::from(interrupt.lowest_priority) << 2
            | u64::from(interrupt.logical) << 6
            | (destination & 0xff_ffff) << 8,
        u64::from(interrupt.vector) | destination >> 24 << 56,
    ]
}

/// The message by which a device raises its interrupt `index` (2.2.5.1): bits
/// 10:8 of the data, the delivery mode, are part of the index, and only 0 and 1
/// are remapped.
#[must_use]
pub const fn message(index: u16) -> Message {
    Message {
        address: 0xfee0_0000,
        data: (index & 0x1ff) as u32,
    }
}

/// The redirection entry of an I/O APIC's pin. What the pin's end of interrupt
/// is known by is the low byte of the index.
#[must_use]
pub fn redirection(index: u16, level: bool) -> u64 {
    u64::from(index & 0x1ff) | u64::from(level) << 15
}

/// Commands (2.4), low word first.
pub mod command {
    use super::Requester;

    /// Writes `data` to `address`, a multiple of eight, when all before it is
    /// done.
    #[must_use]
    pub const fn completion_wait(address: u64, data: u64) -> [u64; 2] {
        [address & 0x000f_ffff_ffff_fff8 | 1 | 1 << 60, data]
    }

    /// The device table entry of `requester` has changed.
    #[must_use]
    pub const fn device(requester: Requester) -> [u64; 2] {
        [requester.0 as u64 | 2 << 60, 0]
    }

    /// All translations of `domain` have changed.
    #[must_use]
    pub const fn pages(domain: u16) -> [u64; 2] {
        // S, PDE, and the address that stands for all.
        [(domain as u64) << 32 | 3 << 60, 0x7fff_ffff_ffff_f003]
    }

    /// The interrupt table of `requester` has changed.
    #[must_use]
    pub const fn interrupts(requester: Requester) -> [u64; 2] {
        [requester.0 as u64 | 5 << 60, 0]
    }

    /// Everything has changed.
    pub const ALL: [u64; 2] = [8 << 60, 0];
}

/// Reads an event (2.5); `None`: none has been written there, or it is about
/// no device.
#[must_use]
pub const fn event(entry: [u64; 2]) -> Option<Fault> {
    const INTERRUPTS: u64 = 0xfee;
    let [low, address] = entry;
    let code = (low >> 60) as u8;
    let [first, second, ..] = low.to_le_bytes();
    let requester = Requester(u16::from_le_bytes([first, second]));
    // Illegal entry, page fault, table errors, time-out, invalid request.
    if !matches!(code, 1..=4 | 7 | 8) {
        return None;
    }
    let interrupt = low & 1 << 51 != 0;
    let access = match (interrupt, address >> 20) {
        (true, INTERRUPTS) => Access::Interrupt,
        // Not an interrupt's address: QEMU sets the bit always, and tells a
        // write by bit 49 (hw/i386/amd_iommu.c, amdvi_page_fault).
        (true, _) if low & 1 << 49 != 0 => Access::Write,
        (true, _) => Access::Read,
        (false, _) if low & 1 << 53 != 0 => Access::Write,
        (false, _) => Access::Read,
    };
    Some(Fault {
        requester,
        address,
        access,
        code,
    })
}
