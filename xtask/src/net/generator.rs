//! Frames with a number and known bytes, sent both ways through a forwarder,
//! and checked when they come back.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::cable::{Cable, End};

/// Ethernet type for experiments (IEEE 802, clause 9.2.3).
const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];
/// Two addresses, the type, the number.
const HEADER: usize = 6 + 6 + 2 + 8;
/// Frame sizes without the check sequence: 64 and 1518 bytes on the wire.
const SHORTEST: usize = 60;
const LONGEST: usize = 1514;
/// Most frames, and bytes, on their way in each direction: less than the rings
/// and the sockets hold, so that nothing can be lost for lack of room.
const WINDOW_FRAMES: u64 = 192;
const WINDOW_BYTES: usize = 128 << 10;
/// Frames that are sent in one piece.
const BURST: u64 = 48;

/// What a run is to be.
#[derive(Clone, Copy, Debug)]
pub struct Generator {
    frames: u64,
    patience: Duration,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throughput {
    /// Frames that came back right: all of them.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// From the first to the last that came back.
    pub seconds: f64,
}

impl Throughput {
    /// Frames per second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn rate(&self) -> f64 {
        self.frames as f64 / self.seconds
    }
}

impl Generator {
    /// Sends `frames` frames, half of them in each direction.
    #[must_use]
    pub fn new(frames: u64) -> Self {
        Self {
            frames,
            patience: Duration::from_secs(60),
        }
    }

    /// How long no frame may come back. Default: a minute.
    #[must_use]
    pub fn patience(mut self, seconds: u64) -> Self {
        self.patience = Duration::from_secs(seconds);
        self
    }

    /// Runs it over the two cables of a forwarder that swaps the addresses.
    ///
    /// # Errors
    /// A frame is lost, late, out of order, or has a wrong byte.
    pub fn run(self, one: &Cable, other: &Cable) -> Result<Throughput> {
        let (one_out, one_in) = one.end()?.split()?;
        let (other_out, other_in) = other.end()?.split()?;
        let half = self.frames / 2;
        let there = thread::spawn(move || self.direction(0, half, one_out, other_in));
        let back = self.direction(1, self.frames - half, other_out, one_in);
        let there = there
            .join()
            .map_err(|_| anyhow!("the generator panicked"))?;
        let (there_bytes, there_since) = there.context("first to second card")?;
        let (back_bytes, back_since) = back.context("second to first card")?;
        Ok(Throughput {
            frames: self.frames,
            bytes: there_bytes + back_bytes,
            seconds: there_since.min(back_since).elapsed().as_secs_f64(),
        })
    }

    /// `frames` frames into `out`, and what comes of them from `into`; returns
    /// their bytes, and when the first came back.
    fn direction(
        self,
        way: u8,
        frames: u64,
        mut out: End,
        mut into: End,
    ) -> Result<(u64, Instant)> {
        let pattern = Pattern::new(way);
        let mut frame = [0; LONGEST];
        let (mut sent, mut received) = (0, 0);
        let (mut sent_bytes, mut received_bytes) = (0_usize, 0_usize);
        let mut first = None;
        while received < frames {
            let burst = frames.min(sent + BURST);
            while sent < burst
                && sent - received < WINDOW_FRAMES
                && sent_bytes - received_bytes < WINDOW_BYTES
            {
                let bytes = pattern.write(sent, false, &mut frame);
                out.put(bytes);
                sent_bytes += bytes.len();
                sent += 1;
            }
            out.flush()?;
            while let Some(bytes) = into.take()? {
                let expected = pattern.write(received, true, &mut frame);
                if bytes != expected {
                    bail!("{}", difference(received, bytes, expected));
                }
                received_bytes += bytes.len();
                received += 1;
                first.get_or_insert_with(Instant::now);
            }
            let full = sent == frames
                || sent - received >= WINDOW_FRAMES
                || sent_bytes - received_bytes >= WINDOW_BYTES;
            if received < frames && full && !into.fill(self.patience)? {
                bail!(
                    "frame {received} of {frames} has not come back within {} s; {sent} were sent",
                    self.patience.as_secs()
                );
            }
        }
        // A frame too many would be as wrong as one too few.
        ensure!(into.take()?.is_none(), "more frames came than were sent");
        Ok((received_bytes as u64, first.unwrap_or_else(Instant::now)))
    }
}

/// What frames are made of.
struct Pattern {
    way: u8,
    bytes: Vec<u8>,
}

impl Pattern {
    fn new(way: u8) -> Self {
        // Any numbers will do that do not repeat soon.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let bytes = (0..16384).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        });
        Self {
            way,
            bytes: bytes.collect(),
        }
    }

    /// Writes frame `number`, as it is sent or as it comes back.
    fn write<'a>(&self, number: u64, back: bool, frame: &'a mut [u8; LONGEST]) -> &'a [u8] {
        let address = |end: u8| [0x02, 0, 0, 0, self.way, end];
        let (to, from) = if back { (2, 1) } else { (1, 2) };
        let length = length(number);
        let start = usize::try_from(number * 61 % 8192).unwrap_or(0);
        frame[..6].copy_from_slice(&address(to));
        frame[6..12].copy_from_slice(&address(from));
        frame[12..14].copy_from_slice(&EXPERIMENTAL);
        frame[14..HEADER].copy_from_slice(&number.to_be_bytes());
        let payload = length - HEADER;
        frame[HEADER..length].copy_from_slice(&self.bytes[start..start + payload]);
        &frame[..length]
    }
}

/// Lengths from the shortest to the longest, every one of them, mixed.
fn length(number: u64) -> usize {
    let sizes = LONGEST - SHORTEST + 1;
    SHORTEST + usize::try_from(number * 619 % sizes as u64).unwrap_or(0)
}

fn difference(number: u64, got: &[u8], expected: &[u8]) -> String {
    let at = got.iter().zip(expected).position(|(a, b)| a != b);
    let named = got
        .get(14..HEADER)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u64::from_be_bytes);
    format!(
        "frame {number}: got {} bytes, number {named:?}, expected {}; the first wrong byte is {at:?}",
        got.len(),
        expected.len()
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::super::cable::Socket;
    use super::*;

    #[test]
    fn every_length_occurs() {
        let mut lengths: Vec<usize> = (0..1455).map(length).collect();
        lengths.sort_unstable();
        lengths.dedup();
        assert_eq!((lengths.len(), lengths[0]), (1455, SHORTEST));
        assert_eq!(lengths.last(), Some(&LONGEST));
    }

    /// A forwarder in a thread, which `spoil`s frames by number.
    fn through(frames: u64, spoil: fn(u64, Vec<u8>) -> Option<Vec<u8>>) -> Result<Throughput> {
        let qemu = crate::MachineKind::Qemu;
        let cables = [Cable::new(qemu)?, Cable::new(qemu)?];
        let plug = |cable: &Cable| {
            let nic = cable.nic(crate::machine::NicModel::Virtio);
            let (_, path) = nic.netdev.rsplit_once('=').unwrap();
            End::new(Socket::Stream(UnixStream::connect(path).unwrap())).unwrap()
        };
        let ends = [plug(&cables[0]), plug(&cables[1])];
        let [one, other] = ends.map(|end| end.split().unwrap());
        for (mut into, mut out) in [(one.0, other.1), (other.0, one.1)] {
            thread::spawn(move || {
                let mut number = 0;
                while into.fill(Duration::from_secs(5)).unwrap_or(false) {
                    while let Ok(Some(frame)) = into.take() {
                        let mut frame = frame.to_vec();
                        let (to, rest) = frame.split_at_mut(6);
                        to.swap_with_slice(&mut rest[..6]);
                        if let Some(frame) = spoil(number, frame) {
                            out.put(&frame);
                        }
                        number += 1;
                    }
                    if out.flush().is_err() {
                        return;
                    }
                }
            });
        }
        Generator::new(frames)
            .patience(1)
            .run(&cables[0], &cables[1])
    }

    #[test]
    fn what_comes_back_right_is_counted() {
        let result = through(5000, |_, frame| Some(frame)).unwrap();
        assert_eq!(result.frames, 5000);
        assert!(result.bytes > 5000 * 60);
    }

    #[test]
    fn what_does_not_is_told() {
        let error = |spoil| format!("{:#}", through(1000, spoil).unwrap_err());
        let wrong = error(|number, mut frame| {
            if number == 100 {
                *frame.last_mut().unwrap() ^= 1;
            }
            Some(frame)
        });
        assert!(
            wrong.contains("frame 100:") && wrong.contains("wrong byte"),
            "{wrong}"
        );
        let lost = error(|number, frame| (number != 499).then_some(frame));
        assert!(
            lost.contains("frame 499 of 500 has not come back"),
            "{lost}"
        );
        let missing = error(|number, frame| (number != 7).then_some(frame));
        assert!(missing.contains("number Some(8)"), "{missing}");
        let short = error(|_, mut frame| {
            frame.pop();
            Some(frame)
        });
        assert!(short.contains("frame 0: got 59 bytes"), "{short}");
    }
}
