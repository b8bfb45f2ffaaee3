//! Which driver a PCI function gets.

use core::fmt;

use cloister_runtime::device::{BarError, Device};

use crate::e1000::E1000;
use crate::pool::{Batch, Pool};
use crate::virtio::Virtio;
use crate::{Mac, Nic};

/// Resets the network card `device` and starts it, with buffers of `pool`: 256
/// at most, and as many again may be on their way out.
///
/// # Errors
/// See [`OpenError`].
pub fn open(device: Device, pool: &mut Pool) -> Result<Card, OpenError> {
    if Virtio::is(&device) {
        Virtio::open(device, pool).map(Card::Virtio)
    } else if E1000::is(&device) {
        E1000::open(device, pool).map(Card::E1000)
    } else {
        Err(OpenError::Unknown(
            device.info().vendor,
            device.info().device,
        ))
    }
}

/// A card that is open.
#[derive(Debug)]
pub enum Card {
    /// virtio-net.
    Virtio(Virtio),
    /// Intel 82540EM or 82574L.
    E1000(E1000),
}

macro_rules! each {
    ($card:expr, $nic:ident => $call:expr) => {
        match $card {
            Self::Virtio($nic) => $call,
            Self::E1000($nic) => $call,
        }
    };
}

impl Nic for Card {
    fn mac(&self) -> Mac {
        each!(self, nic => nic.mac())
    }

    #[inline]
    fn receive(&mut self, pool: &mut Pool, batch: &mut Batch) {
        each!(self, nic => nic.receive(pool, batch));
    }

    #[inline]
    fn transmit(&mut self, pool: &mut Pool, batch: &mut Batch) {
        each!(self, nic => nic.transmit(pool, batch));
    }

    #[inline]
    fn reclaim(&mut self, pool: &mut Pool) {
        each!(self, nic => nic.reclaim(pool));
    }

    fn bad(&self) -> u64 {
        each!(self, nic => nic.bad())
    }
}

/// Why a card could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// No card that there is a driver for: vendor and device ID.
    Unknown(u16, u16),
    /// A BAR could not be mapped.
    Bar(BarError),
    /// Registers are missing, or not where they should be.
    Registers,
    /// It does not come out of reset.
    Reset,
    /// virtio: no modern device (version 1).
    Legacy,
    /// virtio: it does not accept the features that it offered.
    Features,
    /// virtio: a queue is missing.
    Queues,
    /// The partition's memory does not suffice.
    Memory,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(vendor, device) => write!(
                f,
                "no driver for {vendor:04x}:{device:04x}: there are virtio-net (1af4:1041, \
                 1af4:1000), e1000 (8086:100e) and e1000e (8086:10d3)"
            ),
            Self::Bar(error) => error.fmt(f),
            Self::Registers => f.write_str("registers are missing or not where they should be"),
            Self::Reset => f.write_str("it does not come out of reset"),
            Self::Legacy => f.write_str("a legacy virtio device: version 1 is needed"),
            Self::Features => f.write_str("it refuses the features that it offered"),
            Self::Queues => f.write_str("it has no queue pair"),
            Self::Memory => f.write_str("the partition's memory does not suffice"),
        }
    }
}
