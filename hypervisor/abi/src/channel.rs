//! Channels: a block of shared memory between two ends, each Linux or a
//! partition.
//!
//! # The block
//!
//! The hypervisor writes it once, at boot: [`header`], and zeros. From then on
//! both ends write it, so neither believes what it reads there. It lives as
//! long as the machine runs: a partition that is started again finds what was
//! there.
//!
//! | offset | what | written by |
//! |---|---|---|
//! | 0 | [`header`] | the hypervisor, at boot |
//! | [`TAILS`]`[n]` | words ever put into ring `n`: its doorbell | end `n` |
//! | [`HEADS`]`[n]` | words ever taken out of ring `n` | the other end |
//! | [`RINGS`] | ring 0, then ring 1, [`ring_words`] words each | |
//!
//! End `n` (0 the first under `between`, 1 the second) sends through ring `n`
//! and receives through the other. All words have eight bytes, little-endian.
//! Word `w` of a ring is at `w` modulo its length. A message is one word, its
//! length in bytes, and then its bytes, in whole words; it is there when the
//! tail is past it.
//!
//! The tail is the doorbell: a store that makes a message visible rings it,
//! and whoever waits reads that one word again and again. Neither costs an
//! exit, on either side.
//!
//! # What an end is told
//!
//! A partition finds a [`ChannelTable`] at
//! [`crate::shared::PartitionInfo::channels_gpa`], read-only; it maps nothing
//! itself. Linux finds a PCI function for each of its channels, compatible to
//! QEMU's `ivshmem-plain` (QEMU, "Device Specification for Inter-VM shared
//! memory device"): [`PCI_VENDOR`]:[`PCI_DEVICE`] revision 1, BAR 2 the block,
//! BAR 0 a read-only [`FunctionPage`]. Both BARs are 32-bit and not
//! prefetchable: Linux offers a write-combining mapping of a prefetchable one,
//! and a page that others have cached must not be mapped so (Intel SDM vol. 3,
//! "Programming the PAT").

use core::sync::atomic::AtomicU32;

use crate::MAX_NAME;

/// Most channels of one system.
pub const MAX_CHANNELS: usize = 32;
/// Least bytes of a block: a page.
pub const MIN_SIZE: u64 = 4 << 10;
/// Most bytes of a block: it appears in a 32-bit BAR.
pub const MAX_SIZE: u64 = 64 << 20;
/// Most bytes of all blocks together.
pub const MAX_ALL: u64 = 256 << 20;

/// First word of a block.
pub const MAGIC: u64 = u64::from_le_bytes(*b"clstrchn");
/// Second word: the version of this layout.
pub const FORMAT: u64 = 1;
/// Offsets of the words that the senders advance, bytes. Each has two cache
/// lines of its own, since processors fetch lines in pairs.
pub const TAILS: [usize; 2] = [128, 384];
/// Offsets of the words that the receivers advance, bytes.
pub const HEADS: [usize; 2] = [256, 512];
/// Offset of ring 0, bytes.
pub const RINGS: usize = 640;

/// Words in each ring of a block of `words` words.
#[must_use]
pub const fn ring_words(words: usize) -> usize {
    words.saturating_sub(RINGS / 8) / 2
}

/// The first words of a block of `size` bytes.
#[must_use]
pub const fn header(size: u64) -> [u64; 3] {
    [MAGIC, FORMAT, size]
}

/// One channel, as one of its ends is told.
#[derive(Debug)]
#[repr(C)]
pub struct ChannelInfo {
    /// Its name, UTF-8, filled up with zeros.
    pub name: [u8; MAX_NAME + 1],
    /// The other end's name, filled up with zeros.
    pub peer: [u8; MAX_NAME + 1],
    /// Guest-physical address of the block; 0 for Linux, which finds it in
    /// BAR 2.
    pub gpa: u64,
    /// Bytes of the block, a power of two.
    pub size: u64,
    /// Which end this is: 0 or 1.
    pub end: u32,
    /// Unused, 0.
    pub reserved: u32,
    /// How often each end was started so far: a change tells that it is
    /// another run that reads and writes now. Linux is started once.
    pub starts: [AtomicU32; 2],
}

const _: () = assert!(size_of::<ChannelInfo>() == 96);

/// All channels of a partition. One page.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct ChannelTable {
    /// Entries of `channels` in use.
    pub count: u32,
    /// Unused, 0.
    pub reserved: u32,
    /// The channels, in the order of the system file.
    pub channels: [ChannelInfo; MAX_CHANNELS],
}

const _: () = assert!(size_of::<ChannelTable>() == 4096);

/// Vendor ID of the function that Linux gets for a channel, and of its
/// subsystem.
pub const PCI_VENDOR: u16 = 0x1af4;
/// Device ID: `ivshmem`.
pub const PCI_DEVICE: u16 = 0x1110;
/// Revision: 1, the layout of the registers since QEMU 2.6.
pub const PCI_REVISION: u8 = 1;
/// Subsystem ID: "CL". QEMU's own functions have 0x1100.
pub const PCI_SUBSYSTEM: u16 = 0x434c;
/// Class: memory controller, RAM.
pub const PCI_CLASS: u32 = 0x05_0000;

/// BAR 0 of the function. Reads never exit; stores are dropped.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct FunctionPage {
    /// The registers of `ivshmem`, interrupt mask, interrupt status, position,
    /// doorbell: all 0, as for a device without interrupts.
    pub registers: [u32; 64],
    /// The channel.
    pub info: ChannelInfo,
}

/// Bytes of BAR 0: QEMU's has 256; a page can be mapped by itself.
pub const FUNCTION_BYTES: u32 = 4096;

const _: () = assert!(size_of::<FunctionPage>() == FUNCTION_BYTES as usize);
