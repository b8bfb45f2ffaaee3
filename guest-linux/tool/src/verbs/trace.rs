//! `trace`: what the cores' rings hold, decoded.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use cloister_abi::Reason;
use cloister_abi::trace::{InterruptKind, TRACE_RECORDS, TraceRecord};
use serde::Serialize;
use serde_json::{Value, json};

use crate::device::Device;
use crate::output;
use crate::snapshot::{Machine, Traced};

/// How often rings are looked at: 255 records fit.
const POLL: Duration = Duration::from_millis(20);
/// TSC frequency where the machine tells none: cycles then count as
/// nanoseconds.
const UNKNOWN_HZ: u64 = 1_000_000_000;

/// One traced exit.
#[derive(Serialize)]
struct Line {
    core: u32,
    owner: Option<String>,
    sequence: u64,
    tsc: u64,
    reason: &'static str,
    about: String,
    rip: u64,
    cr3: u64,
    cycles: u64,
    /// Return addresses of what was interrupted.
    backtrace: Vec<u64>,
}

fn reason(record: &TraceRecord) -> Option<Reason> {
    Reason::ALL.get(usize::from(record.reason)).copied()
}

/// What the exit was about, as its reason has it.
fn about(record: &TraceRecord) -> String {
    let value = record.qualification;
    match reason(record) {
        Some(Reason::Cpuid) => format!("leaf {value:#x}"),
        Some(Reason::Rdmsr | Reason::Wrmsr) => format!("msr {value:#x}"),
        Some(Reason::PortIn | Reason::PortOut) => format!("port {value:#x}"),
        Some(Reason::Xsetbv) => format!("xcr{value}"),
        Some(Reason::Hypercall) => format!("number {value}"),
        Some(Reason::NestedPageFault | Reason::ApicWrite) => format!("gpa {value:#x}"),
        Some(Reason::Exception | Reason::Sipi) => format!("vector {value}"),
        Some(Reason::Interrupt | Reason::Nmi) => interrupter(record),
        _ if value != 0 => format!("{value:#x}"),
        _ => String::new(),
    }
}

/// Vector, kind of source, and who it is.
fn interrupter(record: &TraceRecord) -> String {
    let kind = InterruptKind::from_code(record.source);
    let value = record.qualification >> 32;
    let who = match kind {
        InterruptKind::Msi => format!(
            " of {:02x}:{:02x}.{}",
            value >> 8 & 0xff,
            value >> 3 & 0x1f,
            value & 7
        ),
        InterruptKind::IoApic => format!(" interrupt {value}"),
        _ => String::new(),
    };
    let sender = match record.sender {
        u32::MAX => String::new(),
        core => format!(" from core {core} at rip {:#x}", record.sender_rip),
    };
    format!("vector {} {}{who}{sender}", record.vector, kind.name())
}

/// The cores to look at.
fn cores(device: &Device, machine: &Machine, name: Option<&str>) -> Result<Vec<u32>> {
    match name {
        Some(name) => Ok(device.partition(name)?.cpus),
        None => Ok(machine.cores.iter().map(|core| core.core).collect()),
    }
}

fn owner(machine: &Machine, number: u32) -> Option<String> {
    let core = machine.cores.iter().find(|core| core.core == number);
    core.and_then(|core| core.owner.clone())
}

/// `cloister trace [NAME] [-f]`.
pub(super) fn show(device: &Device, name: Option<&str>, follow: bool, json: bool) -> Result<()> {
    let machine = device.machine()?;
    let cores = cores(device, &machine, name)?;
    let mut seen: BTreeMap<u32, u64> = BTreeMap::new();
    loop {
        let mut lines = Vec::new();
        for &core in &cores {
            let from = seen.get(&core).copied().unwrap_or(0);
            let (records, written) = device.trace(core, from)?;
            if from != 0 && written.saturating_sub(from) > TRACE_RECORDS as u64 {
                eprintln!("core {core}: records were overwritten before they were read");
            }
            seen.insert(core, written);
            lines.extend(records.into_iter().map(|traced| Line {
                core,
                owner: owner(&machine, core),
                sequence: traced.record.sequence,
                tsc: traced.record.tsc,
                reason: reason(&traced.record).map_or("unknown", Reason::name),
                about: about(&traced.record),
                rip: traced.record.rip,
                cr3: traced.record.cr3,
                cycles: traced.record.cycles,
                backtrace: traced.frames,
            }));
        }
        lines.sort_by_key(|line| line.tsc);
        if json {
            if follow {
                lines.iter().try_for_each(output::json)?;
            } else {
                output::json(&lines)?;
            }
        } else if !lines.is_empty() {
            output::text(&table(&lines))?;
        }
        if !follow {
            return Ok(());
        }
        std::thread::sleep(POLL);
    }
}

fn table(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        let owner = line.owner.as_deref().unwrap_or("-");
        text.push_str(&format!(
            "{:>16} core {} {owner} #{} {} {} rip {:#x} cr3 {:#x}, {} cycles\n",
            line.tsc,
            line.core,
            line.sequence,
            line.reason,
            line.about,
            line.rip,
            line.cr3,
            line.cycles
        ));
        for frame in &line.backtrace {
            text.push_str(&format!("{:>18} {frame:#x}\n", ""));
        }
    }
    text
}

/// `cloister trace [NAME] --perfetto FILE`: the Trace Event Format's complete
/// events, one track for each core.
pub(super) fn perfetto(device: &Device, name: Option<&str>, file: &Path) -> Result<()> {
    let machine = device.machine()?;
    let hz = if machine.tsc_hz == 0 {
        UNKNOWN_HZ
    } else {
        machine.tsc_hz
    };
    let mut events = Vec::new();
    let mut count = 0;
    for core in cores(device, &machine, name)? {
        let owner = owner(&machine, core).unwrap_or_else(|| "nobody".into());
        events.push(json!({
            "name": "thread_name", "ph": "M", "pid": 1, "tid": core,
            "args": { "name": format!("core {core} ({owner})") },
        }));
        let (records, _) = device.trace(core, 0)?;
        count += records.len();
        events.extend(records.iter().map(|traced| event(core, traced, hz)));
    }
    events.push(json!({
        "name": "process_name", "ph": "M", "pid": 1, "args": { "name": "Cloister" },
    }));
    let trace = json!({ "displayTimeUnit": "ns", "traceEvents": events });
    let out = File::create(file).with_context(|| format!("cannot create {}", file.display()))?;
    serde_json::to_writer(BufWriter::new(out), &trace)
        .with_context(|| format!("cannot write {}", file.display()))?;
    output::text(&format!("{}: {count} exits\n", file.display()))
}

fn event(core: u32, traced: &Traced, hz: u64) -> Value {
    let record = &traced.record;
    let backtrace = traced.frames.iter().map(|frame| format!("{frame:#x}"));
    json!({
        "name": reason(record).map_or("unknown", Reason::name),
        "cat": "exit",
        "ph": "X",
        "pid": 1,
        "tid": core,
        "ts": microseconds(record.tsc, hz),
        "dur": microseconds(record.cycles, hz),
        "args": {
            "about": about(record),
            "rip": format!("{:#x}", record.rip),
            "cr3": format!("{:#x}", record.cr3),
            "cycles": record.cycles,
            "sequence": record.sequence,
            "backtrace": backtrace.collect::<Vec<String>>(),
        },
    })
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the format's times are fractions"
)]
fn microseconds(cycles: u64, hz: u64) -> f64 {
    cycles as f64 * 1e6 / hz as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_what_chrome_wants() {
        let record = TraceRecord {
            sequence: 7,
            tsc: 3_000_000,
            cycles: 3000,
            qualification: 0x60,
            reason: Reason::PortIn as u8,
            sender: u32::MAX,
            ..TraceRecord::default()
        };
        let traced = Traced {
            record,
            frames: vec![0x10_0000],
        };
        let event = event(2, &traced, 3_000_000_000);
        assert_eq!(event["ph"], "X");
        assert_eq!(event["tid"], 2);
        assert_eq!(event["ts"], 1000.0);
        assert_eq!(event["dur"], 1.0);
        assert_eq!(event["name"], "port-in");
        assert_eq!(event["args"]["about"], "port 0x60");
    }
}
