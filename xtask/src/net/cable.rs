//! A network cable: a stream socket on which each frame comes after its length
//! (four bytes, big-endian), as QEMU's `stream` network backend has it.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::machine::{Nic, NicModel};
use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

/// Bytes before a frame.
const LENGTH: usize = 4;
/// No frame is longer.
const LONGEST: usize = 65536;
/// How long the machine may take to plug its side in.
const PLUG: Duration = Duration::from_secs(60);

/// A cable whose one end is on the host.
#[derive(Debug)]
pub struct Cable {
    listener: UnixListener,
    path: PathBuf,
    _folder: TempDir,
}

impl Cable {
    /// A new cable, plugged in nowhere.
    ///
    /// # Errors
    /// No socket can be made.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("cable");
        let listener = UnixListener::bind(&path).context("cannot make a socket")?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            path,
            _folder: folder,
        })
    }

    /// A card of QEMU with this cable in it, for [`crate::Run::nic`].
    #[must_use]
    pub fn nic(&self, model: NicModel) -> Nic {
        Nic {
            model,
            netdev: format!(
                "stream,server=off,addr.type=unix,addr.path={}",
                self.path.display()
            ),
        }
    }

    /// The host's end, once the machine has started.
    ///
    /// # Errors
    /// Nothing is plugged in within a minute.
    pub(super) fn end(&self) -> Result<End> {
        let deadline = Instant::now() + PLUG;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return End::new(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            if Instant::now() > deadline {
                bail!("the machine has not plugged the cable in");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The host's end of a cable.
#[derive(Debug)]
pub(super) struct End {
    stream: UnixStream,
    /// What was read and not taken yet: `buffer[first..last]`.
    buffer: Vec<u8>,
    first: usize,
    last: usize,
    /// What is to be written.
    out: Vec<u8>,
}

impl End {
    pub(super) fn new(stream: UnixStream) -> Result<Self> {
        stream.set_nonblocking(false)?;
        Ok(Self {
            stream,
            buffer: vec![0; 4 * LONGEST],
            first: 0,
            last: 0,
            out: Vec::new(),
        })
    }

    /// The same end for another thread: one reads, one writes.
    pub(super) fn split(self) -> Result<(Self, Self)> {
        let other = Self::new(self.stream.try_clone()?)?;
        Ok((self, other))
    }

    /// Adds a frame to what the next [`End::flush`] sends.
    pub(super) fn put(&mut self, frame: &[u8]) {
        let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        self.out.extend_from_slice(&length.to_be_bytes());
        self.out.extend_from_slice(frame);
    }

    /// Sends what was put.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.stream
            .write_all(&self.out)
            .context("the machine has pulled the cable out")?;
        self.out.clear();
        Ok(())
    }

    /// The next frame, if a whole one was read already.
    pub(super) fn take(&mut self) -> Result<Option<&[u8]>> {
        let unread = self.buffer.get(self.first..self.last).unwrap_or_default();
        let Some((length, rest)) = unread.split_first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length))?;
        ensure!(length <= LONGEST, "a frame of {length} bytes");
        if rest.len() < length {
            return Ok(None);
        }
        let start = self.first + LENGTH;
        self.first = start + length;
        Ok(self.buffer.get(start..start + length))
    }

    /// Reads more, as much as is there; waits for at most `patience` for
    /// something. False where nothing came.
    pub(super) fn fill(&mut self, patience: Duration) -> Result<bool> {
        self.buffer.copy_within(self.first..self.last, 0);
        self.last -= self.first;
        self.first = 0;
        self.stream.set_read_timeout(Some(patience))?;
        let room = self.buffer.get_mut(self.last..).unwrap_or_default();
        match self.stream.read(room) {
            Ok(0) => bail!("the machine has pulled the cable out"),
            Ok(count) => {
                self.last += count;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}
