//! The report of a run: JSON, schema 1.

mod dma;
mod finish;
mod fold;
mod table;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use cloister_abi::record::{Control, Trace, Traced};
use cloister_abi::{LinuxState, PartitionState};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use dma::{Device, DmaFault};
pub use finish::Ending;
pub use fold::Fold;
pub use table::print;
pub use watch::{Interrupt, Interrupter, Refused};

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this layout: 1.
    pub schema: u32,
    /// Where it ran.
    pub platform: Platform,
    /// How it ended.
    pub outcome: Outcome,
    /// What there is to say about the outcome; empty when nothing.
    pub detail: String,
    /// Linux; [`None`] when the system has none.
    pub linux: Option<Linux>,
    /// The partitions, in the order of the system file.
    pub partitions: Vec<Partition>,
    /// The cores that have an owner and of which the hypervisor gave totals.
    pub cores: Vec<Core>,
    /// Everything that a guest reached for and did not get, in order.
    pub refused: Vec<Refused>,
    /// The IOMMU that confines devices: `vt-d` or `amd-vi`; [`None`] where the
    /// machine has none.
    pub iommu: Option<String>,
    /// It remaps interrupts, so that nobody forges one by DMA.
    pub interrupt_remapping: bool,
    /// What devices reached for and did not get, in order; of a storm, the
    /// first of each device.
    pub dma_faults: Vec<DmaFault>,
    /// The control words of each core's VMCB or VMCS.
    pub controls: Vec<Control<String>>,
    /// Traced exits (DEBUG), in order.
    pub trace: Vec<Trace<String>>,
    /// How much each core traced, and how much of it is lost.
    pub traced: Vec<Traced>,
    /// The interrupts that were caught (DEBUG, `linux.debug`), in order, as far
    /// as their traces are not lost.
    pub interrupts: Vec<Interrupt>,
    /// Who interrupted which core, and how often, by core, the most frequent
    /// first. Nothing is lost here.
    pub interrupters: Vec<Interrupter>,
    /// Wall time of the machine, seconds.
    pub seconds: f64,
}

/// Where a run took place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `qemu` or `bochs`.
    pub machine: String,
    /// `tcg`, `kvm` or `emulated`.
    pub accel: String,
    /// `amd` or `intel`, as the hypervisor found; empty if it did not say.
    pub vendor: String,
    /// Cores that the hypervisor started; of a bare run, of the machine.
    pub cpus: u32,
    /// The hypervisor's version; empty if it did not say.
    pub version: String,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The machine powered off or reset when all was done.
    Completed,
    /// It did not within the time it was given.
    Timeout,
    /// The hypervisor gave up, refused the system, or vanished.
    HypervisorPanic,
    /// The user ended it.
    Interrupted,
}

/// Linux's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Linux {
    /// Its last state.
    pub state: LinuxState,
    /// Its cores.
    pub cpus: Vec<u32>,
    /// Recorded faults of its devices: all of them, but hardware does not
    /// record each of a storm.
    pub dma_faults: u64,
    /// Exit status of the command given with `--run`.
    pub run_status: Option<i32>,
    /// Wall seconds from the machine's start to Linux's user space.
    pub boot_seconds: Option<f64>,
    /// Exits of its cores.
    pub exits: Exits,
    /// The same by reason, with their cost.
    pub reasons: Vec<ReasonTotals>,
}

/// A partition's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Its name.
    pub name: String,
    /// Its cores.
    pub cpus: Vec<u32>,
    /// Its last state.
    pub state: PartitionState,
    /// What its program gave to `finish`.
    pub exit_code: Option<u64>,
    /// How often it was restarted.
    pub restarts: u32,
    /// Why it failed; empty unless it did.
    pub detail: String,
    /// The flags that all its cores had last.
    pub dataplane: Vec<String>,
    /// Exits of its cores.
    pub exits: Exits,
    /// The same by reason, with their cost.
    pub reasons: Vec<ReasonTotals>,
    /// Interrupts at its cores since they were quiet.
    pub interrupts_since_quiesce: u64,
    /// The PCI functions that it owns.
    pub devices: Vec<Device>,
    /// Recorded faults of its devices: all of them, but hardware does not
    /// record each of a storm.
    pub dma_faults: u64,
    /// What it printed, line by line.
    pub console: Vec<String>,
    /// The last breach of STRICT.
    pub violation: Option<Violation>,
    /// All of them, in order: more than one after a restart or with
    /// `on_violation = "report"`.
    pub violations: Vec<Violation>,
}

/// Exits of one or more cores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exits {
    /// All.
    pub total: u64,
    /// Those since the core was quiet.
    pub since_quiesce: u64,
    /// All, by reason; reasons that did not occur are missing.
    pub by_reason: BTreeMap<String, u64>,
}

/// Exits for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonTotals {
    /// Name of the reason.
    pub reason: String,
    /// How many.
    pub total: u64,
    /// How many since quiet.
    pub since_quiesce: u64,
    /// TSC cycles spent in the hypervisor.
    pub cycles: u64,
    /// The worst one, TSC cycles.
    pub worst: u64,
    /// Guest RIP at the last.
    pub last_rip: Hex,
}

/// One core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Core {
    /// Physical core number.
    pub core: u32,
    /// `linux`, or the partition.
    pub owner: String,
    /// Flags of the last successful `set_dataplane` other than 0.
    pub dataplane: Vec<String>,
    /// How often it became quiet.
    pub quiesce_count: u64,
    /// Interrupts since it was quiet.
    pub interrupts_since_quiesce: u64,
    /// Its exits.
    pub exits: Exits,
    /// The same by reason, with their cost.
    pub reasons: Vec<ReasonTotals>,
}

/// A breach of STRICT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Name of the reason.
    pub reason: String,
    /// Guest RIP.
    pub rip: Hex,
    /// Guest CR3.
    pub cr3: Hex,
    /// Return addresses, innermost first; the first is RIP.
    pub backtrace: Vec<Hex>,
    /// What it was about.
    pub detail: String,
    /// Physical core number.
    pub core: u32,
    /// TSC at the exit.
    pub tsc: u64,
    /// Guest RFLAGS.
    pub rflags: Hex,
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 … R15.
    pub registers: [Hex; 16],
    /// The backtrace as `function+0x12`; empty where the program has no
    /// symbol for it.
    pub symbols: Vec<String>,
}

/// An address or register; `"0x1f"` in JSON, where large numbers are not
/// safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hex(pub u64);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.strip_prefix("0x")
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no 0x… number")))
    }
}

impl Report {
    /// The partition called `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn partition(&self, name: &str) -> Result<&Partition> {
        self.partitions
            .iter()
            .find(|partition| partition.name == name)
            .with_context(|| format!("the report has no partition {name}"))
    }

    /// Linux.
    ///
    /// # Errors
    /// The system has none.
    pub fn linux(&self) -> Result<&Linux> {
        self.linux.as_ref().context("the report has no linux")
    }

    /// Core number `core`.
    ///
    /// # Errors
    /// It has no owner.
    pub fn core(&self, core: u32) -> Result<&Core> {
        self.cores
            .iter()
            .find(|entry| entry.core == core)
            .with_context(|| format!("the report has no core {core}"))
    }

    /// The JSON text.
    ///
    /// # Errors
    /// None in practice: every part has a JSON form.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

impl Exits {
    /// How many for `reason`, e.g. `cpuid`.
    #[must_use]
    pub fn of(&self, reason: &str) -> u64 {
        self.by_reason.get(reason).copied().unwrap_or(0)
    }
}

impl Outcome {
    /// Name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Timeout => "timeout",
            Self::HypervisorPanic => "hypervisor-panic",
            Self::Interrupted => "interrupted",
        }
    }
}
