//! A loop on the watched CPU that reads the time-stamp counter: what takes the
//! CPU away shows as a gap, and the interrupts that came within it name it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Result, anyhow};
use cloister_abi::interrupts::SOURCES;

use crate::device::Device;
use crate::tsc;
use crate::verbs::watch::settle_on;

/// A gap of fewer cycles holds no interrupt: an exit and its handling take
/// more.
const NOTHING: u64 = 1000;

/// What the loop has seen.
#[derive(Debug)]
pub(super) struct Gaps {
    /// Rounds of the loop.
    pub(super) rounds: u64,
    /// The longest gap in which each source came, by place; cycles.
    pub(super) by_place: [u64; SOURCES],
    /// The longest of all.
    pub(super) worst: u64,
    /// The longest gap without any interrupt.
    pub(super) unnamed: u64,
}

/// The loop, running.
#[derive(Debug)]
pub(super) struct Measuring {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Gaps>>,
}

/// Starts the loop on `cpu`, which is core `core`.
///
/// # Errors
/// There is no thread to be had, or no statistics.
pub(super) fn start(device: &Device, cpu: u32, core: u32) -> Result<Measuring> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let device = device.again()?;
    let thread = std::thread::Builder::new().spawn(move || {
        settle_on(cpu)?;
        measure(&device, core, &asked)
    })?;
    Ok(Measuring { stop, thread })
}

impl Measuring {
    /// Ends the loop.
    pub(super) fn stop(self) -> Result<Gaps> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the measuring thread panicked"))?
    }
}

fn measure(device: &Device, core: u32, stop: &AtomicBool) -> Result<Gaps> {
    let table = device.interrupts(core)?;
    let mut gaps = Gaps {
        rounds: 0,
        by_place: [0; SOURCES],
        worst: 0,
        unnamed: 0,
    };
    let mut last = tsc::now();
    while !stop.load(Ordering::Relaxed) {
        gaps.rounds += 1;
        let now = tsc::now();
        let gap = now.wrapping_sub(last);
        if gap < NOTHING {
            last = now;
            continue;
        }
        gaps.worst = gaps.worst.max(gap);
        let mut named = false;
        for (entry, worst) in table.sources.iter().zip(&mut gaps.by_place) {
            let at = entry.tsc.load(Ordering::Relaxed);
            if at.wrapping_sub(last) <= gap && entry.count.load(Ordering::Relaxed) != 0 {
                *worst = gap.max(*worst);
                named = true;
            }
        }
        if !named {
            gaps.unnamed = gaps.unnamed.max(gap);
        }
        last = tsc::now();
    }
    Ok(gaps)
}
