//! A network cable. QEMU's is a stream socket on which each frame comes after
//! its length (four bytes, big-endian; its `stream` network backend); Bochs'
//! are datagrams, a frame each, from and to neighbouring ports (its `socket`
//! network module).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::machine::{MachineKind, Nic, NicModel};
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
pub struct Cable(Kind);

#[derive(Debug)]
enum Kind {
    Qemu {
        listener: UnixListener,
        path: PathBuf,
        _folder: TempDir,
    },
    Bochs {
        socket: UdpSocket,
        /// Where Bochs receives.
        port: u16,
    },
}

impl Cable {
    /// A new cable for this kind of machine, plugged in nowhere.
    ///
    /// # Errors
    /// No socket can be made.
    pub fn new(machine: MachineKind) -> Result<Self> {
        let kind = match machine {
            MachineKind::Qemu => {
                let folder = tempfile::tempdir()?;
                let path = folder.path().join("cable");
                let listener = UnixListener::bind(&path).context("cannot make a socket")?;
                listener.set_nonblocking(true)?;
                Kind::Qemu {
                    listener,
                    path,
                    _folder: folder,
                }
            }
            MachineKind::Bochs => neighbours()?,
        };
        Ok(Self(kind))
    }

    /// A card with this cable in it, for [`crate::Run::nic`].
    #[must_use]
    pub fn nic(&self, model: NicModel) -> Nic {
        let netdev = match &self.0 {
            Kind::Qemu { path, .. } => {
                let path = path.display();
                format!("stream,server=off,addr.type=unix,addr.path={path}")
            }
            Kind::Bochs { port, .. } => format!("ethmod=socket, ethdev={port}"),
        };
        Nic { model, netdev }
    }

    /// The host's end, once the machine has started.
    ///
    /// # Errors
    /// Nothing is plugged in within a minute.
    pub(super) fn end(&self) -> Result<End> {
        let listener = match &self.0 {
            Kind::Qemu { listener, .. } => listener,
            Kind::Bochs { socket, .. } => {
                return End::new(Socket::Datagrams(socket.try_clone()?));
            }
        };
        let deadline = Instant::now() + PLUG;
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return End::new(Socket::Stream(stream));
                }
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

/// A port for Bochs, and ours, which is the next.
fn neighbours() -> Result<Kind> {
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = free.local_addr()?.port();
        let next = port.checked_add(1);
        if let Some(socket) = next.and_then(|p| UdpSocket::bind((Ipv4Addr::LOCALHOST, p)).ok()) {
            socket.connect((Ipv4Addr::LOCALHOST, port))?;
            return Ok(Kind::Bochs { socket, port });
        }
    }
    bail!("no two neighbouring UDP ports are free");
}

#[derive(Debug)]
pub(super) enum Socket {
    Stream(UnixStream),
    Datagrams(UdpSocket),
}

impl Socket {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Stream(stream) => Self::Stream(stream.try_clone()?),
            Self::Datagrams(socket) => Self::Datagrams(socket.try_clone()?),
        })
    }

    /// Sends frames, each after its length.
    fn send(&mut self, mut frames: &[u8]) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.write_all(frames),
            Self::Datagrams(socket) => {
                while let Some((frame, rest)) = split(frames) {
                    socket.send(frame)?;
                    frames = rest;
                }
                Ok(())
            }
        }
    }

    /// Reads some of that, for at most `patience`.
    fn receive(&mut self, patience: Duration, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stream(stream) => {
                stream.set_read_timeout(Some(patience))?;
                match stream.read(room)? {
                    0 => Err(ErrorKind::UnexpectedEof.into()),
                    count => Ok(count),
                }
            }
            Self::Datagrams(socket) => {
                socket.set_read_timeout(Some(patience))?;
                let (length, frame) = room.split_at_mut(LENGTH);
                let count = socket.recv(frame)?;
                let bytes = u32::try_from(count).unwrap_or(0).to_be_bytes();
                length.copy_from_slice(&bytes);
                Ok(LENGTH + count)
            }
        }
    }
}

/// The first frame, without its length, and what follows; [`None`] where it is
/// not whole.
fn split(frames: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = frames.split_first_chunk::<LENGTH>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    rest.split_at_checked(length)
}

/// The host's end of a cable.
#[derive(Debug)]
pub(super) struct End {
    socket: Socket,
    /// What was read and not taken yet: `buffer[first..last]`.
    buffer: Vec<u8>,
    first: usize,
    last: usize,
    /// What is to be written.
    out: Vec<u8>,
}

impl End {
    pub(super) fn new(socket: Socket) -> Result<Self> {
        Ok(Self {
            socket,
            buffer: vec![0; 4 * LONGEST],
            first: 0,
            last: 0,
            out: Vec::new(),
        })
    }

    /// The same end for another thread: one reads, one writes.
    pub(super) fn split(self) -> Result<(Self, Self)> {
        let other = Self::new(self.socket.try_clone()?)?;
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
        self.socket
            .send(&self.out)
            .context("the machine has pulled the cable out")?;
        self.out.clear();
        Ok(())
    }

    /// The next frame, if a whole one was read already.
    pub(super) fn take(&mut self) -> Result<Option<&[u8]>> {
        let unread = self.buffer.get(self.first..self.last).unwrap_or_default();
        let Some((frame, _)) = split(unread) else {
            ensure!(unread.len() <= LONGEST, "a frame of over {LONGEST} bytes");
            return Ok(None);
        };
        self.first += LENGTH + frame.len();
        Ok(Some(frame))
    }

    /// Reads more, as much as is there; waits for at most `patience` for
    /// something. False where nothing came.
    pub(super) fn fill(&mut self, patience: Duration) -> Result<bool> {
        self.buffer.copy_within(self.first..self.last, 0);
        self.last -= self.first;
        self.first = 0;
        let room = self.buffer.get_mut(self.last..).unwrap_or_default();
        match self.socket.receive(patience, room) {
            Ok(count) => {
                self.last += count;
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(error) => Err(error).context("the machine has pulled the cable out"),
        }
    }
}
