//! smoltcp above a card: [`Link`] is its `phy::Device`.

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::Nic;
use crate::pool::{Batch, Frame, Pool};

/// Longest frame that is sent, without the check sequence.
const MTU: usize = 1514;

/// A card and its buffers, for smoltcp. Frames are read and written where the
/// card has them. Call [`Link::flush`] after each `Interface::poll`.
#[derive(Debug)]
pub struct Link<N> {
    nic: N,
    pool: Pool,
    received: Batch,
    sent: Batch,
    /// What tokens are using.
    reading: Option<Frame>,
    writing: Option<Writing>,
    counters: Counters,
    /// Free buffers while nothing is on its way.
    all: usize,
}

/// Frames of a [`Link`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
}

/// A frame that smoltcp may fill, and how long it became; 0: it did not.
#[derive(Debug)]
struct Writing {
    frame: Frame,
    length: usize,
}

impl<N: Nic> Link<N> {
    /// Takes the card and its buffers.
    pub fn new(nic: N, pool: Pool) -> Self {
        let all = pool.available();
        Self {
            nic,
            pool,
            received: Batch::new(),
            sent: Batch::new(),
            reading: None,
            writing: None,
            counters: Counters::default(),
            all,
        }
    }

    /// The card.
    pub const fn nic(&self) -> &N {
        &self.nic
    }

    /// Frames so far.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// Gives the card what was written, and takes back what it has sent.
    pub fn flush(&mut self) {
        self.settle();
        self.nic.transmit(&mut self.pool, &mut self.sent);
        self.nic.reclaim(&mut self.pool);
    }

    /// Whether nothing waits to be read or is still to be sent.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pool.available() == self.all
    }

    /// Ends what the last tokens began.
    fn settle(&mut self) {
        if let Some(frame) = self.reading.take() {
            self.pool.give(frame);
        }
        if let Some(Writing { mut frame, length }) = self.writing.take() {
            if length == 0 {
                self.pool.give(frame);
                return;
            }
            self.pool.truncate(&mut frame, length);
            self.counters.sent += 1;
            if let Err(frame) = self.sent.push_back(frame) {
                // `blank` has seen to room.
                self.pool.give(frame);
            }
        }
    }

    /// A frame to write, if it can be sent.
    fn blank(&mut self) -> Option<Frame> {
        if self.sent.is_full() {
            self.flush();
        }
        if self.sent.is_full() {
            return None;
        }
        self.pool.frame(MTU)
    }
}

impl<N: Nic> Device for Link<N> {
    type RxToken<'a>
        = Reading<'a>
    where
        N: 'a;
    type TxToken<'a>
        = Blank<'a>
    where
        N: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Reading<'_>, Blank<'_>)> {
        self.settle();
        if self.received.is_empty() {
            self.nic.receive(&mut self.pool, &mut self.received);
        }
        let frame = self.received.pop_front()?;
        let Some(blank) = self.blank() else {
            // No answer could be sent: later.
            drop(self.received.push_front(frame));
            return None;
        };
        self.counters.received += 1;
        let reading = self.reading.insert(frame);
        let writing = self.writing.insert(Writing {
            frame: blank,
            length: 0,
        });
        let (bytes, room) = self.pool.pair_mut(reading, &writing.frame);
        let length = &mut writing.length;
        Some((Reading(bytes), Blank { room, length }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Blank<'_>> {
        self.settle();
        let frame = self.blank()?;
        let writing = self.writing.insert(Writing { frame, length: 0 });
        Some(Blank {
            room: self.pool.bytes_mut(&writing.frame),
            length: &mut writing.length,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

/// A frame that has arrived.
#[derive(Debug)]
pub struct Reading<'a>(&'a [u8]);

impl RxToken for Reading<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// Room for a frame to send.
#[derive(Debug)]
pub struct Blank<'a> {
    room: &'a mut [u8],
    length: &'a mut usize,
}

impl TxToken for Blank<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        *self.length = length.min(self.room.len());
        let end = *self.length;
        f(self.room.get_mut(..end).unwrap_or_default())
    }
}
