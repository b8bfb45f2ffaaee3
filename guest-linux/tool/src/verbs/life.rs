//! `start`, `stop`, `restart`, `flags`: a call, and then waiting in the
//! statistics, which disturbs nobody, until it has taken effect.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cloister_abi::control::Operation;
use serde::Serialize;

use crate::device::Device;
use crate::failure::Failure;
use crate::verbs::list::names;
use crate::{output, tsc};

/// How long a call may take to have its effect. A kick takes microseconds,
/// and memory is zeroed at gigabytes a second; emulators are slower.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to look again and again before the processor is left to others,
/// TSC cycles: a kick has had its effect by then.
const SPIN: u64 = 100_000;
/// For how long it is left to them.
const NAP: Duration = Duration::from_micros(50);

#[derive(Serialize)]
struct Done<'a> {
    name: &'a str,
    state: &'static str,
    starts: u64,
    /// Microseconds from the call until it had its effect.
    microseconds: u128,
}

/// What a call took, TSC cycles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    /// Of the call itself, other tools' included that had to end before it.
    pub(super) call: u64,
    /// From the call until it had its effect.
    pub(super) effect: u64,
}

/// Makes the call for partition `index`, and waits until it has its effect.
///
/// # Errors
/// [`Failure::Refused`]; [`Failure::TooLate`].
pub(super) fn perform(device: &Device, index: u8, operation: Operation) -> Result<Taken> {
    let status = device.status(index)?;
    let starts = status.starts.load(Ordering::Acquire);
    let (called, began) = (Instant::now(), tsc::now());
    device.call(operation, index, 0)?;
    let call = tsc::now().wrapping_sub(began);
    loop {
        let done = match operation {
            Operation::Stop => status.inside.load(Ordering::Acquire) == 0,
            _ => status.starts.load(Ordering::Acquire) != starts,
        };
        let effect = tsc::now().wrapping_sub(began);
        if done {
            return Ok(Taken { call, effect });
        }
        if called.elapsed() > PATIENCE {
            return Err(Failure::TooLate(format!(
                "no effect after {} s, with {} cores inside",
                called.elapsed().as_secs(),
                status.inside.load(Ordering::Relaxed)
            ))
            .into());
        }
        if effect > SPIN {
            std::thread::sleep(NAP);
        }
    }
}

fn act(device: &Device, name: &str, json: bool, operation: Operation) -> Result<()> {
    let index = device.partition(name)?.index;
    let called = Instant::now();
    perform(device, index, operation).with_context(|| name.to_owned())?;
    let microseconds = called.elapsed().as_micros();
    let now = device.partition(name)?;
    if json {
        return output::json(&Done {
            name,
            state: now.state,
            starts: now.starts,
            microseconds,
        });
    }
    output::text(&format!("{name}: {}\n", now.state))
}

/// `cloister start NAME`.
pub(super) fn start(device: &Device, name: &str, json: bool) -> Result<()> {
    act(device, name, json, Operation::Start)
}

/// `cloister stop NAME`.
pub(super) fn stop(device: &Device, name: &str, json: bool) -> Result<()> {
    act(device, name, json, Operation::Stop)
}

/// `cloister restart NAME`.
pub(super) fn restart(device: &Device, name: &str, json: bool) -> Result<()> {
    act(device, name, json, Operation::Restart)
}

#[derive(Serialize)]
struct Flags<'a> {
    name: &'a str,
    allowed: Vec<&'static str>,
    debug_imposed: bool,
    cores: Vec<CoreFlags>,
}

#[derive(Serialize)]
struct CoreFlags {
    core: u32,
    dataplane: Vec<&'static str>,
}

/// `cloister flags NAME [--set FLAG]`.
pub(super) fn flags(device: &Device, name: &str, set: Option<&str>, json: bool) -> Result<()> {
    let partition = device.partition(name)?;
    if let Some(flag) = set {
        let on = u32::from(flag == "debug");
        device.call(Operation::Debug, partition.index, on)?;
    }
    let partition = device.partition(name)?;
    let mut cores = device.machine()?.cores;
    cores.retain(|core| partition.cpus.contains(&core.core));
    if json {
        return output::json(&Flags {
            name,
            allowed: partition.allowed,
            debug_imposed: partition.debug_imposed,
            cores: cores
                .into_iter()
                .map(|core| CoreFlags {
                    core: core.core,
                    dataplane: core.dataplane,
                })
                .collect(),
        });
    }
    let imposed = if partition.debug_imposed {
        "debug"
    } else {
        "-"
    };
    let mut rows = vec![
        ["core", "in force", "may ask for", "imposed"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for core in cores {
        rows.push(vec![
            core.core.to_string(),
            names(&core.dataplane),
            names(&partition.allowed),
            imposed.to_owned(),
        ]);
    }
    output::text(&output::table(&rows))
}
