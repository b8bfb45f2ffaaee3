//! `list` and `show`.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use crate::device::Device;
use crate::output;
use crate::snapshot::{Core, Partition, get};

/// Numbers, comma-separated.
fn numbers(list: &[u32]) -> String {
    let list: Vec<String> = list.iter().map(u32::to_string).collect();
    list.join(",")
}

/// Names with `|` between them, or `-`.
pub(super) fn names(list: &[&str]) -> String {
    if list.is_empty() {
        "-".into()
    } else {
        list.join("|")
    }
}

/// Bytes in the largest unit that divides them.
fn size(bytes: u64) -> String {
    for (shift, unit) in [(30, 'G'), (20, 'M'), (10, 'K')] {
        if bytes >> shift << shift == bytes && bytes >> shift != 0 {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// `cloister list`.
pub(super) fn list(device: &Device, json: bool) -> Result<()> {
    let machine = device.machine()?;
    if json {
        return output::json(&machine);
    }
    let head = [
        "name",
        "state",
        "cpus",
        "memory",
        "dataplane",
        "exits",
        "since quiesce",
        "interrupts",
        "starts",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for partition in &machine.partitions {
        let own = |core: &&Core| partition.cpus.contains(&core.core);
        let cores: Vec<&Core> = machine.cores.iter().filter(own).collect();
        let sum = |of: fn(&Core) -> u64| cores.iter().map(|core| of(core)).sum::<u64>().to_string();
        let flags = cores
            .first()
            .map_or("-".into(), |core| names(&core.dataplane));
        rows.push(vec![
            partition.name.clone(),
            partition.state.to_owned(),
            numbers(&partition.cpus),
            size(partition.memory),
            flags,
            sum(|core| core.exits),
            sum(|core| core.since_quiesce),
            sum(|core| core.interrupts_since_quiesce),
            partition.starts.to_string(),
        ]);
    }
    output::text(&output::table(&rows))
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    partition: Partition,
    refused_stores: u64,
    cores: Vec<Core>,
}

/// `cloister show NAME`.
pub(super) fn show(device: &Device, name: &str, json: bool) -> Result<()> {
    let partition = device.partition(name)?;
    let mut cores = device.machine()?.cores;
    cores.retain(|core| partition.cpus.contains(&core.core));
    if json {
        return output::json(&Shown {
            refused_stores: get(&device.control()?.refused),
            partition,
            cores,
        });
    }
    let mut text = String::new();
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "{key:<12} {value}");
    };
    line("name", &partition.name);
    line("state", partition.state);
    line("cpus", &numbers(&partition.cpus));
    line("memory", &size(partition.memory));
    line("may ask for", &names(&partition.allowed));
    if partition.debug_imposed {
        line("imposed", "debug");
    }
    line("starts", &partition.starts.to_string());
    line(
        "restarts",
        &format!("{} after violations", partition.restarts),
    );
    if let Some(code) = partition.exit_code {
        line("exit code", &code.to_string());
    }
    if let Some(detail) = &partition.detail {
        line("failed", detail);
    }
    if let Some(violation) = &partition.last_violation {
        line(
            "violations",
            &format!(
                "{}; the last: {} on core {} at rip {}, cr3 {}",
                partition.violations,
                violation.reason,
                violation.core,
                violation.rip,
                violation.cr3
            ),
        );
        for frame in &violation.backtrace {
            line("", &frame.to_string());
        }
    }
    for core in &cores {
        let _ = writeln!(
            text,
            "\ncore {}: {} exits, {} since quiesce, {} interrupts since quiesce, dataplane {}",
            core.core,
            core.exits,
            core.since_quiesce,
            core.interrupts_since_quiesce,
            names(&core.dataplane)
        );
        let head = [
            "reason",
            "total",
            "since quiesce",
            "mean cycles",
            "worst",
            "last rip",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for count in &core.by_reason {
            rows.push(vec![
                count.reason.to_owned(),
                count.total.to_string(),
                count.since_quiesce.to_string(),
                (count.cycles / count.total.max(1)).to_string(),
                count.worst.to_string(),
                count.last_rip.to_string(),
            ]);
        }
        text.push_str(&output::table(&rows));
    }
    output::text(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_in_the_largest_unit_that_divides() {
        assert_eq!(size(64 << 20), "64M");
        assert_eq!(size(3 << 29), "1536M");
        assert_eq!(size(1 << 30), "1G");
        assert_eq!(size(1000), "1000");
        assert_eq!(size(0), "0");
    }
}
