//! Runs cases side by side, those that may take longest first.

use std::cmp::Reverse;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::{Parser, ValueEnum};
use xtask::{Accel, MachineKind, build, tools};

use super::{BOCHS_FACTOR, Bench, Case};

/// Boots machines and counts exits.
#[derive(Debug, Parser)]
struct Options {
    /// Run only cases with one of these in their name, e.g. strict or
    /// bochs::solo
    filter: Vec<String>,
    /// Leave out cases with this in their name
    #[arg(long)]
    skip: Vec<String>,
    /// The filters are whole names
    #[arg(long)]
    exact: bool,
    /// Name the cases and run none
    #[arg(long)]
    list: bool,
    /// The machine
    #[arg(long, value_enum, default_value_t = Machines::All)]
    machine: Machines,
    /// How QEMU runs
    #[arg(long, value_enum, default_value_t = Accel::Tcg)]
    accel: Accel,
    /// Cases at a time
    #[arg(long, visible_alias = "test-threads", default_value_t = 2)]
    jobs: usize,
    /// Do not install missing packages: name them
    #[arg(long)]
    no_install: bool,
    /// Accepted as by other tests; output is always shown
    #[arg(long, hide = true)]
    nocapture: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Machines {
    /// Both
    All,
    /// QEMU: AMD
    Qemu,
    /// Bochs: Intel
    Bochs,
}

impl Machines {
    const fn kinds(self) -> &'static [MachineKind] {
        match self {
            Self::All => &[MachineKind::Qemu, MachineKind::Bochs],
            Self::Qemu => &[MachineKind::Qemu],
            Self::Bochs => &[MachineKind::Bochs],
        }
    }
}

/// A case on a machine.
#[derive(Clone, Copy, Debug)]
struct Job {
    case: &'static Case,
    machine: MachineKind,
}

impl Job {
    fn name(self) -> String {
        format!("{}::{}", self.machine.name(), self.case.name)
    }

    /// Seconds that each of its machines may run on a host that does nothing
    /// else.
    fn deadline(self) -> u64 {
        self.case.deadline
            * match self.machine {
                MachineKind::Qemu => 1,
                MachineKind::Bochs => BOCHS_FACTOR,
            }
    }

    fn is_wanted(self, options: &Options) -> bool {
        let name = self.name();
        let fits = |filter: &String| {
            if options.exact {
                name == *filter || self.case.name == filter
            } else {
                name.contains(filter.as_str())
            }
        };
        (options.filter.is_empty() || options.filter.iter().any(fits))
            && !options.skip.iter().any(fits)
    }
}

/// What came of the jobs so far.
#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    ignored: usize,
    failures: Vec<(String, String)>,
}

/// Runs those of `cases` that the command line asks for (`--help`), on each
/// machine. Fails if one of them does.
#[must_use]
pub fn main(cases: &'static [Case]) -> ExitCode {
    let options = Options::parse();
    let all: Vec<Job> = options
        .machine
        .kinds()
        .iter()
        .flat_map(|&machine| cases.iter().map(move |case| Job { case, machine }))
        .collect();
    let wanted: Vec<Job> = all
        .iter()
        .copied()
        .filter(|job| job.is_wanted(&options))
        .collect();
    if options.list {
        for job in &wanted {
            println!("{}: test", job.name());
        }
        return ExitCode::SUCCESS;
    }
    let (mut possible, impossible): (Vec<Job>, Vec<Job>) = wanted
        .iter()
        .partition(|job| job.case.on.obstacle(job.machine).is_none());
    if !possible.is_empty()
        && let Err(error) = prepare(&possible, &options)
    {
        eprintln!("{error:#}");
        println!("test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out");
        return ExitCode::FAILURE;
    }
    let started = Instant::now();
    println!("\nrunning {} tests", wanted.len());
    let mut tally = Tally::default();
    for job in impossible {
        let why = job.case.on.obstacle(job.machine).unwrap_or_default();
        println!("test {} ... ignored, {why}", job.name());
        tally.ignored += 1;
    }
    let tally = Mutex::new(tally);
    possible.sort_by_key(|job| Reverse(job.deadline()));
    run(possible, options.jobs.max(1), options.accel, &tally);
    let tally = match tally.into_inner() {
        Ok(tally) => tally,
        Err(poisoned) => poisoned.into_inner(),
    };
    conclude(&tally, all.len() - wanted.len(), started)
}

/// Everything that takes long once: so that no case's deadline pays for it.
fn prepare(jobs: &[Job], options: &Options) -> Result<()> {
    let on = |machine| jobs.iter().any(|job| job.machine == machine);
    let mut needs = vec![tools::IMAGE];
    if on(MachineKind::Qemu) {
        needs.push(tools::QEMU);
    }
    if on(MachineKind::Bochs) {
        needs.push(tools::BOCHS);
    }
    tools::ensure(&needs, !options.no_install)?;
    build::everything()?;
    Ok(())
}

/// Runs `jobs`, so many `at_a_time`; every other one on Bochs, as long as there
/// are any, for its one thread gets on better beside QEMU's many than those do
/// beside others.
fn run(jobs: Vec<Job>, at_a_time: usize, accel: Accel, tally: &Mutex<Tally>) {
    let queue = Mutex::new(jobs);
    let next = |machine| {
        let mut queue = queue.lock().ok()?;
        let own = queue.iter().position(|job| job.machine == machine);
        (!queue.is_empty()).then(|| queue.remove(own.unwrap_or(0)))
    };
    let machines = [MachineKind::Qemu, MachineKind::Bochs].into_iter().cycle();
    thread::scope(|scope| {
        for machine in machines.take(at_a_time) {
            scope.spawn(move || {
                while let Some(job) = next(machine) {
                    one(job, accel, tally);
                }
            });
        }
    });
}

fn one(job: Job, accel: Accel, tally: &Mutex<Tally>) {
    let name = job.name();
    let started = Instant::now();
    let (result, notes) = guarded(job, accel);
    let seconds = started.elapsed().as_secs_f64();
    let verdict = if result.is_ok() { "ok" } else { "FAILED" };
    let mut text = format!("test {name} ... {verdict} ({seconds:.1} s)\n");
    for line in notes.iter().flat_map(|note| note.lines()) {
        text.push_str(&format!("    {line}\n"));
    }
    print!("{text}");
    if let Ok(mut tally) = tally.lock() {
        match result {
            Ok(()) => tally.passed += 1,
            Err(error) => {
                let detail = describe(&error);
                // At once: whoever waits for the end should not have to.
                println!("---- {name} ----\n{detail}\n");
                tally.failures.push((name, first_line(&detail)));
            }
        }
    }
}

/// The error and its causes, without the backtrace of this program.
fn describe(error: &anyhow::Error) -> String {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    causes.join("\ncaused by: ")
}

fn first_line(detail: &str) -> String {
    detail.lines().next().unwrap_or_default().to_owned()
}

/// The case on a thread of its own: neither a panic nor a wait without an end
/// keeps the others from running.
fn guarded(job: Job, accel: Accel) -> (Result<()>, Vec<String>) {
    let bench = Arc::new(Bench {
        machine: job.machine,
        accel,
        deadline: job.deadline(),
        notes: Mutex::new(Vec::new()),
    });
    let (sender, receiver) = mpsc::channel();
    let inside = Arc::clone(&bench);
    let thread = thread::Builder::new().name(job.name()).spawn(move || {
        // An error means that nobody waits any more.
        let _ = sender.send((job.case.run)(&inside));
    });
    // A case may boot several machines one after the other.
    let limit = Duration::from_secs((job.deadline() * 16).max(240));
    let result = match thread.context("cannot start a thread") {
        Err(error) => Err(error),
        Ok(_) => match receiver.recv_timeout(limit) {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Err(anyhow!("the case panicked")),
            Err(RecvTimeoutError::Timeout) => {
                Err(anyhow!("the case did not end within {} s", limit.as_secs()))
            }
        },
    };
    let notes = bench.notes.lock().map(|n| n.clone()).unwrap_or_default();
    (result, notes)
}

fn conclude(tally: &Tally, filtered: usize, started: Instant) -> ExitCode {
    if !tally.failures.is_empty() {
        println!("\nfailures:");
        for (name, why) in &tally.failures {
            println!("    {name}: {why}");
        }
    }
    let ok = tally.failures.is_empty();
    println!(
        "\ntest result: {}. {} passed; {} failed; {} ignored; 0 measured; {filtered} filtered \
         out; finished in {:.1}s\n",
        if ok { "ok" } else { "FAILED" },
        tally.passed,
        tally.failures.len(),
        tally.ignored,
        started.elapsed().as_secs_f64()
    );
    if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
