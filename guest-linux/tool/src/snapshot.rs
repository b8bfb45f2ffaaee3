//! What the statistics area says now, in values of our own. Reading it costs
//! no VM exit, here or on any other core.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use anyhow::{Result, bail};
use cloister_abi::control::{PartitionStatus, StatisticsHeader};
use cloister_abi::{
    BACKTRACE_FRAMES, CoreCounters, Dataplane, MAX_CORES, MAX_PARTITIONS, PartitionState, Reason,
};
use serde::Serialize;

use crate::address::Address;
use crate::device::Device;
use crate::failure::Failure;

/// The whole system.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// `amd` or `intel`.
    pub(crate) vendor: &'static str,
    pub(crate) tsc_hz: u64,
    /// Bytes of `hypervisor.memory` that have not been handed out.
    pub(crate) memory_left: u64,
    /// Calls served, and malformed stores refused, since boot.
    pub(crate) calls: u64,
    pub(crate) refused_stores: u64,
    /// Linux's own cores, in the order of its CPU numbers.
    pub(crate) linux: Vec<u32>,
    pub(crate) partitions: Vec<Partition>,
    pub(crate) cores: Vec<Core>,
}

/// One partition.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Partition {
    pub(crate) name: String,
    pub(crate) state: &'static str,
    pub(crate) cpus: Vec<u32>,
    /// Bytes.
    pub(crate) memory: u64,
    pub(crate) starts: u64,
    /// Restarts after violations.
    pub(crate) restarts: u32,
    pub(crate) exit_code: Option<u64>,
    /// Flags that its program may ask for.
    pub(crate) allowed: Vec<&'static str>,
    /// The operator imposes DEBUG.
    pub(crate) debug_imposed: bool,
    pub(crate) violations: u64,
    pub(crate) last_violation: Option<Violation>,
    /// Why it failed.
    pub(crate) detail: Option<String>,
    /// Cores that were started and have not parked.
    pub(crate) inside: u32,
    #[serde(skip)]
    pub(crate) index: u8,
}

/// A breach of STRICT.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Violation {
    pub(crate) core: u32,
    pub(crate) reason: &'static str,
    pub(crate) rip: Address,
    pub(crate) cr3: Address,
    pub(crate) tsc: u64,
    pub(crate) backtrace: Vec<Address>,
}

/// One core.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Core {
    pub(crate) core: u32,
    /// `linux`, a partition's name, or nobody.
    pub(crate) owner: Option<String>,
    /// Flags in force.
    pub(crate) dataplane: Vec<&'static str>,
    pub(crate) exits: u64,
    pub(crate) since_quiesce: u64,
    pub(crate) interrupts_since_quiesce: u64,
    pub(crate) quiesce_count: u64,
    /// Hypercalls from user mode, each refused.
    pub(crate) user_hypercalls: u64,
    pub(crate) by_reason: Vec<ReasonCount>,
}

/// Exits of one core for one reason.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ReasonCount {
    pub(crate) reason: &'static str,
    pub(crate) total: u64,
    pub(crate) since_quiesce: u64,
    /// TSC cycles spent in the hypervisor.
    pub(crate) cycles: u64,
    /// The longest of them.
    pub(crate) worst: u64,
    pub(crate) last_rip: Address,
}

pub(crate) fn get(value: &AtomicU64) -> u64 {
    value.load(Ordering::Relaxed)
}

pub(crate) fn get32(value: &AtomicU32) -> u32 {
    value.load(Ordering::Relaxed)
}

fn text(bytes: &[AtomicU8], length: u32) -> String {
    let length = usize::try_from(length).unwrap_or(0).min(bytes.len());
    let bytes: Vec<u8> = bytes
        .iter()
        .take(length)
        .map(|byte| byte.load(Ordering::Relaxed))
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn set(mask: u64) -> Vec<u32> {
    (0..64).filter(|core| mask & (1 << core) != 0).collect()
}

/// The names of the flags in `bits`.
pub(crate) fn flags(bits: u64) -> Vec<&'static str> {
    let flags = Dataplane::from_bits_truncate(bits);
    Dataplane::NAMES
        .iter()
        .filter(|(_, flag)| flags.contains(*flag))
        .map(|(name, _)| *name)
        .collect()
}

fn reason(number: usize) -> &'static str {
    Reason::ALL
        .get(number)
        .map_or("unknown", |reason| reason.name())
}

pub(crate) fn offset(base: u32, index: usize, size: usize) -> usize {
    base as usize + index * size
}

impl Device {
    fn counted(&self) -> Result<(&StatisticsHeader, usize, usize)> {
        let header = self.header()?;
        let cores = get32(&header.cores) as usize;
        let partitions = get32(&header.partitions) as usize;
        if cores > MAX_CORES || partitions > MAX_PARTITIONS {
            bail!("the statistics say {cores} cores and {partitions} partitions");
        }
        Ok((header, cores, partitions))
    }

    /// Status of partition `index`, live.
    ///
    /// # Errors
    /// It lies outside the area.
    pub(crate) fn status(&self, index: u8) -> Result<&PartitionStatus> {
        let header = self.header()?;
        let at = offset(
            get32(&header.status),
            usize::from(index),
            size_of::<PartitionStatus>(),
        );
        self.statistics().view(at)
    }

    /// Every partition.
    ///
    /// # Errors
    /// The area makes no sense.
    pub(crate) fn partitions(&self) -> Result<Vec<Partition>> {
        let (_, _, partitions) = self.counted()?;
        (0..partitions)
            .map(|index| self.partition_at(u8::try_from(index)?))
            .collect()
    }

    /// The partition called `name`.
    ///
    /// # Errors
    /// [`Failure::NoPartition`], with the names that there are.
    pub(crate) fn partition(&self, name: &str) -> Result<Partition> {
        let all = self.partitions()?;
        let names: Vec<String> = all.iter().map(|each| each.name.clone()).collect();
        all.into_iter()
            .find(|each| each.name == name)
            .ok_or_else(|| {
                Failure::NoPartition(format!(
                    "no partition is called \"{name}\"; there are: {}",
                    names.join(", ")
                ))
                .into()
            })
    }

    fn partition_at(&self, index: u8) -> Result<Partition> {
        let status = self.status(index)?;
        // Before the state, which has changed by then.
        let starts = status.starts.load(Ordering::Acquire);
        let state = u8::try_from(get32(&status.state)).ok();
        let state = state.and_then(PartitionState::from_code);
        let detail = text(&status.detail, get32(&status.detail_length));
        let violations = status.violations.load(Ordering::Acquire);
        Ok(Partition {
            name: text(&status.name, get32(&status.name_length)),
            state: state.map_or("unknown", PartitionState::name),
            cpus: set(get(&status.cpus)),
            memory: get(&status.memory),
            starts,
            restarts: get32(&status.restarts),
            exit_code: get(&status.exit_code).checked_sub(1),
            allowed: flags(get(&status.allowed)),
            debug_imposed: get32(&status.debug) != 0,
            violations,
            last_violation: (violations != 0).then(|| Violation {
                core: get32(&status.violation_core),
                reason: reason(get32(&status.violation_reason) as usize),
                rip: Address(get(&status.violation_rip)),
                cr3: Address(get(&status.violation_cr3)),
                tsc: get(&status.violation_tsc),
                backtrace: {
                    let frames = usize::try_from(get(&status.frames)).unwrap_or(0);
                    let frames = status.backtrace.iter().take(frames.min(BACKTRACE_FRAMES));
                    frames.map(get).map(Address).collect()
                },
            }),
            detail: (!detail.is_empty()).then_some(detail),
            inside: get32(&status.inside),
            index,
        })
    }

    /// Everything.
    ///
    /// # Errors
    /// The area makes no sense.
    pub(crate) fn machine(&self) -> Result<Machine> {
        let (header, cores, _) = self.counted()?;
        let control = self.control()?;
        let partitions = self.partitions()?;
        let linux = set(get(&header.linux));
        let owner = |core: u32| {
            if linux.contains(&core) {
                return Some("linux".to_owned());
            }
            let owner = partitions.iter().find(|each| each.cpus.contains(&core));
            owner.map(|each| each.name.clone())
        };
        let cores = (0..u32::try_from(cores)?)
            .map(|core| self.core(core, owner(core)))
            .collect::<Result<_>>()?;
        Ok(Machine {
            vendor: if get32(&header.vendor) == 1 {
                "amd"
            } else {
                "intel"
            },
            tsc_hz: get(&header.tsc_hz),
            memory_left: get(&header.memory_left),
            calls: get(&control.served),
            refused_stores: get(&control.refused),
            linux,
            partitions,
            cores,
        })
    }

    /// Counters of core `number`, live.
    ///
    /// # Errors
    /// They lie outside the area.
    pub(crate) fn counters(&self, number: u32) -> Result<&CoreCounters> {
        let base = get32(&self.header()?.counters);
        let at = offset(base, number as usize, size_of::<CoreCounters>());
        self.statistics().view(at)
    }

    fn core(&self, number: u32, owner: Option<String>) -> Result<Core> {
        let counters = self.counters(number)?;
        let by_reason = counters.reasons.iter().enumerate();
        Ok(Core {
            core: number,
            owner,
            dataplane: flags(get(&counters.dataplane)),
            exits: get(&counters.total),
            since_quiesce: get(&counters.since_quiesce),
            interrupts_since_quiesce: get(&counters.interrupts_since_quiesce),
            quiesce_count: get(&counters.quiesce_count),
            user_hypercalls: get(&counters.user_hypercalls),
            by_reason: by_reason
                .filter(|(_, count)| get(&count.total) != 0)
                .map(|(index, count)| ReasonCount {
                    reason: reason(index),
                    total: get(&count.total),
                    since_quiesce: get(&count.since_quiesce),
                    cycles: get(&count.cycles),
                    worst: get(&count.worst),
                    last_rip: Address(get(&count.last_rip)),
                })
                .collect(),
        })
    }
}
