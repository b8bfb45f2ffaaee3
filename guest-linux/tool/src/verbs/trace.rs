//! `trace`: what the cores' rings hold, decoded.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use cloister_abi::Reason;
use cloister_abi::trace::{InterruptKind, TRACE_RECORDS, TraceRecord};
use serde::Serialize;

use crate::address::Address;
use crate::device::Device;
use crate::snapshot::Machine;
use crate::verbs::perfetto;
use crate::{output, signals, symbols};

/// How often rings are looked at: 255 records fit.
const POLL: Duration = Duration::from_millis(20);

/// What to show of which cores.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// A partition; or all cores.
    pub(super) name: Option<&'a str>,
    pub(super) follow: bool,
    /// How long to follow.
    pub(super) limit: Option<Duration>,
    /// Where to export to.
    pub(super) perfetto: Option<&'a Path>,
    pub(super) json: bool,
}

/// One traced exit.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub(super) core: u32,
    pub(super) owner: Option<String>,
    pub(super) sequence: u64,
    pub(super) tsc: u64,
    pub(super) reason: &'static str,
    pub(super) about: String,
    pub(super) rip: Address,
    pub(super) cr3: Address,
    pub(super) cycles: u64,
    /// Return addresses of what was interrupted.
    pub(super) backtrace: Vec<Address>,
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
    let detail = u32::try_from(record.qualification >> 32).unwrap_or(0);
    let sender = match record.sender {
        u32::MAX => String::new(),
        core => format!(" from core {core} at {}", symbols::name(record.sender_rip)),
    };
    let origin = origin(kind, detail);
    format!("vector {} {}{origin}{sender}", record.vector, kind.name())
}

/// The device or pin that `detail` of an interrupt stands for, after a space.
pub(super) fn origin(kind: InterruptKind, detail: u32) -> String {
    match kind {
        InterruptKind::Msi => format!(
            " of {:02x}:{:02x}.{}",
            detail >> 8 & 0xff,
            detail >> 3 & 0x1f,
            detail & 7
        ),
        InterruptKind::IoApic => format!(" pin {detail}"),
        _ => String::new(),
    }
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

/// The rings of some cores, read on and on.
struct Reader<'a> {
    device: &'a Device,
    owners: Vec<(u32, Option<String>)>,
    seen: BTreeMap<u32, u64>,
    /// Records that were overwritten before they were read.
    lost: u64,
}

impl Reader<'_> {
    /// What is new, in order.
    fn read(&mut self) -> Result<Vec<Line>> {
        let mut lines = Vec::new();
        for (core, owner) in &self.owners {
            let from = self.seen.get(core).copied().unwrap_or(0);
            let (records, written) = self.device.trace(*core, from)?;
            if from != 0 {
                let room = TRACE_RECORDS as u64;
                self.lost += written.saturating_sub(from).saturating_sub(room);
            }
            self.seen.insert(*core, written);
            lines.extend(records.into_iter().map(|traced| Line {
                core: *core,
                owner: owner.clone(),
                sequence: traced.record.sequence,
                tsc: traced.record.tsc,
                reason: reason(&traced.record).map_or("unknown", Reason::name),
                about: about(&traced.record),
                rip: Address(traced.record.rip),
                cr3: Address(traced.record.cr3),
                cycles: traced.record.cycles,
                backtrace: traced.frames.into_iter().map(Address).collect(),
            }));
        }
        lines.sort_by_key(|line| line.tsc);
        Ok(lines)
    }
}

/// `cloister trace`.
pub(super) fn trace(device: &Device, request: &Request<'_>) -> Result<()> {
    let machine = device.machine()?;
    let cores = cores(device, &machine, request.name)?;
    let mut reader = Reader {
        device,
        owners: cores
            .into_iter()
            .map(|core| (core, owner(&machine, core)))
            .collect(),
        seen: BTreeMap::new(),
        lost: 0,
    };
    // An export is finished when the user has seen enough; a listing needs
    // nothing more.
    let stop = match request.perfetto {
        Some(_) if request.follow => Some(signals::end()?),
        _ => None,
    };
    let began = Instant::now();
    let mut kept = Vec::new();
    let mut told = 0;
    loop {
        let lines = reader.read()?;
        if request.perfetto.is_some() {
            kept.extend(lines);
        } else {
            show(&lines, request)?;
        }
        if reader.lost > told {
            told = reader.lost;
            eprintln!("{told} records were overwritten before they were read");
        }
        let over = request.limit.is_some_and(|limit| began.elapsed() >= limit);
        let stopped = stop.as_ref().is_some_and(signals::End::asked);
        if !request.follow || over || stopped {
            break;
        }
        std::thread::sleep(POLL);
    }
    match request.perfetto {
        Some(file) => perfetto::export(&machine, &reader.owners, &kept, file, request.json),
        None => Ok(()),
    }
}

fn show(lines: &[Line], request: &Request<'_>) -> Result<()> {
    match (request.json, request.follow) {
        (true, true) => lines.iter().try_for_each(output::json_line),
        (true, false) => output::json(&lines),
        (false, _) if lines.is_empty() => Ok(()),
        (false, _) => output::text(&table(lines)),
    }
}

fn table(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        let owner = line.owner.as_deref().unwrap_or("-");
        text.push_str(&format!(
            "{:>16} core {} {owner} #{} {} {} rip {} cr3 {}, {} cycles\n",
            line.tsc,
            line.core,
            line.sequence,
            line.reason,
            line.about,
            symbols::name(line.rip.0),
            line.cr3,
            line.cycles
        ));
        for frame in &line.backtrace {
            text.push_str(&format!("{:>18} {}\n", "", symbols::name(frame.0)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_told_by_their_reason() {
        let of = |reason: Reason, qualification| {
            about(&TraceRecord {
                reason: reason as u8,
                qualification,
                sender: u32::MAX,
                ..TraceRecord::default()
            })
        };
        assert_eq!(of(Reason::PortIn, 0x60), "port 0x60");
        assert_eq!(of(Reason::Cpuid, 7), "leaf 0x7");
        let interrupt = TraceRecord {
            reason: Reason::Interrupt as u8,
            vector: 0x31,
            source: InterruptKind::Msi as u8,
            qualification: 0x31 | 0x1a << 32,
            sender: 1,
            sender_rip: 0x1000,
            ..TraceRecord::default()
        };
        assert_eq!(
            about(&interrupt),
            "vector 49 msi of 00:03.2 from core 1 at 0x1000"
        );
    }
}
