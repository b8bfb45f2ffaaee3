//! Channels: their memory, and what each end is told of them. The layout is
//! `cloister_abi::channel`. They are made at boot and never change, but for
//! the counts of starts; what the ends do with them costs no exit and is never
//! looked at.

use core::sync::atomic::{AtomicU32, Ordering};

use cloister_abi::channel::{ChannelInfo, ChannelTable, FunctionPage, MAX_CHANNELS, header};
use cloister_abi::{MAX_NAME, MAX_PARTITIONS};
use cloister_core::nested::{MapError, Rights};
use cloister_manifest::{Channel, LINUX, Manifest};
use heapless::Vec;

use crate::arch::memory::{Frame, FramePool, PAGE};
use crate::partition::load;
use crate::virt::Vendor;
use crate::virt::guest::Guest;

/// What one entry of a partition's own page directory maps.
const LARGE: u64 = 2 << 20;

/// All channels of the system.
pub(crate) struct Channels {
    manifest: &'static Manifest,
    /// Host-physical address of each block.
    blocks: Vec<u64, MAX_CHANNELS>,
    /// What each partition is told.
    tables: Vec<Option<&'static ChannelTable>, MAX_PARTITIONS>,
    /// What Linux is told of each channel that is its own.
    functions: Vec<Option<&'static FunctionPage>, MAX_CHANNELS>,
}

/// A channel of Linux.
pub(crate) struct LinuxChannel {
    /// Host-physical address of its [`FunctionPage`].
    pub(crate) page: u64,
    /// Host-physical address of the block.
    pub(crate) block: u64,
    /// Bytes of the block.
    pub(crate) size: u64,
}

impl Channels {
    /// Makes them. `None` when the pool is empty.
    pub(crate) fn create(manifest: &'static Manifest, pool: &FramePool) -> Option<&'static Self> {
        let mut this = Self {
            manifest,
            blocks: Vec::new(),
            tables: Vec::new(),
            functions: Vec::new(),
        };
        for channel in &manifest.channels {
            this.blocks.push(block(channel.size, pool)?).ok()?;
            this.functions.push(function(channel, pool)?).ok()?;
        }
        for partition in &manifest.partitions {
            let shared = load::shared_base(partition.memory);
            let table = table(manifest, &partition.name, shared, pool)?;
            this.tables.push(table).ok()?;
        }
        this.note_start(LINUX, 1);
        let pages = (size_of::<Self>() as u64).div_ceil(PAGE);
        let this: &'static Self = pool.pages(pages, PAGE)?.place(this)?;
        Some(this)
    }

    /// What partition `index` is told; `None`: it has no channel.
    pub(crate) fn table(&self, index: usize) -> Option<&'static ChannelTable> {
        self.tables.get(index).copied().flatten()
    }

    /// How many large pages above the first one from `shared` hold the blocks
    /// of partition `index`.
    pub(crate) fn large_pages(&self, index: usize, shared: u64) -> u64 {
        let infos = self.table(index).into_iter().flat_map(infos);
        let end = infos.map(|info| info.gpa + info.size).max();
        end.map_or(0, |end| (end - shared - LARGE).div_ceil(LARGE))
    }

    /// Maps the blocks of partition `index` into `guest`.
    pub(crate) fn map<V: Vendor>(&self, index: usize, guest: &Guest<V>) -> Result<(), MapError> {
        let all = || self.manifest.channels.iter().zip(&self.blocks);
        self.table(index)
            .into_iter()
            .flat_map(infos)
            .filter_map(|info| Some((info, all().find(|(channel, _)| is(info, channel))?.1)))
            .try_for_each(|(info, block)| guest.map(info.gpa, *block, info.size, Rights::RW))
    }

    /// Linux's own, in the order of the manifest.
    pub(crate) fn of_linux(&self) -> impl Iterator<Item = LinuxChannel> {
        let all = self.manifest.channels.iter().zip(&self.blocks);
        all.zip(&self.functions)
            .filter_map(|((channel, block), page)| {
                Some(LinuxChannel {
                    page: core::ptr::from_ref((*page)?) as u64,
                    block: *block,
                    size: channel.size,
                })
            })
    }

    /// Tells both ends of each channel of `owner` how often that was started.
    pub(crate) fn note_start(&self, owner: &str, starts: u32) {
        for channel in &self.manifest.channels {
            let Some(end) = channel.between.iter().position(|name| name == owner) else {
                continue;
            };
            let tables = self.tables.iter().copied().flatten().flat_map(infos);
            let functions = self.functions.iter().flatten().map(|page| &page.info);
            for info in tables.chain(functions).filter(|info| is(info, channel)) {
                if let Some(count) = info.starts.get(end) {
                    count.store(starts, Ordering::Release);
                }
            }
        }
    }
}

/// The entries in use.
fn infos(table: &'static ChannelTable) -> impl Iterator<Item = &'static ChannelInfo> {
    table.channels.iter().take(table.count as usize)
}

/// Whether `info` tells of `channel`: names are unique.
fn is(info: &ChannelInfo, channel: &Channel) -> bool {
    info.name == text(&channel.name)
}

fn text(name: &str) -> [u8; MAX_NAME + 1] {
    let mut text = [0; MAX_NAME + 1];
    for (to, from) in text.iter_mut().zip(name.as_bytes()) {
        *to = *from;
    }
    text
}

/// An empty block: its host-physical address, aligned so that large pages map
/// it where it is large.
fn block(size: u64, pool: &FramePool) -> Option<u64> {
    let mut frame = pool.pages(size / PAGE, size.min(LARGE))?;
    for (to, word) in frame.bytes().as_chunks_mut().0.iter_mut().zip(header(size)) {
        *to = word.to_le_bytes();
    }
    Some(frame.address())
}

/// What `owner` is told of `channel`, if it is one of its ends.
fn describe(channel: &Channel, owner: &str, gpa: u64) -> Option<ChannelInfo> {
    let end = channel.between.iter().position(|name| name == owner)?;
    let peer = channel.between.iter().find(|name| *name != owner)?;
    Some(ChannelInfo {
        name: text(&channel.name),
        peer: text(peer),
        gpa,
        size: channel.size,
        end: u32::try_from(end).ok()?,
        reserved: 0,
        starts: [const { AtomicU32::new(0) }; 2],
    })
}

/// The page that Linux finds in BAR 0: `Some(None)` if the channel is not its
/// own, `None` when the pool is empty.
fn function(channel: &Channel, pool: &FramePool) -> Option<Option<&'static FunctionPage>> {
    let Some(info) = describe(channel, LINUX, 0) else {
        return Some(None);
    };
    let page: &'static mut FunctionPage = pool.page().and_then(Frame::zeroed)?;
    page.info = info;
    Some(Some(page))
}

/// The table of the partition `owner`, whose shared pages are at `shared`:
/// `Some(None)` if it has no channel, `None` when the pool is empty.
fn table(
    manifest: &Manifest,
    owner: &str,
    shared: u64,
    pool: &FramePool,
) -> Option<Option<&'static ChannelTable>> {
    let own = || {
        manifest
            .channels
            .iter()
            .filter(|channel| channel.between.iter().any(|name| name == owner))
    };
    if own().next().is_none() {
        return Some(None);
    }
    let table: &'static mut ChannelTable = pool.page().and_then(Frame::zeroed)?;
    let mut gpa = shared + LARGE;
    for (place, channel) in table.channels.iter_mut().zip(own()) {
        gpa = gpa.next_multiple_of(channel.size.min(LARGE));
        *place = describe(channel, owner, gpa)?;
        gpa += channel.size;
        table.count += 1;
    }
    Some(Some(table))
}
