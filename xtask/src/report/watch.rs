//! What was refused, and who interrupted whom, with names where they are known.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};

use super::{Hex, Report};
use crate::symbols::Symbols;

/// Something that a guest reached for and did not get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// `linux`, or the partition.
    pub owner: String,
    /// Physical core number.
    pub core: u32,
    /// Name of the reason.
    pub reason: String,
    /// What it reached for.
    pub detail: String,
    /// Guest RIP.
    pub rip: u64,
    /// Return addresses, innermost first; the first is RIP.
    pub backtrace: Vec<Hex>,
    /// The backtrace as `function+0x12`, where it is known.
    pub symbols: Vec<String>,
}

/// One interrupt that was caught (DEBUG, `linux.debug`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupt {
    /// Physical core number.
    pub core: u32,
    /// Number of the trace record of its exit.
    pub sequence: u64,
    /// TSC at the exit.
    pub tsc: u64,
    /// Vector; 2 for an NMI.
    pub vector: u8,
    /// Name of the kind of source.
    pub kind: String,
    /// Where it came from: `core 1`, `0000:00:03.0`, `gsi 4`.
    pub origin: String,
    /// The core that sent it, if it is an IPI.
    pub sender: Option<u32>,
    /// RIP there at the instruction that sent it.
    pub sender_rip: Hex,
    /// That as `function+0x12`; empty where it is not known.
    pub sender_symbol: String,
    /// RIP of the guest that was interrupted.
    pub rip: Hex,
    /// Its CR3.
    pub cr3: Hex,
    /// Its return addresses, innermost first; the first is RIP.
    pub backtrace: Vec<Hex>,
    /// The backtrace as `function+0x12`, where it is known.
    pub symbols: Vec<String>,
}

/// A source of interrupts of one core, with how many came from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupter {
    /// Physical core number.
    pub core: u32,
    /// How many.
    pub count: u64,
    /// Vector; 2 for an NMI.
    pub vector: u8,
    /// Name of the kind of source; `others` for all that found no place.
    pub kind: String,
    /// Where they came from.
    pub origin: String,
    /// The core that sent them, if they are IPIs.
    pub sender: Option<u32>,
    /// TSC at the last.
    pub tsc: u64,
    /// RIP of the guest that the last one interrupted.
    pub rip: Hex,
    /// That as `function+0x12`; empty where it is not known.
    pub symbol: String,
    /// Return addresses of the sender, innermost first.
    pub backtrace: Vec<Hex>,
    /// The backtrace as `function+0x12`, where it is known.
    pub symbols: Vec<String>,
}

/// Symbols by the owner of a core: `linux`, or the partition.
pub(super) type ByOwner = BTreeMap<String, Symbols>;

/// Names the addresses in `report` that have a name.
pub(super) fn resolve(report: &mut Report, symbols: &ByOwner) {
    let owners: BTreeMap<u32, String> = report
        .cores
        .iter()
        .map(|core| (core.core, core.owner.clone()))
        .collect();
    let of_core = |core: u32| owners.get(&core).and_then(|owner| symbols.get(owner));
    let name = |core: u32, address: Hex| {
        of_core(core)
            .and_then(|symbols| symbols.name(address.0))
            .unwrap_or_default()
    };
    let names = |core: u32, backtrace: &[Hex]| {
        let names: Vec<String> = backtrace.iter().map(|&a| name(core, a)).collect();
        let known = names.iter().any(|name| !name.is_empty());
        if known { names } else { Vec::new() }
    };
    for refused in &mut report.refused {
        refused.symbols = names(refused.core, &refused.backtrace);
    }
    for interrupt in &mut report.interrupts {
        interrupt.symbols = names(interrupt.core, &interrupt.backtrace);
        if let Some(sender) = interrupt.sender {
            interrupt.sender_symbol = name(sender, interrupt.sender_rip);
        }
    }
    for interrupter in &mut report.interrupters {
        interrupter.symbol = name(interrupter.core, interrupter.rip);
        if let Some(sender) = interrupter.sender {
            interrupter.symbols = names(sender, &interrupter.backtrace);
        }
    }
    report
        .interrupters
        .sort_by_key(|i| (i.core, u64::MAX - i.count));
}

/// Sources of one core that the table shows; all are in the JSON.
const ROWS: usize = 20;
/// Callers of a sender that the table shows.
const CALLERS: usize = 6;

/// Who interrupted which core, and how often.
pub(super) fn print(report: &Report, out: &mut dyn Write) -> fmt::Result {
    let mut cores: Vec<u32> = report.interrupters.iter().map(|i| i.core).collect();
    cores.dedup();
    for core in cores {
        let sources = || report.interrupters.iter().filter(|i| i.core == core);
        let total: u64 = sources().map(|source| source.count).sum();
        writeln!(out, "interrupts of core {core}: {total}")?;
        for source in sources().take(ROWS) {
            write!(
                out,
                "{:>8}  vector {:<3} {} {}",
                source.count, source.vector, source.kind, source.origin
            )?;
            if !source.symbol.is_empty() {
                write!(out, ", last at {}", source.symbol)?;
            } else if source.rip.0 != 0 {
                write!(out, ", last at {}", source.rip)?;
            }
            writeln!(out)?;
            let callers: Vec<String> = (0..)
                .zip(&source.backtrace)
                .take(CALLERS)
                .map(|(frame, address)| match source.symbols.get(frame) {
                    Some(name) if !name.is_empty() => name.clone(),
                    _ => address.to_string(),
                })
                .collect();
            if !callers.is_empty() {
                writeln!(out, "          sent by {}", callers.join(" < "))?;
            }
        }
        let more = sources().count().saturating_sub(ROWS);
        if more > 0 {
            writeln!(out, "          and {more} more sources")?;
        }
    }
    for traced in report.traced.iter().filter(|traced| traced.lost > 0) {
        writeln!(
            out,
            "trace of core {}: {} records, of which the first {} are lost",
            traced.core, traced.written, traced.lost
        )?;
    }
    Ok(())
}
