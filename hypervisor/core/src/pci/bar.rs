//! Base address registers (PCI Local Bus Specification 3.0 §6.2.5.1).

/// What a BAR decodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bar {
    /// It does not exist, or is the upper half of the one before it.
    #[default]
    None,
    /// Memory.
    Memory {
        /// Physical address.
        base: u64,
        /// Bytes: a power of two, at least 16.
        size: u64,
        /// It takes two registers.
        wide: bool,
    },
    /// I/O ports.
    Ports {
        /// First port.
        base: u16,
        /// How many: a power of two, at least 4.
        size: u32,
    },
}

const PORTS: u32 = 1 << 0;
const WIDE: u32 = 2 << 1;
const TYPE: u32 = 3 << 1;
/// Address bits of a memory BAR, of a port BAR.
const MEMORY_MASK: u32 = !0xf;
const PORT_MASK: u32 = !0x3;

impl Bar {
    /// From a register as it was (`value`) and as it reads after ones were
    /// written to it (`ones`); for a 64-bit one `next` is the same of the
    /// register after it.
    #[must_use]
    pub fn decode(value: u32, ones: u32, next: Option<(u32, u32)>) -> Self {
        if ones == 0 || ones == u32::MAX {
            return Self::None;
        }
        if ones & PORTS != 0 {
            // The upper half may be wired to 0.
            let mask = ones & PORT_MASK & 0xffff;
            let size = (!mask & 0xffff) + 1;
            let [low, high, ..] = (value & PORT_MASK).to_le_bytes();
            let base = u16::from_le_bytes([low, high]);
            return match mask {
                0 => Self::None,
                _ => Self::Ports { base, size },
            };
        }
        let wide = ones & TYPE == WIDE;
        let (high, high_ones) = match next {
            Some(next) if wide => next,
            _ => (0, 0),
        };
        let join = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low & MEMORY_MASK);
        let mask = join(high_ones, ones);
        // The lowest bit that can be written is the size.
        let size = mask & mask.wrapping_neg();
        match size {
            0 => Self::None,
            size => Self::Memory {
                base: join(high, value) & !(size - 1),
                size,
                wide,
            },
        }
    }

    /// Whether it takes two registers.
    #[must_use]
    pub const fn is_wide(self) -> bool {
        matches!(self, Self::Memory { wide: true, .. })
    }

    /// Start and end of the memory that it decodes, if any: `None` also where
    /// it has no address.
    #[must_use]
    pub fn memory(self) -> Option<(u64, u64)> {
        match self {
            Self::Memory { base, size, .. } if base != 0 => Some((base, base.checked_add(size)?)),
            _ => None,
        }
    }

    /// First and last port that it decodes, if any.
    #[must_use]
    pub fn ports(self) -> Option<(u16, u16)> {
        match self {
            Self::Ports { base, size } if base != 0 => {
                let last = u32::from(base).checked_add(size)?.checked_sub(1)?;
                Some((base, u16::try_from(last).ok()?))
            }
            _ => None,
        }
    }
}
