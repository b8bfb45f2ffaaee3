//! The outside witness: VM exits as the machine itself writes them down, next
//! to which the hypervisor's own counters can be held.
//!
//! QEMU (TCG) logs `vmrun! VMCB` and `vmexit(CODE, INFO1, INFO2, RIP)!` under
//! `-d in_asm`; with `-d tid` each thread has a file of its own. `-dfilter` keeps
//! the disassembly itself out. Bochs logs `VMEXIT reason = …` with core and tick
//! among the debug messages of its processors.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use cloister_abi::Reason;

use super::codes;
use super::threads::Threads;

/// One VM exit, seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutsideExit {
    /// What it was, where code and qualification alone tell. VMX has one code
    /// for exceptions and NMIs: [`None`].
    pub reason: Option<Reason>,
    /// SVM exit code (APM vol. 2, appendix C), or VMX basic exit reason (SDM
    /// vol. 3, appendix C).
    pub code: u64,
    /// EXITINFO1, or the exit qualification.
    pub qualification: u64,
    /// Guest RIP; Bochs does not log it.
    pub rip: Option<u64>,
    /// Emulated instructions before it; QEMU does not log them.
    pub tick: Option<u64>,
}

/// What the witness saw: every core's exits, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Testimony {
    cores: BTreeMap<u32, Vec<OutsideExit>>,
}

impl Testimony {
    /// The exits of core number `core`, in order.
    #[must_use]
    pub fn core(&self, core: u32) -> &[OutsideExit] {
        self.cores.get(&core).map_or(&[], Vec::as_slice)
    }

    /// How many exits of each reason core `core` took, by its name in reports;
    /// what no reason is known for counts as `exception-or-nmi`.
    #[must_use]
    pub fn by_reason(&self, core: u32) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for exit in self.core(core) {
            let name = exit.reason.map_or("exception-or-nmi", Reason::name);
            *counts.entry(name.to_owned()).or_default() += 1;
        }
        counts
    }

    fn add(&mut self, core: u32, exit: OutsideExit) {
        self.cores.entry(core).or_default().push(exit);
    }
}

/// The witness of a machine that runs.
#[derive(Debug)]
pub(super) enum Witness {
    /// Log files by thread.
    Qemu(PathBuf),
    /// What a thread has read from Bochs' log so far.
    Bochs(Arc<Mutex<Testimony>>),
}

impl Witness {
    /// What it saw of QEMU's `threads`. Complete when the process has ended.
    ///
    /// # Errors
    /// A core's thread was never seen, or a line of a log is not understood.
    pub(super) fn testimony(&self, threads: Option<&Threads>) -> Result<Testimony> {
        match self {
            Self::Bochs(testimony) => Ok(testimony
                .lock()
                .map_err(|_| anyhow::anyhow!("the reader of Bochs' log panicked"))?
                .clone()),
            Self::Qemu(folder) => {
                let threads = threads
                    .filter(|threads| threads.complete())
                    .context("the witness does not know the threads of all of QEMU's cores")?;
                let mut testimony = Testimony::default();
                for (thread, core) in threads.by_thread() {
                    let path = folder.join(format!("exits{thread}"));
                    // A thread that logged nothing has no file.
                    let text = fs::read_to_string(&path).unwrap_or_default();
                    for exit in qemu_log(&text).with_context(|| format!("core {core}"))? {
                        testimony.add(*core, exit);
                    }
                }
                Ok(testimony)
            }
        }
    }
}

/// The exits in the log of one core. Each follows an entry, so that none can
/// be overlooked.
fn qemu_log(text: &str) -> Result<Vec<OutsideExit>> {
    let mut exits = Vec::new();
    let mut entries = 0;
    for line in text.lines() {
        if line.starts_with("vmrun!") {
            entries += 1;
        } else if let Some(at) = line.find("vmexit(") {
            // What an entry injects stands before it on the same line.
            let message = line.get(at..).unwrap_or_default();
            exits.push(qemu_line(message).with_context(|| format!("{line:?}"))?);
            ensure!(
                exits.len() == entries,
                "{} exits after {entries} entries at {line:?}",
                exits.len()
            );
        }
    }
    // The core may be in its guest at the end.
    ensure!(
        entries <= exits.len() + 1,
        "{entries} entries and {} exits",
        exits.len()
    );
    Ok(exits)
}

/// `vmexit(00000400, 0000000200000006, 0000000000002000, 0000000000102000)!`
fn qemu_line(line: &str) -> Option<OutsideExit> {
    let fields = line.strip_prefix("vmexit(")?.strip_suffix(")!")?;
    let mut numbers = fields
        .split(", ")
        .map(|field| u64::from_str_radix(field, 16).ok());
    let mut next = || numbers.next().flatten();
    let (code, qualification, _info2, rip) = (next()?, next()?, next()?, next()?);
    Some(OutsideExit {
        reason: codes::svm(code, qualification),
        code,
        qualification,
        rip: Some(rip),
        tick: None,
    })
}

/// Reads Bochs' log to its end, and keeps its exits in `testimony`.
pub(super) fn read_bochs(log: impl Read, testimony: &Mutex<Testimony>) {
    let lines = BufReader::new(log).split(b'\n').map_while(Result::ok);
    for line in lines {
        if let Some((core, exit)) = bochs_line(&String::from_utf8_lossy(&line))
            && let Ok(mut testimony) = testimony.lock()
        {
            testimony.add(core, exit);
        }
    }
}

/// `00139725930d[CPU1  ] VMEXIT reason = 48 (EPT Violation) qualification=0x81`
fn bochs_line(line: &str) -> Option<(u32, OutsideExit)> {
    let (prefix, message) = line.split_once("] VMEXIT reason = ")?;
    let (tick, core) = prefix.split_once("d[CPU")?;
    let (code, rest) = message.split_once(' ')?;
    let (_, qualification) = rest.rsplit_once("qualification=0x")?;
    let code = code.parse().ok()?;
    let qualification = u64::from_str_radix(qualification.trim(), 16).ok()?;
    let exit = OutsideExit {
        reason: codes::vmx(code, qualification),
        code,
        qualification,
        rip: None,
        tick: tick.parse().ok(),
    };
    Some((core.trim().parse().ok()?, exit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_machines() {
        let line = "vmexit(0000007b, 0000000000800211, 0000000000103246, 0000000000103244)!";
        let exit = qemu_line(line).unwrap();
        assert_eq!(exit.reason, Some(Reason::PortIn));
        assert_eq!((exit.code, exit.rip), (0x7b, Some(0x10_3244)));
        assert_eq!(qemu_line("vmexit(7b, x, 0, 0)!"), None);

        let line = "00139725930d[CPU1  ] VMEXIT reason = 48 (EPT Violation) qualification=0x81";
        let (core, exit) = bochs_line(line).unwrap();
        assert_eq!(core, 1);
        assert_eq!(exit.reason, Some(Reason::NestedPageFault));
        assert_eq!((exit.qualification, exit.tick), (0x81, Some(139_725_930)));
        let other = "00139725930e[CPU1  ] VMEXIT: EPT violation for guest paddr 0x2000";
        assert_eq!(bochs_line(other), None);
    }

    #[test]
    fn every_entry_of_qemu_has_its_exit() {
        let exit = "vmexit(00000072, 0000000000000000, 0000000000000000, 00000000001034c2)!\n";
        let good = format!("vmrun! 3de40000\n{exit}vmrun! 3de40000\nInjecting(0x800): EXEPT{exit}");
        assert_eq!(qemu_log(&good).unwrap().len(), 2);
        assert_eq!(
            qemu_log(&format!("{good}vmrun! 3de40000\n")).unwrap().len(),
            2
        );
        let (_, without_entry) = good.split_once('\n').unwrap();
        assert!(qemu_log(without_entry).is_err());
        assert!(qemu_log("vmrun! 1\nvmrun! 1\n").is_err());
    }

    #[test]
    fn each_core_has_a_thread() {
        let witness = Witness::Qemu("/nonexistent".into());
        assert!(witness.testimony(None).is_err());
        let unknown = Threads::new(2, Vec::new());
        assert!(witness.testimony(Some(&unknown)).is_err());
    }

    #[test]
    fn bochs_log_is_sorted_by_core() {
        let log = "1d[CPU0  ] VMEXIT reason = 10 (CPUID) qualification=0x0\n\
                   2i[CPU1  ] something else\n\
                   3d[CPU1  ] VMEXIT reason = 18 (VMCALL) qualification=0x0\n\
                   4d[CPU0  ] VMEXIT reason = 0 (Exception or NMI) qualification=0x0\n";
        let testimony = Mutex::default();
        read_bochs(log.as_bytes(), &testimony);
        let testimony = testimony.into_inner().unwrap();
        assert_eq!(testimony.core(1).len(), 1);
        assert!(testimony.core(2).is_empty());
        let counts = testimony.by_reason(0);
        assert_eq!(counts.get("cpuid"), Some(&1));
        assert_eq!(counts.get("exception-or-nmi"), Some(&1));
    }
}
