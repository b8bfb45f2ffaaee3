//! `cargo xtask test`: every test there is.

use std::io::{BufRead, BufReader, Write, stderr, stdout};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use xtask::build::{PROGRAM_PREFIX, TARGET, cargo, metadata};
use xtask::tools;

/// Run every test: format, lints, host tests, rules, then the machines.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Leave the machines out: what takes seconds
    #[arg(long)]
    host_only: bool,
    /// Only this machine's cases, besides what needs none [default: both]
    #[arg(long, value_parser = ["qemu", "bochs"], conflicts_with = "host_only")]
    machine: Option<String>,
    /// Do not install missing packages: name them
    #[arg(long)]
    no_install: bool,
}

/// The package of the cases that boot machines.
const MACHINE_CASES: &str = "cloister-tests";

/// What is built for the bare machine, besides programs.
const NO_STD: [&str; 4] = [
    "hypervisor",
    "cloister-bare",
    "cloister-runtime",
    "cloister-net",
];
/// Those of them whose tests run on the host.
const HOST_TESTED: [&str; 2] = ["cloister-runtime", "cloister-net"];
/// Those of them that have nothing to test on the host, for they are images.
const IMAGES: [&str; 2] = ["hypervisor", "cloister-bare"];

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

impl Arguments {
    pub(crate) fn run(self) -> Result<ExitCode> {
        // The lints already want the Rust targets.
        tools::ensure(&[], !self.no_install)?;
        let no_std = no_std_packages()?;
        let mut total = Count::default();
        let mut add = |count: Count| {
            total.passed += count.passed;
            total.failed += count.failed;
        };

        add(step("format", cargo().args(["fmt", "--all", "--check"]))?);
        let mut host = cargo();
        host.args(["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]);
        add(step("lints, host", &mut host)?);
        let mut libraries = cargo();
        libraries.args(["clippy", "--quiet", "--tests"]);
        for package in no_std.iter().filter(|p| !IMAGES.contains(&p.as_str())) {
            libraries.args(["--package", package]);
        }
        libraries.args(["--", "-D", "warnings"]);
        add(step(
            "lints, tests of runtime and programs",
            &mut libraries,
        )?);
        let mut target = cargo();
        target.args(["clippy", "--quiet", "--release", "--target", TARGET]);
        for package in &no_std {
            target.args(["--package", package]);
        }
        target.args(["--", "-D", "warnings"]);
        add(step("lints, hypervisor and programs", &mut target)?);
        add(rules()?);

        let mut tests = cargo();
        tests.args(["test", "--quiet", "--no-fail-fast", "--workspace"]);
        let elsewhere = no_std.iter().map(String::as_str).chain([MACHINE_CASES]);
        for package in elsewhere.filter(|package| !HOST_TESTED.contains(package)) {
            tests.args(["--exclude", package]);
        }
        add(cases("host tests", &mut tests)?);

        if !self.host_only {
            let needs: &[_] = match self.machine.as_deref() {
                Some("qemu") => &[tools::IMAGE, tools::QEMU],
                Some("bochs") => &[tools::IMAGE, tools::BOCHS],
                _ => &[tools::IMAGE, tools::QEMU, tools::BOCHS],
            };
            tools::ensure(needs, !self.no_install)?;
            let mut machines = cargo();
            machines.args(["test", "--no-fail-fast", "--package", MACHINE_CASES]);
            if let Some(machine) = &self.machine {
                machines.args(["--test", "machines", "--", "--machine", machine]);
            }
            add(cases("machines", &mut machines)?);
        }

        println!("{} passed, {} failed", total.passed, total.failed);
        Ok(if total.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// What is built for the bare machine: the hypervisor, what stands in its
/// place, the runtime, the drivers, the programs.
fn no_std_packages() -> Result<Vec<String>> {
    let is_no_std = |name: &str| NO_STD.contains(&name) || name.starts_with(PROGRAM_PREFIX);
    Ok(metadata(true)?
        .packages
        .into_iter()
        .map(|package| package.name)
        .filter(|name| is_no_std(name))
        .collect())
}

/// A command that counts as one test.
fn step(name: &str, command: &mut Command) -> Result<Count> {
    announce(name);
    let started = Instant::now();
    let status = command
        .stdout(Stdio::from(stderr()))
        .status()
        .with_context(|| format!("cannot run {name}"))?;
    Ok(verdict(name, status.success(), started))
}

fn rules() -> Result<Count> {
    let name = "system files and import rules";
    announce(name);
    let started = Instant::now();
    let complaints = xtask::check::everything()?;
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    Ok(verdict(name, complaints.is_empty(), started))
}

/// A `cargo test`: counts what its `test result:` lines say. If it fails
/// without a failed test (it does not compile, or crashes) that is one.
fn cases(name: &str, command: &mut Command) -> Result<Count> {
    announce(name);
    let started = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let mut count = Count::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            let mut out = stdout().lock();
            out.write_all(&line)?;
            out.write_all(b"\n")?;
            out.flush()?;
            if let Some(more) = result_line(&String::from_utf8_lossy(&line)) {
                count.passed += more.passed;
                count.failed += more.failed;
            }
        }
    }
    let status = child.wait()?;
    if !status.success() && count.failed == 0 {
        count.failed = 1;
    }
    eprintln!(
        "== {name}: {} passed, {} failed ({:.1} s)",
        count.passed,
        count.failed,
        started.elapsed().as_secs_f64()
    );
    Ok(count)
}

fn announce(name: &str) {
    eprintln!("== {name}");
}

fn verdict(name: &str, passed: bool, started: Instant) -> Count {
    let seconds = started.elapsed().as_secs_f64();
    let word = if passed { "passed" } else { "FAILED" };
    eprintln!("== {name}: {word} ({seconds:.1} s)");
    Count {
        passed: u64::from(passed),
        failed: u64::from(!passed),
    }
}

/// The counts in `test result: ok. 8 passed; 0 failed; …`, the last line of
/// a Rust test binary.
fn result_line(line: &str) -> Option<Count> {
    let (_, counts) = line.split_once("test result: ")?;
    let number = |word: &str| {
        counts
            .split([';', '.'])
            .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
    };
    Some(Count {
        passed: number("passed")?,
        failed: number("failed")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_counted() {
        let count = |passed, failed| Some(Count { passed, failed });
        assert_eq!(
            result_line("test result: ok. 8 passed; 0 failed; 1 ignored; 0 measured; 0.1s"),
            count(8, 0)
        );
        assert_eq!(
            result_line("test result: FAILED. 12 passed; 3 failed; 0 ignored"),
            count(12, 3)
        );
        assert_eq!(result_line("test a::b ... ok"), None);
        assert_eq!(result_line("8 passed; 1 failed"), None);
    }
}
