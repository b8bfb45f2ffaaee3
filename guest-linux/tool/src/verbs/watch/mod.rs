//! `watch`: who interrupts one of Linux's own CPUs.

mod gaps;
mod table;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cloister_abi::control::{Operation, WATCH_SHIFT};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::device::Device;
use crate::failure::Failure;
use crate::{signals, tsc};
use gaps::Gaps;

/// How long DEBUG outlives a tool that was killed.
const LEASE: Duration = Duration::from_secs(4);
/// How often it is extended.
const RENEWAL: Duration = Duration::from_millis(500);
/// How long a CPU may take to begin.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// What was seen of a CPU.
struct Seen {
    cpu: u32,
    core: u32,
    /// Physical cores by Linux's CPU numbers.
    cpus: Vec<u32>,
    seconds: f64,
    tsc_hz: u64,
    /// New interrupts by place in the core's table.
    counts: BTreeMap<usize, u64>,
    others: u64,
    /// What the loop measured; none if it did not run.
    gaps: Option<Gaps>,
}

/// `cloister watch`.
pub(super) fn watch(
    device: &Device,
    cpu: u32,
    time: Duration,
    passive: bool,
    json: bool,
) -> Result<()> {
    let machine = device.machine()?;
    let Some(&core) = machine.linux.get(cpu as usize) else {
        bail!(
            "Linux has the CPUs 0 to {}, not {cpu}",
            machine.linux.len().saturating_sub(1)
        );
    };
    let _alone = device.lock_watch()?;
    let end = signals::end()?;
    keep_off(cpu)?;
    let tsc_hz = tsc::frequency(machine.tsc_hz);
    let lease = Lease {
        device,
        core: u8::try_from(core)?,
        argument: units(tsc_hz),
    };
    lease.renew()?;
    begun(device, core, cpu)?;
    let measuring = (!passive)
        .then(|| gaps::start(device, cpu, core))
        .transpose()?;
    let before = read(device, core)?;
    let since = Instant::now();
    let mut renewed = since;
    while since.elapsed() < time && !end.asked() {
        let left = time.saturating_sub(since.elapsed());
        std::thread::sleep(left.min(POLL));
        if renewed.elapsed() >= RENEWAL {
            lease.renew()?;
            renewed = Instant::now();
        }
    }
    let seconds = since.elapsed().as_secs_f64();
    let after = read(device, core)?;
    let gaps = measuring.map(gaps::Measuring::stop).transpose()?;
    drop(lease);
    let new = |place: &usize, count: u64| count - before.0.get(place).copied().unwrap_or(0);
    let counts = after
        .0
        .iter()
        .map(|(place, count)| (*place, new(place, *count)));
    let seen = Seen {
        cpu,
        core,
        cpus: machine.linux,
        seconds,
        tsc_hz,
        counts: counts.filter(|(_, count)| *count != 0).collect(),
        others: after.1 - before.1,
        gaps,
    };
    table::print(device.interrupts(core)?, &seen, json)
}

/// DEBUG on a core, for as long as this lives and is renewed.
struct Lease<'a> {
    device: &'a Device,
    core: u8,
    argument: u32,
}

impl Lease<'_> {
    fn renew(&self) -> Result<()> {
        self.device.call(Operation::Watch, self.core, self.argument)
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        // If not, it ends by itself.
        let _ = self.device.call(Operation::Watch, self.core, 0);
    }
}

/// [`LEASE`] as the call wants it.
fn units(tsc_hz: u64) -> u32 {
    let cycles = tsc_hz.saturating_mul(LEASE.as_secs());
    u32::try_from((cycles >> WATCH_SHIFT).max(1)).unwrap_or(u32::MAX)
}

/// Waits until the core's interrupts exit.
fn begun(device: &Device, core: u32, cpu: u32) -> Result<()> {
    let since = Instant::now();
    while device.interrupts(core)?.watching.load(Ordering::Acquire) == 0 {
        if since.elapsed() > PATIENCE {
            return Err(Failure::TooLate(format!(
                "CPU {cpu} (core {core}) does not answer; is it online?"
            ))
            .into());
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// How often each source came, by its place, and how many came from others.
fn read(device: &Device, core: u32) -> Result<(BTreeMap<usize, u64>, u64)> {
    let table = device.interrupts(core)?;
    let counts = table.sources();
    let counts = counts.map(|(place, _, entry)| (place, entry.count.load(Ordering::Relaxed)));
    Ok((counts.collect(), table.others.load(Ordering::Relaxed)))
}

/// Has this thread run on other CPUs than `cpu`, if there are any, so that it
/// is not what disturbs it.
fn keep_off(cpu: u32) -> Result<()> {
    let mut others = sched_getaffinity(None).context("cannot ask for the CPUs")?;
    others.unset(cpu as usize);
    if others.count() != 0 {
        sched_setaffinity(None, &others).context("cannot choose a CPU")?;
    }
    Ok(())
}

/// Has this thread run on `cpu` alone.
fn settle_on(cpu: u32) -> Result<()> {
    let mut one = CpuSet::new();
    one.set(cpu as usize);
    sched_setaffinity(None, &one).with_context(|| format!("cannot run on CPU {cpu}"))
}
