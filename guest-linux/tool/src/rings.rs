//! What the cores and partitions write into rings and tables: consoles,
//! traced exits, interrupters.

use std::sync::atomic::Ordering;

use anyhow::Result;
use cloister_abi::interrupts::InterruptTable;
use cloister_abi::shared::{CONSOLE_BYTES, ConsoleRing};
use cloister_abi::trace::{CONTINUATION, TraceRecord, TraceRing};

use crate::device::Device;
use crate::snapshot::{get32, offset};

impl Device {
    /// Who interrupted core `number`, live.
    ///
    /// # Errors
    /// The table lies outside the area.
    pub(crate) fn interrupts(&self, number: u32) -> Result<&InterruptTable> {
        let base = get32(&self.header()?.interrupts);
        let at = offset(base, number as usize, size_of::<InterruptTable>());
        self.statistics().view(at)
    }

    /// Adds to `text` what partition `index` has printed from position `from`
    /// on, as far as it is still there; returns the next position. A position
    /// beyond what was written starts over: the partition has been restarted.
    ///
    /// # Errors
    /// The ring lies outside the area.
    pub(crate) fn console(&self, index: u8, from: u64, text: &mut Vec<u8>) -> Result<u64> {
        let base = get32(&self.header()?.consoles);
        let at = offset(base, usize::from(index), size_of::<ConsoleRing>());
        let ring: &ConsoleRing = self.statistics().view(at)?;
        let size = CONSOLE_BYTES as u64;
        let written = ring.written.load(Ordering::Acquire);
        let from = if from > written { 0 } else { from };
        for position in from.max(written.saturating_sub(size))..written {
            let slot = usize::try_from(position % size)?;
            if let Some(byte) = ring.bytes.get(slot) {
                text.push(byte.load(Ordering::Relaxed));
            }
        }
        Ok(written)
    }

    /// The traced exits of core `number` after the record numbered `seen` that
    /// are still there, oldest first, and how many records there ever were.
    ///
    /// # Errors
    /// The ring lies outside the area.
    pub(crate) fn trace(&self, number: u32, seen: u64) -> Result<(Vec<Traced>, u64)> {
        let base = get32(&self.header()?.traces);
        let at = offset(base, number as usize, size_of::<TraceRing>());
        let ring: &TraceRing = self.statistics().view(at)?;
        let mut traced: Vec<Traced> = Vec::new();
        let (written, _) = ring.read(|record| {
            if record.sequence <= seen {
                return;
            }
            if record.reason != CONTINUATION {
                traced.push(Traced::new(record));
            } else if let Some(last) = traced.last_mut() {
                let missing = usize::from(last.record.frames).saturating_sub(last.frames.len());
                let frames = record.continued();
                last.frames.extend(frames.iter().take(missing));
            }
        });
        Ok((traced, written))
    }
}

/// A traced exit, with the guest's return addresses where they were taken.
#[derive(Clone, Debug)]
pub(crate) struct Traced {
    pub(crate) record: TraceRecord,
    pub(crate) frames: Vec<u64>,
}

impl Traced {
    fn new(record: &TraceRecord) -> Self {
        let known = record.frames != 0;
        Self {
            record: *record,
            // The first return address is RIP itself.
            frames: known.then_some(record.rip).into_iter().collect(),
        }
    }
}
