//! Channels to other partitions and to Linux. Opening one, sending, receiving
//! and waiting for a message cost no exit.
//!
//! ```ignore
//! let mut linux = channel::open(partition, "telemetry")?;
//! linux.sender.send(b"hello")?;
//! let mut buffer = [0; 64];
//! if let Some(message) = linux.receiver.receive(&mut buffer)? { ... }
//! ```

use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use cloister_abi::channel::{ChannelInfo, ChannelTable, MAX_CHANNELS};

pub use cloister_channel::{
    Corrupt, End, Message, ReceiveError, Receiver, SendError, Sender, format, open as open_block,
};

use crate::Partition;

/// The channels that are open, one bit each.
static OPEN: AtomicU32 = AtomicU32::new(0);

const _: () = assert!(MAX_CHANNELS <= 32);

/// One end of a channel. Sender and receiver may go to different cores.
#[derive(Debug)]
pub struct Channel {
    /// What the hypervisor says of it.
    pub info: Info,
    /// Sends to the other end.
    pub sender: Sender<'static>,
    /// Receives from the other end.
    pub receiver: Receiver<'static>,
}

/// Why a channel was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The partition has no channel of that name.
    Unknown,
    /// The program has opened it before.
    InUse,
    /// The block is no channel any more.
    Block(cloister_channel::OpenError),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str(
                "the partition has no channel of that name: add a [[channel]] to the system file",
            ),
            Self::InUse => f.write_str("the channel is open already"),
            Self::Block(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for OpenError {}

/// A channel of this partition, open or not.
#[derive(Clone, Copy, Debug)]
pub struct Info(&'static ChannelInfo);

impl Info {
    /// Its name in the system file.
    #[must_use]
    pub fn name(&self) -> &'static str {
        text(&self.0.name)
    }

    /// The other end: `linux`, or a partition's name.
    #[must_use]
    pub fn peer(&self) -> &'static str {
        text(&self.0.peer)
    }

    /// Bytes of shared memory.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.0.size
    }

    /// How often the other end was started: a change says that another run of
    /// it has begun. 0: it has not started yet.
    #[must_use]
    pub fn peer_starts(&self) -> u32 {
        let own = self.0.end == 1;
        self.0.starts[usize::from(!own)].load(Ordering::Acquire)
    }

    /// The shared memory as it is, for protocols of one's own. The other end
    /// can change every word at any moment.
    #[must_use]
    pub fn block(&self) -> &'static [AtomicU64] {
        let address = usize::try_from(self.0.gpa).unwrap_or(0);
        let words = usize::try_from(self.0.size / 8).unwrap_or(0);
        let start = ptr::with_exposed_provenance::<AtomicU64>(address);
        // SAFETY: the hypervisor maps `size` bytes there, page-aligned, for as
        // long as the program runs, and says so in a page that nobody else
        // writes (cloister_abi::channel). Others write the block, hence
        // atomics.
        unsafe { core::slice::from_raw_parts(start, words) }
    }
}

/// The channels of this partition, in the order of the system file.
pub fn all(partition: &Partition) -> impl Iterator<Item = Info> {
    let address = usize::try_from(partition.info().channels_gpa).unwrap_or(0);
    // SAFETY: null, or where the hypervisor maps the table for as long as the
    // program runs (cloister_abi::shared); what changes in it is atomic.
    let table = unsafe { ptr::with_exposed_provenance::<ChannelTable>(address).as_ref() };
    let table = table.into_iter();
    table.flat_map(|table| table.channels.iter().take(table.count as usize).map(Info))
}

/// Opens the channel called `name`, once.
///
/// # Errors
/// See [`OpenError`].
pub fn open(partition: &Partition, name: &str) -> Result<Channel, OpenError> {
    let (index, info) = all(partition)
        .enumerate()
        .find(|(_, info)| info.name() == name)
        .ok_or(OpenError::Unknown)?;
    let end = End::from_number(info.0.end).ok_or(OpenError::Unknown)?;
    let bit = 1 << index;
    if OPEN.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
        return Err(OpenError::InUse);
    }
    let (sender, receiver) = cloister_channel::open(info.block(), end).map_err(OpenError::Block)?;
    Ok(Channel {
        info,
        sender,
        receiver,
    })
}

/// What comes before the first zero.
fn text(bytes: &'static [u8]) -> &'static str {
    let length = bytes.iter().position(|byte| *byte == 0);
    let text = bytes.get(..length.unwrap_or(bytes.len()));
    text.and_then(|text| core::str::from_utf8(text).ok())
        .unwrap_or_default()
}
