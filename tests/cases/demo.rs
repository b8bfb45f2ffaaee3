//! The systems that come with Cloister.

use std::fs;

use anyhow::{Context, Result};
use cloister_tests::cases::Bench;
use cloister_tests::{Ended, LinuxState, PartitionState};
use xtask::paths;

use crate::control::{equal, json, list};
use crate::linux::calm;

/// Iterations that the demo's strict partition must have made.
const DEMO_ITERATIONS: u64 = 100_000_000;

/// `partitions/solo.toml`: no Linux.
pub(crate) fn solo(bench: &Bench) -> Result<()> {
    let ended = bench
        .file(paths::root().join("partitions/solo.toml"))
        .run_to_end()?
        .completed()?;
    ended
        .partition("spin")?
        .finished(0)?
        .since_quiesce(0)?
        .interrupts(0)?
        .dataplane(&["quiesce", "strict", "populate"])?;
    ended
        .partition("exits")?
        .finished(0)?
        .says("exits: ok")?
        .exits_of("cpuid", 3)?
        .exits_of("rdmsr", 2)?;
    let vendor = bench.choose("amd", "intel");
    let got = ended.report().platform.vendor.clone();
    ended.check(got == vendor, format!("vendor {got}, expected {vendor}"))?;
    Ok(())
}

/// `partitions/demo.toml`, as a user runs it first.
pub(crate) fn demo(bench: &Bench) -> Result<()> {
    // It powers off when the strict partition has made its iterations.
    let ended = bench
        .file(paths::demo())
        .run(&format!(
            "echo nproc=$(nproc); echo release=$(uname -r); dmesg | tail -3; \
             grep -c ^processor /proc/cpuinfo; \
             until cloister console spin | grep -q 'quanta={DEMO_ITERATIONS} '; do sleep 1; done; {}",
            list("listed")
        ))?
        .completed()?;
    ended.linux()?.run_status(0)?.state(LinuxState::Off)?;
    calm(&ended)?;
    expect(&ended, "nproc", "2")?;
    expect(&ended, "release", &packaged_release()?)?;
    let spin = ended.partition("spin")?;
    spin.since_quiesce(0)?.interrupts(0)?.violations(0)?;
    let iterations = spin.value("quanta").or_else(|_| spin.value("iterations"))?;
    spin.check(
        iterations >= DEMO_ITERATIONS,
        format!("{iterations} iterations, expected {DEMO_ITERATIONS} at least"),
    )?;
    let state = spin.report().state;
    spin.check(
        matches!(state, PartitionState::Running | PartitionState::Finished),
        format!("state {}", state.name()),
    )?;
    ended
        .partition("exits")?
        .finished(0)?
        .says("exits: ok")?
        .exits_of("cpuid", 3)?
        .exits_of("rdmsr", 2)?;
    listed(&ended, &["spin", "exits"])?;
    bench.note(format!("{iterations} strict iterations, 0 exits"));
    Ok(())
}

/// The tool has listed these partitions, of which the first keeps STRICT.
pub(crate) fn listed(ended: &Ended, names: &[&str]) -> Result<()> {
    let list = json(ended, "listed")?;
    let all = list["partitions"].as_array().context("no partitions")?;
    let found: Vec<&str> = all
        .iter()
        .filter_map(|each| each["name"].as_str())
        .collect();
    equal(ended, "names", found, names.to_vec())?;
    for each in all {
        let over = each["state"] == "finished" && each["exit_code"] == 0;
        let message = format!("the tool lists {each}");
        ended
            .clone()
            .check(over || each["state"] == "running", message)?;
    }
    let cores = list["cores"].as_array().into_iter().flatten();
    let mut strict = cores.filter(|core| core["owner"] == names[0]);
    let core = strict.next().context("no core of it")?;
    equal(
        ended,
        "exits since quiesce",
        core["since_quiesce"].clone(),
        0,
    )?;
    equal(ended, "quiet", core["quiesce_count"].clone(), 1)
}

/// Linux printed `key=expected`.
pub(crate) fn expect(ended: &Ended, key: &str, expected: &str) -> Result<()> {
    let got = ended.linux_value(key)?;
    if got == expected {
        return Ok(());
    }
    Err(ended.failure(format!("Linux says {key}={got}, expected {expected}")))
}

/// Debian's kernel, byte for byte.
pub(crate) fn packaged_kernel() -> Result<Vec<u8>> {
    let release = packaged_release()?;
    let package = format!("linux-image-{release}/boot/vmlinuz-{release}");
    let file = paths::target().join("guest-linux").join(package);
    fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
}

/// The release that the kernel package's own file names.
fn packaged_release() -> Result<String> {
    let cache = paths::target().join("guest-linux");
    fs::read_dir(&cache)
        .with_context(|| format!("cannot read {}", cache.display()))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find_map(|name| {
            let release = name.strip_prefix("linux-image-")?;
            release
                .starts_with(|c: char| c.is_ascii_digit())
                .then(|| release.to_owned())
        })
        .context("no unpacked linux-image package")
}
