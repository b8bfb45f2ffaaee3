//! `start`, `stop`, `restart`, `flags`: a call, and then waiting in the
//! statistics, which disturbs nobody, until it has taken effect.

use std::time::{Duration, Instant};

use anyhow::Result;
use cloister_abi::control::Operation;
use serde::Serialize;

use crate::device::Device;
use crate::failure::Failure;
use crate::output;
use crate::snapshot::Partition;
use crate::verbs::list::names;

/// How long a call may take to have its effect. A kick takes microseconds,
/// and memory is zeroed at gigabytes a second; emulators are slower.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Serialize)]
struct Done<'a> {
    name: &'a str,
    state: &'static str,
    starts: u64,
    /// Microseconds from the call until it had its effect.
    microseconds: u128,
}

/// Makes the call and waits until `done`.
fn act(
    device: &Device,
    name: &str,
    json: bool,
    operation: Operation,
    done: impl Fn(&Partition, &Partition) -> bool,
) -> Result<()> {
    let before = device.partition(name)?;
    let called = Instant::now();
    device.call(operation, before.index, 0)?;
    loop {
        let now = device.partition(name)?;
        let taken = called.elapsed();
        if done(&before, &now) {
            if json {
                return output::json(&Done {
                    name,
                    state: now.state,
                    starts: now.starts,
                    microseconds: taken.as_micros(),
                });
            }
            return output::text(&format!("{name}: {}\n", now.state));
        }
        if taken > PATIENCE {
            return Err(Failure::TooLate(format!(
                "{name} is {} after {} s, with {} cores inside",
                now.state,
                taken.as_secs(),
                now.inside
            ))
            .into());
        }
        std::thread::yield_now();
    }
}

fn was_started(before: &Partition, now: &Partition) -> bool {
    now.starts > before.starts
}

/// `cloister start NAME`.
pub(super) fn start(device: &Device, name: &str, json: bool) -> Result<()> {
    act(device, name, json, Operation::Start, was_started)
}

/// `cloister stop NAME`.
pub(super) fn stop(device: &Device, name: &str, json: bool) -> Result<()> {
    act(device, name, json, Operation::Stop, |_, now| {
        now.inside == 0
    })
}

/// `cloister restart NAME`.
pub(super) fn restart(device: &Device, name: &str, json: bool) -> Result<()> {
    act(device, name, json, Operation::Restart, was_started)
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
