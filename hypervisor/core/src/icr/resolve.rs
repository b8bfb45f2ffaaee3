//! Which of the sender's own cores an interprocessor interrupt reaches.

use super::{DeliveryMode, Destination, Ipi};

/// Logical ID of a local APIC, in the model that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogicalId {
    /// xAPIC, flat model: one bit of eight per core.
    Flat(u8),
    /// xAPIC, cluster model: cluster in bits 7:4, core in bits 3:0.
    Cluster(u8),
    /// x2APIC: cluster in bits 31:16, core in bits 15:0.
    X2apic(u32),
}

impl LogicalId {
    /// From the registers LDR (offset 0xd0) and DFR (0xe0) of an xAPIC. A DFR
    /// that is neither flat nor cluster counts as flat, its reset value.
    #[must_use]
    pub const fn from_xapic(ldr: u32, dfr: u32) -> Self {
        let [.., id] = ldr.to_le_bytes();
        if dfr >> 28 == 0 {
            Self::Cluster(id)
        } else {
            Self::Flat(id)
        }
    }

    /// Of the x2APIC with this ID, from which hardware derives it (Intel SDM
    /// vol. 3, "Deriving Logical x2APIC ID from the Local x2APIC ID").
    #[must_use]
    pub const fn from_x2apic_id(apic_id: u32) -> Self {
        Self::X2apic((apic_id & 0xf_fff0) << 12 | 1 << (apic_id & 0xf))
    }

    /// The part of message destination `mda` that names this core: 0 if it
    /// does not.
    const fn matched(self, mda: u32) -> u32 {
        match self {
            Self::Flat(id) => mda & id as u32,
            Self::Cluster(id) => {
                let id = id as u32;
                // 0xff is a broadcast to all clusters.
                if mda & 0xff == 0xff || mda & 0xf0 == id & 0xf0 {
                    mda & id & 0xf
                } else {
                    0
                }
            }
            Self::X2apic(id) => {
                if mda == u32::MAX || mda & 0xffff_0000 == id & 0xffff_0000 {
                    mda & id & 0xffff
                } else {
                    0
                }
            }
        }
    }

    /// The bits of `mda` that name cores, in this model. 0 for a broadcast,
    /// which names nobody in particular.
    const fn named(self, mda: u32) -> u32 {
        match self {
            Self::Flat(_) | Self::Cluster(_) if mda & 0xff == 0xff => 0,
            Self::Flat(_) => mda & 0xff,
            Self::Cluster(_) => mda & 0xf,
            Self::X2apic(_) if mda == u32::MAX => 0,
            Self::X2apic(_) => mda & 0xffff,
        }
    }
}

/// A core of the sender's guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnCore {
    /// Its APIC ID.
    pub apic_id: u32,
    /// Its logical ID as the guest set it.
    pub logical: LogicalId,
}

/// Whom an interprocessor interrupt reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// Bit n: the n-th core of the iterator given to [`resolve`].
    pub targets: u64,
    /// It also named somebody outside the sender's guest, who gets nothing.
    /// Shorthands and broadcasts name only the guest's own cores.
    pub foreign: bool,
}

impl Resolution {
    /// Indices of the targets, ascending.
    pub fn indices(&self) -> impl Iterator<Item = usize> + use<> {
        let mut left = self.targets;
        core::iter::from_fn(move || {
            let index = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            (index < u64::BITS).then_some(index as usize)
        })
    }
}

/// Finds the cores that `ipi` reaches among `own`, the cores of the sender's
/// guest, of which there are at most 64 (`cloister_abi::MAX_CORES`; further
/// ones are not looked at). `sender` is the APIC ID of the core that sends.
///
/// Nobody outside `own` is ever a target. A lowest-priority interrupt has one
/// target, the first in order. Shorthands other than "all but self" are legal
/// for all modes here; whoever handles INIT, start-up and SMI decides about
/// himself as a target.
#[inline]
pub fn resolve(ipi: &Ipi, sender: u32, own: impl Iterator<Item = OwnCore>) -> Resolution {
    let own = own.take(64).zip(0u32..);
    let mut targets = 0u64;
    let mut foreign = false;
    match ipi.destination {
        Destination::Logical(mda) => {
            let mut named = 0;
            let mut matched = 0;
            for (core, index) in own {
                let bits = core.logical.matched(mda);
                targets |= u64::from(bits != 0) << index;
                named = core.logical.named(mda);
                matched |= bits;
            }
            foreign = named & !matched != 0;
        }
        destination => {
            for (core, index) in own {
                let hit = match destination {
                    Destination::All => true,
                    Destination::AllButSelf => core.apic_id != sender,
                    Destination::SelfOnly => core.apic_id == sender,
                    Destination::Physical(id) => core.apic_id == id,
                    Destination::Logical(_) => false,
                };
                targets |= u64::from(hit) << index;
            }
            if matches!(destination, Destination::Physical(_)) {
                foreign = targets == 0;
            }
        }
    }
    if ipi.mode == DeliveryMode::LowestPriority {
        targets &= targets.wrapping_neg();
    }
    Resolution { targets, foreign }
}

/// The words to write to an xAPIC, offset 0x310 first, then 0x300, to send
/// `low` ([`Ipi::hardware_low`]) to `apic_id`. `None` if the ID needs x2APIC.
#[inline]
#[must_use]
pub const fn xapic_icr(apic_id: u32, low: u32) -> Option<(u32, u32)> {
    // 0xff is the broadcast address.
    if apic_id < 0xff {
        Some((apic_id << 24, low))
    } else {
        None
    }
}

/// The value to write to MSR 0x830 to send `low` ([`Ipi::hardware_low`]) to
/// `apic_id`. `None` for the broadcast address.
#[inline]
#[must_use]
pub const fn x2apic_icr(apic_id: u32, low: u32) -> Option<u64> {
    if apic_id == u32::MAX {
        None
    } else {
        Some((apic_id as u64) << 32 | low as u64)
    }
}
