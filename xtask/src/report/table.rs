//! The table that people read at the end of a run.

use std::fmt::{self, Write};

use super::{Partition, Report, Violation, dma, watch};

/// Writes table, partitions' results and violations.
///
/// # Errors
/// Those of `out`.
pub fn print(report: &Report, out: &mut dyn Write) -> fmt::Result {
    let platform = &report.platform;
    write!(
        out,
        "\n{} on {} ({}), {} cores",
        report.outcome.name(),
        platform.machine,
        platform.accel,
        platform.cpus
    )?;
    if !platform.vendor.is_empty() {
        write!(out, ", {}", platform.vendor)?;
    }
    if let Some(iommu) = &report.iommu {
        write!(out, ", {iommu}")?;
    }
    write!(out, ", {:.1} s", report.seconds)?;
    if !report.detail.is_empty() {
        write!(out, ": {}", report.detail)?;
    }
    writeln!(out)?;
    cores(report, out)?;
    if let Some(linux) = &report.linux {
        write!(out, "linux: {}", linux.state.name())?;
        if let Some(seconds) = linux.boot_seconds {
            write!(out, ", user space after {seconds:.1} s")?;
        }
        if let Some(status) = linux.run_status {
            write!(out, ", command ended with status {status}")?;
        }
        writeln!(out)?;
    }
    for partition in &report.partitions {
        result(partition, out)?;
    }
    watch::print(report, out)?;
    dma::print(report, out)?;
    refusals(report, out)
}

/// The most kinds of refusals that are shown; all are in the JSON.
const REFUSALS: usize = 12;

fn refusals(report: &Report, out: &mut dyn Write) -> fmt::Result {
    let mut kinds: Vec<(String, u64, u64)> = Vec::new();
    for refused in &report.refused {
        let kind = format!("{}: {} {}", refused.owner, refused.reason, refused.detail);
        match kinds.iter_mut().find(|(known, _, _)| *known == kind) {
            Some((_, _, count)) => *count += 1,
            None => kinds.push((kind, refused.rip, 1)),
        }
    }
    for (kind, rip, count) in kinds.iter().take(REFUSALS) {
        let times = if *count > 1 {
            format!(", {count} times")
        } else {
            String::new()
        };
        writeln!(out, "refused to {kind} (first at {rip:#x}{times})")?;
    }
    if kinds.len() > REFUSALS {
        writeln!(out, "refused: {} more kinds", kinds.len() - REFUSALS)?;
    }
    Ok(())
}

fn cores(report: &Report, out: &mut dyn Write) -> fmt::Result {
    if report.cores.is_empty() {
        return Ok(());
    }
    let mut rows = vec![
        [
            "core",
            "owner",
            "state",
            "dataplane",
            "exits",
            "since quiesce",
            "interrupts",
            "reasons",
        ]
        .map(str::to_owned),
    ];
    for core in &report.cores {
        let state = match report.partition(&core.owner) {
            Ok(partition) => partition.state.name(),
            Err(_) => report.linux.as_ref().map_or("", |linux| linux.state.name()),
        };
        let quiet = core.quiesce_count > 0;
        let since = |count: u64| if quiet { count.to_string() } else { "-".into() };
        let reasons: Vec<String> = core
            .reasons
            .iter()
            .take(4)
            .map(|totals| format!("{} {}", totals.reason, totals.total))
            .collect();
        let flags = core.dataplane.join("|");
        rows.push([
            core.core.to_string(),
            core.owner.clone(),
            state.to_owned(),
            if flags.is_empty() { "-".into() } else { flags },
            core.exits.total.to_string(),
            since(core.exits.since_quiesce),
            since(core.interrupts_since_quiesce),
            reasons.join(", "),
        ]);
    }
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            // Numbers to the right.
            match column {
                0 | 4..=6 => write!(line, "{cell:>width$}  ")?,
                _ => write!(line, "{cell:<width$}  ")?,
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

fn result(partition: &Partition, out: &mut dyn Write) -> fmt::Result {
    write!(out, "{}: {}", partition.name, partition.state.name())?;
    if let Some(code) = partition.exit_code {
        write!(out, " with code {code}")?;
    }
    if partition.restarts > 0 {
        write!(out, ", {} restarts", partition.restarts)?;
    }
    if !partition.detail.is_empty() {
        write!(out, ": {}", partition.detail)?;
    }
    writeln!(out)?;
    for device in &partition.devices {
        writeln!(
            out,
            "  has {} ({}), DMA {}",
            device.address, device.id, device.dma
        )?;
    }
    partition
        .violations
        .iter()
        .try_for_each(|violation| breach(violation, out))
}

fn breach(violation: &Violation, out: &mut dyn Write) -> fmt::Result {
    writeln!(
        out,
        "  violation on core {}: {} ({}) at {}, cr3 {}, tsc {}",
        violation.core,
        violation.reason,
        violation.detail,
        violation.rip,
        violation.cr3,
        violation.tsc
    )?;
    for (frame, address) in violation.backtrace.iter().enumerate() {
        let symbol = violation.symbols.get(frame).map_or("", String::as_str);
        writeln!(out, "  {frame:>4}: {address:<18} {symbol}")?;
    }
    Ok(())
}
