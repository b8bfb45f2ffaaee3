//! The threads of QEMU (TCG) that are the machine's cores: with
//! `-name …,debug-threads=on` a thread's name says which it is.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{Pid, setpriority_process};

/// How much less than others' work that of a yielding core weighs (nice
/// value, sched(7)): a ninth of the time where both want a processor.
const YIELDING: i32 = 10;

/// Learns the threads while the machine runs.
#[derive(Debug)]
pub(super) struct Threads {
    cores: u32,
    yielding: Vec<u32>,
    by_thread: BTreeMap<u32, u32>,
}

impl Threads {
    /// Of a machine with `cores` cores, of which those `yielding` let the
    /// others run first where the host has fewer processors than the machine.
    pub(super) fn new(cores: u32, yielding: Vec<u32>) -> Self {
        Self {
            cores,
            yielding,
            by_thread: BTreeMap::new(),
        }
    }

    /// Whether each core's thread is known.
    pub(super) fn complete(&self) -> bool {
        u32::try_from(self.by_thread.len()).is_ok_and(|known| known >= self.cores)
    }

    /// Core numbers by thread, so far.
    pub(super) fn by_thread(&self) -> &BTreeMap<u32, u32> {
        &self.by_thread
    }

    /// Looks for threads of process `process` that are not known yet.
    pub(super) fn look(&mut self, process: u32) {
        if self.complete() {
            return;
        }
        let tasks = fs::read_dir(format!("/proc/{process}/task"));
        for task in tasks.into_iter().flatten().filter_map(Result::ok) {
            let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            let number = task.file_name().to_string_lossy().parse().ok();
            if let (Some(thread), Some(core)) = (number, core_of_thread(&name))
                && self.by_thread.insert(thread, core).is_none()
                && self.yielding.contains(&core)
            {
                yield_to_others(thread);
            }
        }
    }
}

/// On Linux, priorities are a thread's own (setpriority(2), BUGS).
fn yield_to_others(thread: u32) {
    let id = i32::try_from(thread).ok().and_then(Pid::from_raw);
    // An error says that the machine has ended meanwhile, or that it weighs
    // even less already.
    let _ = setpriority_process(id, YIELDING);
}

/// `CPU 3/TCG`: the name of QEMU's thread for core 3.
fn core_of_thread(name: &str) -> Option<u32> {
    name.trim()
        .strip_prefix("CPU ")?
        .strip_suffix("/TCG")?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_threads() {
        assert_eq!(core_of_thread("CPU 12/TCG\n"), Some(12));
        for other in ["CPU 1/KVM", "qemu-system-x86", "CPU x/TCG", ""] {
            assert_eq!(core_of_thread(other), None, "{other}");
        }
    }
}
