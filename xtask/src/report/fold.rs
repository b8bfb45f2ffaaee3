//! Folds the hypervisor's records together, as they come.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use cloister_abi::record::{self, Record};
use cloister_abi::{BACKTRACE_FRAMES, LinuxState, PartitionState};
use cloister_manifest::{CpuSet, Manifest};

use super::{
    Exits, Hex, Interrupt, Interrupter, Linux, Outcome, Partition, Platform, Refused, Report,
    Violation, dma,
};
use crate::stream::Lines;
use crate::symbols::Symbols;

/// What is known of a run so far.
#[derive(Debug)]
pub struct Fold {
    pub(super) report: Report,
    /// Totals by core number.
    pub(super) totals: BTreeMap<u32, record::Core>,
    /// Reasons by core number and name.
    pub(super) exits: BTreeMap<(u32, String), record::Exits<String>>,
    /// Faults of devices.
    pub(super) dma_totals: dma::Totals,
    pub(super) consoles: Vec<Lines>,
    pub(super) programs: BTreeMap<String, PathBuf>,
    pub(super) kernel_symbols: Option<Symbols>,
    pub(super) bare: bool,
    pub(super) booted: bool,
    pub(super) end: Option<record::End<String>>,
    pub(super) panicked: bool,
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
                devices: Vec::new(),
                dma_faults: 0,
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
                dma_faults: 0,
                run_status: None,
                boot_seconds: None,
                exits: Exits::default(),
                reasons: Vec::new(),
            }),
            partitions,
            cores: Vec::new(),
            refused: Vec::new(),
            iommu: None,
            interrupt_remapping: false,
            dma_faults: Vec::new(),
            controls: Vec::new(),
            trace: Vec::new(),
            traced: Vec::new(),
            interrupts: Vec::new(),
            interrupters: Vec::new(),
            seconds: 0.0,
        };
        Self {
            consoles: report.partitions.iter().map(|_| Lines::default()).collect(),
            report,
            totals: BTreeMap::new(),
            exits: BTreeMap::new(),
            dma_totals: dma::Totals::new(),
            programs,
            kernel_symbols: None,
            bare,
            booted: false,
            end: None,
            panicked: false,
        }
    }

    /// Addresses in Linux's kernel get names from `symbols`.
    pub fn kernel_symbols(&mut self, symbols: Option<Symbols>) {
        self.kernel_symbols = symbols;
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
            Record::Refused(refused) => {
                let refused = convert_refused(&refused);
                self.report.refused.push(refused);
            }
            Record::Trace(trace) => self.report.trace.push(trace),
            Record::Traced(traced) => {
                self.report.traced.retain(|t| t.core != traced.core);
                self.report.traced.push(traced);
            }
            Record::Interrupt(interrupt) => {
                let interrupt = convert_interrupt(&interrupt);
                self.report.interrupts.push(interrupt);
            }
            Record::Interrupter(interrupter) => {
                let interrupter = convert_interrupter(&interrupter);
                self.report.interrupters.push(interrupter);
            }
            Record::Control(control) => {
                let controls = &mut self.report.controls;
                controls.retain(|c| (c.core, &c.name) != (control.core, &control.name));
                controls.push(control);
            }
            Record::Iommu(iommu) => {
                self.report.iommu = Some(iommu.kind);
                self.report.interrupt_remapping = iommu.interrupts;
            }
            Record::Device(device) => {
                if let Some(index) = self.index(&device.owner)
                    && let Some(report) = self.report.partitions.get_mut(index)
                {
                    report.devices.push(device.into());
                }
            }
            Record::DmaFault(fault) => {
                let device = (fault.owner.clone(), fault.device.clone());
                let total = self.dma_totals.entry(device).or_default();
                *total = fault.number.max(*total);
                self.report.dma_faults.push(fault.into());
            }
            Record::DmaFaults(faults) => {
                let device = (faults.owner, faults.device);
                self.dma_totals.insert(device, faults.total);
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

    /// Whether what it said is that it failed or refused to start: then it
    /// halts, and does not power the machine off.
    #[must_use]
    pub fn failed(&self) -> bool {
        let completed = Outcome::Completed.name();
        self.end
            .as_ref()
            .is_some_and(|end| end.outcome != completed)
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
    Violation {
        reason: violation.reason.clone(),
        rip: Hex(violation.rip),
        cr3: Hex(violation.cr3),
        backtrace: frames(&violation.backtrace, violation.frames),
        detail: violation.detail.clone(),
        core: violation.core,
        tsc: violation.tsc,
        rflags: Hex(violation.rflags),
        registers: violation.registers.map(Hex),
        symbols: Vec::new(),
    }
}

fn frames(backtrace: &[u64; BACKTRACE_FRAMES], count: u32) -> Vec<Hex> {
    let count = usize::try_from(count).unwrap_or(BACKTRACE_FRAMES);
    backtrace.iter().take(count).map(|&a| Hex(a)).collect()
}

fn convert_refused(refused: &record::Refused<String>) -> Refused {
    Refused {
        owner: refused.owner.clone(),
        core: refused.core,
        reason: refused.reason.clone(),
        detail: refused.detail.clone(),
        rip: refused.rip,
        backtrace: frames(&refused.backtrace, refused.frames),
        symbols: Vec::new(),
    }
}

fn convert_interrupt(interrupt: &record::Interrupt<String>) -> Interrupt {
    Interrupt {
        core: interrupt.core,
        sequence: interrupt.sequence,
        tsc: interrupt.tsc,
        vector: interrupt.vector,
        kind: interrupt.kind.clone(),
        origin: interrupt.origin.clone(),
        sender: interrupt.sender,
        sender_rip: Hex(interrupt.sender_rip),
        sender_symbol: String::new(),
        rip: Hex(interrupt.rip),
        cr3: Hex(interrupt.cr3),
        backtrace: frames(&interrupt.backtrace, interrupt.frames),
        symbols: Vec::new(),
    }
}

fn convert_interrupter(interrupter: &record::Interrupter<String>) -> Interrupter {
    Interrupter {
        core: interrupter.core,
        count: interrupter.count,
        vector: interrupter.vector,
        kind: interrupter.kind.clone(),
        origin: interrupter.origin.clone(),
        sender: interrupter.sender,
        tsc: interrupter.tsc,
        rip: Hex(interrupter.rip),
        symbol: String::new(),
        backtrace: frames(&interrupter.backtrace, interrupter.frames),
        symbols: Vec::new(),
    }
}

fn numbers(cpus: CpuSet) -> Vec<u32> {
    cpus.iter()
        .filter_map(|cpu| u32::try_from(cpu).ok())
        .collect()
}
