//! Linux's channels: PCI functions that are compatible to QEMU's
//! `ivshmem-plain` (`cloister_abi::channel`).

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use cloister_abi::channel::{
    ChannelInfo, FUNCTION_BYTES, FunctionPage, PCI_DEVICE, PCI_SUBSYSTEM, PCI_VENDOR,
};
use cloister_channel::{End, Receiver, Sender};
use rustix::fs::{FlockOperation, flock};

use crate::device;
use crate::failure::Failure;
use crate::mapping::Mapping;

/// A channel of this Linux.
#[derive(Debug)]
pub(crate) struct Channel {
    folder: PathBuf,
    page: Mapping,
}

impl Channel {
    /// All of them, by name.
    ///
    /// # Errors
    /// [`Failure::NoDevice`]: they are not for this user.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let mut channels = Vec::new();
        for folder in device::functions(PCI_VENDOR, PCI_DEVICE) {
            // QEMU's own have another.
            if device::number(&folder, "subsystem_device") != Some(PCI_SUBSYSTEM) {
                continue;
            }
            device::enable(&folder)?;
            let file = device::open(&folder, 0, false)?;
            let page = Mapping::new(&file, FUNCTION_BYTES as usize, false)
                .with_context(|| format!("{}/resource0", folder.display()))?;
            channels.push(Self { folder, page });
        }
        channels.sort_by_key(Self::name);
        Ok(channels)
    }

    /// The channel called `name`.
    ///
    /// # Errors
    /// [`Failure::NoPartition`]: there is none; others as [`Self::all`].
    pub(crate) fn named(name: &str) -> Result<Self> {
        let all = Self::all()?;
        let names: Vec<String> = all.iter().map(Self::name).collect();
        let found = all.into_iter().find(|channel| channel.name() == name);
        found.ok_or_else(|| {
            let has = match names.as_slice() {
                [] => "it has none".to_owned(),
                names => format!("there are: {}", names.join(", ")),
            };
            Failure::NoPartition(format!("Linux has no channel called {name:?}; {has}")).into()
        })
    }

    fn info(&self) -> Option<&ChannelInfo> {
        let page: Result<&FunctionPage> = self.page.view(0);
        page.ok().map(|page| &page.info)
    }

    /// Its name in the system file.
    pub(crate) fn name(&self) -> String {
        self.info()
            .map_or_else(String::new, |info| text(&info.name))
    }

    /// The partition at the other end.
    pub(crate) fn peer(&self) -> String {
        self.info()
            .map_or_else(String::new, |info| text(&info.peer))
    }

    /// Bytes of shared memory.
    pub(crate) fn size(&self) -> u64 {
        self.info().map_or(0, |info| info.size)
    }

    /// How often the other end was started.
    pub(crate) fn peer_starts(&self) -> u32 {
        self.info().map_or(0, |info| {
            let peer = usize::from(info.end == 0);
            info.starts
                .get(peer)
                .map_or(0, |n| n.load(Ordering::Relaxed))
        })
    }

    /// The PCI function, as `lspci -D` names it.
    pub(crate) fn function(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// Whether messages are waiting to be received.
    ///
    /// # Errors
    /// The kernel refuses; or the other end has overwritten the header.
    pub(crate) fn is_waiting(&self) -> Result<bool> {
        let memory = self.map(device::open(&self.folder, 2, true)?)?;
        Ok(cloister_channel::waiting(memory.mapping.words()?, memory.end)? != 0)
    }

    /// Maps the memory to send. Others that want to send wait until this
    /// process ends, however it ends.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn for_sending(&self) -> Result<Memory> {
        let lock = device::open(&self.folder, 0, true)?;
        flock(&lock, FlockOperation::LockExclusive).context("cannot lock resource0")?;
        let mut memory = self.map(device::open(&self.folder, 2, true)?)?;
        memory.locks.push(lock);
        Ok(memory)
    }

    /// Maps the memory to receive.
    ///
    /// # Errors
    /// Another process receives; or the kernel refuses.
    pub(crate) fn for_receiving(&self) -> Result<Memory> {
        let file = device::open(&self.folder, 2, true)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another process receives from {}", self.name());
        }
        self.map(file)
    }

    fn map(&self, file: File) -> Result<Memory> {
        let length = usize::try_from(self.size())?;
        let mapping = Mapping::new(&file, length, true)
            .with_context(|| format!("{}/resource2", self.folder.display()))?;
        let end = self.info().and_then(|info| End::from_number(info.end));
        Ok(Memory {
            mapping,
            end: end.context("the hypervisor's page says neither end")?,
            locks: vec![file],
        })
    }
}

/// A channel's memory, and the locks that keep others away.
pub(crate) struct Memory {
    mapping: Mapping,
    end: End,
    /// Locks are given up when their files are closed.
    locks: Vec<File>,
}

impl Memory {
    /// To be called on what [`Channel::for_sending`] returned.
    ///
    /// # Errors
    /// The other end has overwritten the channel's header.
    pub(crate) fn sender(&self) -> Result<Sender<'_>> {
        Ok(cloister_channel::sender(self.mapping.words()?, self.end)?)
    }

    /// To be called on what [`Channel::for_receiving`] returned.
    ///
    /// # Errors
    /// As [`Self::sender`].
    pub(crate) fn receiver(&self) -> Result<Receiver<'_>> {
        Ok(cloister_channel::receiver(self.mapping.words()?, self.end)?)
    }
}

/// What comes before the first zero.
fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_at_the_first_zero() {
        assert_eq!(text(b"log\0x"), "log");
        assert_eq!(text(b"log"), "log");
        assert_eq!(text(b""), "");
    }
}
