//! Folds the hypervisor's records into the report.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use cloister_abi::record::{self, Record};
use cloister_abi::{BACKTRACE_FRAMES, Dataplane, LinuxState, PartitionState};
use cloister_manifest::{CpuSet, Manifest};

use super::{
    Core, Exits, Hex, Linux, Outcome, Partition, Platform, ReasonTotals, Report, Violation,
};
use crate::stream::Lines;
use crate::symbols::Symbols;

/// What is known of a run so far.
#[derive(Debug)]
pub struct Fold {
    report: Report,
    /// Totals by core number.
    totals: BTreeMap<u32, record::Core>,
    /// Reasons by core number and name.
    exits: BTreeMap<(u32, String), record::Exits<String>>,
    consoles: Vec<Lines>,
    programs: BTreeMap<String, PathBuf>,
    bare: bool,
    booted: bool,
    end: Option<record::End<String>>,
    panicked: bool,
}

impl Fold {
    /// Nothing known but the system: `manifest` is [`None`] for a bare run of
    /// Linux on `cpus` cores. `programs` are ELF files by partition.
    #[must_use]
    pub fn new(
        manifest: Option<&Manifest>,
        machine: &str,
        accel: &str,
        cpus: u32,
        programs: BTreeMap<String, PathBuf>,
    ) -> Self {
        let bare = manifest.is_none();
        let linux_cpus = match manifest {
            Some(manifest) => manifest.linux.as_ref().map(|linux| numbers(linux.cpus)),
            None => Some((0..cpus).collect()),
        };
        let partitions: Vec<Partition> = manifest
            .iter()
            .flat_map(|manifest| &manifest.partitions)
            .map(|partition| Partition {
                name: partition.name.to_string(),
                cpus: numbers(partition.cpus),
                state: PartitionState::Loaded,
                exit_code: None,
                restarts: 0,
                detail: String::new(),
                dataplane: Vec::new(),
                exits: Exits::default(),
                reasons: Vec::new(),
                interrupts_since_quiesce: 0,
                console: Vec::new(),
                violation: None,
                violations: Vec::new(),
            })
            .collect();
        let report = Report {
            schema: 1,
            platform: Platform {
                machine: machine.to_owned(),
                accel: accel.to_owned(),
                vendor: String::new(),
                cpus,
                version: String::new(),
            },
            outcome: Outcome::Timeout,
            detail: String::new(),
            linux: linux_cpus.map(|cpus| Linux {
                state: if bare {
                    LinuxState::Running
                } else {
                    LinuxState::Loaded
                },
                cpus,
                run_status: None,
                boot_seconds: None,
                exits: Exits::default(),
                reasons: Vec::new(),
            }),
            partitions,
            cores: Vec::new(),
            refused: Vec::new(),
            controls: Vec::new(),
            trace: Vec::new(),
            seconds: 0.0,
        };
        Self {
            consoles: report.partitions.iter().map(|_| Lines::default()).collect(),
            report,
            totals: BTreeMap::new(),
            exits: BTreeMap::new(),
            programs,
            bare,
            booted: false,
            end: None,
            panicked: false,
        }
    }

    /// Takes one record. Returns the partition and the lines that it completed
    /// on its console.
    pub fn record(&mut self, record: Record<String>) -> Vec<(String, String)> {
        match record {
            Record::Boot(boot) => {
                self.booted = true;
                self.report.platform.vendor = boot.vendor;
                self.report.platform.version = boot.version;
                self.report.platform.cpus = boot.cpus;
            }
            Record::Linux(linux) => {
                if let Some(report) = &mut self.report.linux {
                    report.state = linux.state;
                }
            }
            Record::Partition(partition) => {
                if let Some(index) = self.index(&partition.name)
                    && let Some(report) = self.report.partitions.get_mut(index)
                {
                    report.state = partition.state;
                    report.exit_code = partition.exit_code;
                    report.restarts = partition.restarts;
                    report.detail = partition.detail;
                }
            }
            Record::Core(core) => {
                self.totals.insert(core.core, core);
            }
            Record::Exits(exits) => {
                self.exits.insert((exits.core, exits.reason.clone()), exits);
            }
            Record::Console(text) => return self.console(&text),
            Record::Violation(violation) => {
                if let Some(index) = self.index(&violation.name)
                    && let Some(report) = self.report.partitions.get_mut(index)
                {
                    report.violations.push(convert(&violation));
                }
            }
            Record::Refused(refused) => self.report.refused.push(refused),
            Record::Trace(trace) => self.report.trace.push(trace),
            Record::Control(control) => {
                let controls = &mut self.report.controls;
                controls.retain(|c| (c.core, &c.name) != (control.core, &control.name));
                controls.push(control);
            }
            Record::End(end) => self.end = Some(end),
        }
        Vec::new()
    }

    /// Linux's user space is there, so long after the machine's start.
    pub fn user_space(&mut self, after: Duration) {
        if let Some(linux) = &mut self.report.linux {
            linux.boot_seconds.get_or_insert(after.as_secs_f64());
        }
    }

    /// The command given with `--run` ended.
    pub fn run_status(&mut self, status: i32) {
        if let Some(linux) = &mut self.report.linux {
            linux.run_status.get_or_insert(status);
        }
    }

    /// Linux printed that it panicked.
    pub fn linux_panicked(&mut self) {
        self.panicked = true;
    }

    /// Whether the hypervisor said that nothing follows.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.end.is_some()
    }

    /// Whether Linux said its last word and no partition runs any more: then
    /// nothing will happen though the machine goes on.
    #[must_use]
    pub fn stuck(&self) -> bool {
        let over = |partition: &Partition| {
            !matches!(
                partition.state,
                PartitionState::Running | PartitionState::Loaded
            )
        };
        self.panicked && self.report.partitions.iter().all(over)
    }

    /// The exit status of the command, if it ended.
    #[must_use]
    pub fn status(&self) -> Option<i32> {
        self.report.linux.as_ref()?.run_status
    }

    /// The report. `outcome` is how the wait ended; if the machine ended by
    /// itself the hypervisor's last record decides.
    #[must_use]
    pub fn finish(mut self, outcome: Outcome, detail: String, seconds: Duration) -> Report {
        self.report.seconds = seconds.as_secs_f64();
        self.report.outcome = outcome;
        self.report.detail = detail;
        match self.end.take() {
            Some(end) => {
                self.report.outcome = match end.outcome.as_str() {
                    "completed" => Outcome::Completed,
                    _ => Outcome::HypervisorPanic,
                };
                self.report.detail = end.detail;
            }
            None if outcome == Outcome::Completed && !self.bare => {
                self.report.outcome = Outcome::HypervisorPanic;
                self.report.detail = if self.booted {
                    "the machine stopped without the hypervisor's last record".into()
                } else {
                    "the machine stopped before the hypervisor was up".into()
                };
            }
            None => {}
        }
        self.finish_linux();
        for index in 0..self.report.partitions.len() {
            self.finish_partition(index);
        }
        self.finish_cores();
        self.report
    }

    fn finish_linux(&mut self) {
        let Some(linux) = &mut self.report.linux else {
            return;
        };
        let alive = matches!(linux.state, LinuxState::Loaded | LinuxState::Running);
        if self.panicked && alive {
            linux.state = LinuxState::Failed;
        } else if self.bare && self.report.outcome == Outcome::Completed {
            linux.state = LinuxState::Off;
        }
        let cpus = linux.cpus.clone();
        let (exits, reasons, _) = self.sum(&cpus);
        if let Some(linux) = &mut self.report.linux {
            linux.exits = exits;
            linux.reasons = reasons;
        }
    }

    fn finish_partition(&mut self, index: usize) {
        let rest = self.consoles.get_mut(index).and_then(Lines::finish);
        let Some(cpus) = self.report.partitions.get(index).map(|p| p.cpus.clone()) else {
            return;
        };
        let (exits, reasons, interrupts) = self.sum(&cpus);
        let common = cpus
            .iter()
            .map(|core| self.totals.get(core).map_or(0, |totals| totals.dataplane))
            .fold(u64::MAX, |all, flags| all & flags);
        let Some(partition) = self.report.partitions.get_mut(index) else {
            return;
        };
        partition.console.extend(rest);
        partition.exits = exits;
        partition.reasons = reasons;
        partition.interrupts_since_quiesce = interrupts;
        partition.dataplane = flag_names(common);
        if !partition.violations.is_empty()
            && let Some(elf) = self.programs.get(&partition.name)
            && let Ok(symbols) = Symbols::read(elf)
        {
            for violation in &mut partition.violations {
                violation.symbols = violation
                    .backtrace
                    .iter()
                    .map(|frame| symbols.name(frame.0).unwrap_or_default())
                    .collect();
            }
        }
        partition.violation = partition.violations.last().cloned();
    }

    fn finish_cores(&mut self) {
        let linux = self.report.linux.iter();
        let linux = linux.flat_map(|linux| linux.cpus.iter().map(|&core| (core, "linux".into())));
        let partitions = self.report.partitions.iter().flat_map(|partition| {
            let owner = partition.name.clone();
            partition
                .cpus
                .iter()
                .map(move |&core| (core, owner.clone()))
        });
        let mut owners: Vec<(u32, String)> = linux.chain(partitions).collect();
        owners.sort_unstable();
        self.report.cores = owners
            .into_iter()
            .filter(|(core, _)| self.totals.contains_key(core))
            .map(|(core, owner)| {
                let (exits, reasons, interrupts) = self.sum(&[core]);
                let totals = self.totals.get(&core);
                Core {
                    core,
                    owner,
                    dataplane: flag_names(totals.map_or(0, |t| t.dataplane)),
                    quiesce_count: totals.map_or(0, |t| t.quiesce_count),
                    interrupts_since_quiesce: interrupts,
                    exits,
                    reasons,
                }
            })
            .collect();
    }

    /// Totals over `cores`: exits, the same by reason (most frequent first),
    /// interrupts since quiet.
    fn sum(&self, cores: &[u32]) -> (Exits, Vec<ReasonTotals>, u64) {
        let mut exits = Exits::default();
        let mut interrupts = 0;
        let mut reasons: BTreeMap<&str, ReasonTotals> = BTreeMap::new();
        for totals in cores.iter().filter_map(|core| self.totals.get(core)) {
            exits.total += totals.total;
            exits.since_quiesce += totals.since_quiesce;
            interrupts += totals.interrupts_since_quiesce;
        }
        for ((core, reason), one) in &self.exits {
            if !cores.contains(core) {
                continue;
            }
            let sum = reasons.entry(reason).or_insert_with(|| ReasonTotals {
                reason: reason.clone(),
                ..ReasonTotals::default()
            });
            sum.total += one.total;
            sum.since_quiesce += one.since_quiesce;
            sum.cycles = sum.cycles.saturating_add(one.cycles);
            sum.worst = sum.worst.max(one.worst);
            sum.last_rip = Hex(one.last_rip);
        }
        let mut reasons: Vec<ReasonTotals> = reasons.into_values().collect();
        reasons.sort_by(|a, b| b.total.cmp(&a.total).then(a.reason.cmp(&b.reason)));
        exits.by_reason = reasons
            .iter()
            .map(|totals| (totals.reason.clone(), totals.total))
            .collect();
        (exits, reasons, interrupts)
    }

    fn console(&mut self, text: &record::Text<String>) -> Vec<(String, String)> {
        let Some(index) = self.index(&text.name) else {
            return Vec::new();
        };
        let lines = self
            .consoles
            .get_mut(index)
            .map(|lines| lines.push(text.text.as_bytes()))
            .unwrap_or_default();
        if let Some(partition) = self.report.partitions.get_mut(index) {
            partition.console.extend(lines.iter().cloned());
        }
        lines
            .into_iter()
            .map(|line| (text.name.clone(), line))
            .collect()
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.report.partitions.iter().position(|p| p.name == name)
    }
}

fn convert(violation: &record::Violation<String>) -> Violation {
    let frames = usize::try_from(violation.frames).unwrap_or(BACKTRACE_FRAMES);
    Violation {
        reason: violation.reason.clone(),
        rip: Hex(violation.rip),
        cr3: Hex(violation.cr3),
        backtrace: violation
            .backtrace
            .iter()
            .take(frames)
            .map(|&a| Hex(a))
            .collect(),
        detail: violation.detail.clone(),
        core: violation.core,
        tsc: violation.tsc,
        rflags: Hex(violation.rflags),
        registers: violation.registers.map(Hex),
        symbols: Vec::new(),
    }
}

fn numbers(cpus: CpuSet) -> Vec<u32> {
    cpus.iter()
        .filter_map(|cpu| u32::try_from(cpu).ok())
        .collect()
}

fn flag_names(bits: u64) -> Vec<String> {
    let flags = Dataplane::from_bits_truncate(bits);
    Dataplane::NAMES
        .iter()
        .filter(|(_, flag)| flags.contains(*flag))
        .map(|(name, _)| (*name).to_owned())
        .collect()
}
