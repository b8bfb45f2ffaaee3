//! `cycle`: a partition's life, over and over, and what each call took.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use cloister_abi::control::Operation;
use serde::Serialize;

use crate::device::Device;
use crate::output;
use crate::tsc;
use crate::verbs::life::{Taken, perform};
use crate::verbs::program;

#[derive(Serialize)]
struct Cycled<'a> {
    name: &'a str,
    rounds: u64,
    seconds: f64,
    /// Bytes of the hypervisor's memory that were handed out meanwhile.
    memory_taken: u64,
    operations: Vec<Summary>,
}

/// What one kind of call took, TSC cycles.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Summary {
    operation: &'static str,
    count: usize,
    call: Spread,
    /// From the call until it had its effect.
    effect: Spread,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Spread {
    min: u64,
    median: u64,
    max: u64,
}

/// `cloister cycle NAME`.
pub(super) fn cycle(
    device: &Device,
    name: &str,
    rounds: u64,
    file: Option<&Path>,
    json: bool,
) -> Result<()> {
    let index = device.partition(name)?.index;
    let image = file.map(program::image).transpose()?;
    let memory = device.machine()?.memory_left;
    let mut taken: [(&str, Vec<Taken>); 4] =
        ["stop", "load", "start", "restart"].map(|name| (name, Vec::new()));
    let began = Instant::now();
    for round in 0..rounds {
        let [stop, load, start, restart] = &mut taken;
        let say = || format!("{name}, round {round}");
        if let Some(took) = stop_if_running(device, name).with_context(say)? {
            stop.1.push(took);
        }
        if let Some(image) = &image {
            let before = tsc::now();
            device.load(index, image).with_context(say)?;
            let call = tsc::now().wrapping_sub(before);
            load.1.push(Taken { call, effect: call });
        }
        start
            .1
            .push(perform(device, index, Operation::Start).with_context(say)?);
        restart
            .1
            .push(perform(device, index, Operation::Restart).with_context(say)?);
    }
    let cycled = Cycled {
        name,
        rounds,
        seconds: began.elapsed().as_secs_f64(),
        memory_taken: memory.saturating_sub(device.machine()?.memory_left),
        operations: taken
            .into_iter()
            .filter(|(_, all)| !all.is_empty())
            .map(|(operation, all)| Summary::new(operation, &all))
            .collect(),
    };
    if json {
        return output::json(&cycled);
    }
    output::text(&text(&cycled))
}

/// Stops the partition; `None` if it has ended by itself.
fn stop_if_running(device: &Device, name: &str) -> Result<Option<Taken>> {
    loop {
        let partition = device.partition(name)?;
        if partition.state == "running" {
            match perform(device, partition.index, Operation::Stop) {
                Ok(took) => return Ok(Some(took)),
                // It may have ended meanwhile.
                Err(error) if device.partition(name)?.state == "running" => return Err(error),
                Err(_) => {}
            }
        } else if partition.inside == 0 {
            return Ok(None);
        }
        std::thread::yield_now();
    }
}

impl Summary {
    fn new(operation: &'static str, all: &[Taken]) -> Self {
        Self {
            operation,
            count: all.len(),
            call: Spread::new(all.iter().map(|taken| taken.call).collect()),
            effect: Spread::new(all.iter().map(|taken| taken.effect).collect()),
        }
    }
}

impl Spread {
    fn new(mut all: Vec<u64>) -> Self {
        all.sort_unstable();
        let at = |place: usize| all.get(place).copied().unwrap_or(0);
        Self {
            min: at(0),
            median: at(all.len() / 2),
            max: at(all.len().saturating_sub(1)),
        }
    }
}

fn text(cycled: &Cycled<'_>) -> String {
    let head = [
        "call",
        "count",
        "min",
        "median",
        "max",
        "effect min",
        "median",
        "max",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for of in &cycled.operations {
        let numbers = [
            of.call.min,
            of.call.median,
            of.call.max,
            of.effect.min,
            of.effect.median,
            of.effect.max,
        ];
        let mut row = vec![of.operation.to_owned(), of.count.to_string()];
        row.extend(numbers.map(|number| number.to_string()));
        rows.push(row);
    }
    format!(
        "{}: {} rounds in {:.1} s; {} bytes of the hypervisor's memory taken; TSC cycles:\n{}",
        cycled.name,
        cycled.rounds,
        cycled.seconds,
        cycled.memory_taken,
        output::table(&rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads() {
        let spread = |all: &[u64]| Spread::new(all.to_vec());
        let three = Spread {
            min: 1,
            median: 2,
            max: 9,
        };
        assert_eq!(spread(&[9, 1, 2]), three);
        assert_eq!(spread(&[]), Spread::default());
    }
}
