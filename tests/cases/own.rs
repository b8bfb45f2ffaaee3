//! A program in a repository of its own, tested as the crate's documentation
//! says.

use std::fs;

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::{Console, LinuxState, build_program, linux, part, partitions, with_linux};
use xtask::paths;

const MAIN: &str = r#"//! Sums for a while, undisturbed.
#![no_std]
#![no_main]

use cloister_runtime::{Dataplane, Partition, entry, println, set_dataplane};

entry!(main);

fn main(partition: &Partition) -> u64 {
    let rounds = partition.number("rounds", 10).unwrap_or(0);
    if let Err(error) = set_dataplane(Dataplane::STRICT | Dataplane::POPULATE) {
        println!("no dataplane mode: {error}");
        return 1;
    }
    let sum = (0..rounds).fold(0u64, |sum, n| sum.wrapping_add(core::hint::black_box(n)));
    println!("sum={sum}");
    0
}
"#;

/// The package outside Cloister's workspace.
pub(crate) fn repository(bench: &Bench) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let runtime = paths::root().join("partitions/runtime");
    fs::create_dir(folder.path().join("src"))?;
    fs::write(folder.path().join("src/main.rs"), MAIN)?;
    fs::write(
        folder.path().join("Cargo.toml"),
        format!(
            "[package]\nname = \"packet-loop\"\nedition = \"2024\"\n\n\
             [dependencies]\ncloister-runtime = {{ path = {runtime:?} }}\n\n\
             [profile.release]\npanic = \"abort\"\n\n[workspace]\n"
        ),
    )?;
    // The versions that Cloister's own programs have: nothing is fetched.
    fs::copy(
        paths::root().join("Cargo.lock"),
        folder.path().join("Cargo.lock"),
    )?;
    let elf = build_program(folder.path(), "packet-loop")?;
    let ours = part("ours", "packet-loop")
        .cores("[1]")
        .args("rounds=100000")
        .may("strict populate");
    let ended = bench
        .system(partitions([ours]))
        .program("packet-loop", elf)
        .run_to_end()?
        .completed()?;
    ended
        .partition("ours")?
        .finished(0)?
        .since_quiesce(0)?
        .interrupts(0)?
        .says("sum=4999950000")?;
    Ok(())
}

/// A user at the console: a shell, Ctrl-C, power-off.
pub(crate) fn shell(bench: &Bench) -> Result<()> {
    let mut machine = bench.system(with_linux(&linux("[0, 1]"), [])).start()?;
    machine.wait_for(Console::Linux, " # ", 60)?;
    machine.type_line("echo answer=$((20 + 22))")?;
    machine.wait_for(Console::Linux, "answer=42", 10)?;
    machine.wait_for(Console::Linux, " # ", 10)?;
    machine.type_line("sleep 1000; echo slept=$?")?;
    machine.run_for(500);
    machine.type_bytes(b"\x03")?;
    machine.wait_for(Console::Linux, " # ", 10)?;
    machine.type_line("echo again=$((6 * 7))")?;
    machine.wait_for(Console::Linux, "again=42", 10)?;
    machine.type_line("poweroff -f")?;
    let ended = machine.finish()?.completed()?;
    ended.linux()?.state(LinuxState::Off)?;
    Ok(())
}
