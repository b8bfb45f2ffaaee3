//! Makes the report of what was folded together.

use std::collections::BTreeMap;
use std::time::Duration;

use cloister_abi::{Dataplane, LinuxState};

use super::fold::Fold;
use super::{Core, Exits, Hex, Outcome, ReasonTotals, Report, dma, watch};
use crate::stream::Lines;
use crate::symbols::Symbols;

/// How the wait for the end of a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The machine ended, or the hypervisor said that nothing follows.
    Over,
    /// Linux panicked, and no partition was left.
    NothingLeft,
    /// So many seconds were not enough.
    TimeUp(u64),
    /// The user, or a signal, ended it.
    Quit(String),
}

impl Fold {
    /// The report. The hypervisor's last record decides on the outcome, if
    /// there is one.
    #[must_use]
    pub fn finish(mut self, ending: Ending, seconds: Duration) -> Report {
        let (outcome, detail) = match (self.end.take(), ending) {
            (Some(end), _) if end.outcome == Outcome::Completed.name() => {
                (Outcome::Completed, end.detail)
            }
            (Some(end), _) => (Outcome::HypervisorPanic, end.detail),
            (None, Ending::Over) if self.bare => (Outcome::Completed, String::new()),
            (None, Ending::Over) => {
                let last = if self.booted {
                    "without the hypervisor's last record"
                } else {
                    "before the hypervisor was up"
                };
                let detail = format!("the machine stopped {last}");
                (Outcome::HypervisorPanic, detail)
            }
            (None, Ending::NothingLeft) => {
                let detail = "Linux panicked and no partition was left".into();
                (Outcome::Completed, detail)
            }
            (None, Ending::TimeUp(limit)) => {
                (Outcome::Timeout, format!("not over after {limit} s"))
            }
            (None, Ending::Quit(why)) => (Outcome::Interrupted, why),
        };
        self.report.outcome = outcome;
        self.report.detail = detail;
        self.report.seconds = seconds.as_secs_f64();
        self.finish_linux();
        for index in 0..self.report.partitions.len() {
            self.finish_partition(index);
        }
        self.finish_cores();
        dma::finish(&mut self.report, &self.dma_totals);
        let mut symbols: watch::ByOwner = self
            .programs
            .iter()
            .filter_map(|(name, elf)| Some((name.clone(), Symbols::read(elf).ok()?)))
            .collect();
        let kernel = self.kernel_symbols.take();
        symbols.extend(kernel.map(|kernel| ("linux".to_owned(), kernel)));
        watch::resolve(&mut self.report, &symbols);
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
}

fn flag_names(bits: u64) -> Vec<String> {
    let flags = Dataplane::from_bits_truncate(bits);
    Dataplane::NAMES
        .iter()
        .filter(|(_, flag)| flags.contains(*flag))
        .map(|(name, _)| (*name).to_owned())
        .collect()
}
