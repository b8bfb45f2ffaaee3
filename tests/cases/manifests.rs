//! Systems that do not boot: each error says where it is and what would be
//! right, on the host before anything is built, and in the hypervisor where
//! only the machine can tell.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use cloister_manifest::{CpuSet, Manifest, encode, parse};
use cloister_tests::cases::Bench;
use cloister_tests::{System, linux, part, partitions, with_linux};
use xtask::build::cargo;
use xtask::check;

use crate::counting::exits;

/// What the table's systems begin with: 11 lines.
const HEAD: &str = r#"[hypervisor]
memory = "32M"
console = "com2"

[linux]
cpus = [0, 1]
kernel = "vmlinuz"
initrd = "initrd.img"
cmdline = "console=ttyS0"

[[partition]]
"#;

/// Lines after [`HEAD`]; line and key of the error; words of it.
type Bad = (&'static str, &'static str, &'static str, &'static str);

const GOOD: &str = "name = \"a\"\ncpus = [2]\nmemory = \"16M\"\nprogram = \"spin.elf\"\n";

const BAD: &[Bad] = &[
    ("cpus = [2", ":13: ", "TOML syntax", "missing comma"),
    ("nam = \"a\"", ":12: ", "partition[0].nam", "unknown key"),
    ("name = 3", ":12: ", "partition[0].name", "\"spin\""),
    (
        "name = \"linux\"",
        ":12: ",
        "partition[0].name",
        "another name",
    ),
    ("name = \"A b\"", ":12: ", "partition[0].name", "is no name"),
    (
        "+cpus = [1]",
        ":13: ",
        "partition[0].cpus",
        "belongs to linux",
    ),
    ("+cpus = []", ":13: ", "partition[0].cpus", "at least one"),
    ("+cpus = [64]", ":13: ", "partition[0].cpus[0]", "0 to 63"),
    ("+cpus = [2, 2]", ":13: ", "partition[0].cpus[1]", "twice"),
    ("+memory = \"15M\"", ":14: ", "partition[0].memory", "2M"),
    ("+memory = 16", ":14: ", "partition[0].memory", "\"64M\""),
    ("+memory = \"200G\"", ":14: ", "partition[0].memory", "128G"),
    (
        "+program = \"a/b\"",
        ":15: ",
        "partition[0].program",
        "no module name",
    ),
    ("+program = \"none.elf\"", "", "none.elf", "spin"),
    (
        "*dataplane = [\"strikt\"]",
        ":16: ",
        "partition[0].dataplane[0]",
        "strict",
    ),
    (
        "*on_violation = \"ignore\"",
        ":16: ",
        "partition[0].on_violation",
        "report",
    ),
    (
        "*max_restarts = 2",
        ":16: ",
        "partition[0].max_restarts",
        "restart",
    ),
    ("*apic = \"yes\"", ":16: ", "partition[0].apic", "true"),
    (
        "*ports = [{ base = 0x2f8, count = 8 }]",
        ":16: ",
        "partition[0].ports[0]",
        "console",
    ),
    (
        "*ports = [{ base = 0xfffe, count = 8 }]",
        ":16: ",
        "partition[0].ports[0]",
        "0x",
    ),
    (
        "*ports = [{ base = 0xcf8, count = 4 }]",
        ":16: ",
        "partition[0].ports[0]",
        "0xcf9",
    ),
    (
        "*devices = [\"3.0\"]",
        ":16: ",
        "partition[0].devices[0]",
        "0000:00:03.0",
    ),
    (
        "*[[channel]]\nname = \"c\"\nbetween = [\"linux\", \"b\"]\nsize = \"64K\"",
        ":18: ",
        "channel[0].between",
        "\"b\"",
    ),
    (
        "*[[channel]]\nname = \"a\"\nbetween = [\"linux\", \"a\"]\nsize = \"64K\"",
        ":17: ",
        "channel[0].name",
        "own name",
    ),
    (
        "*[[partition]]\nname = \"b\"\ncpus = [2]\nmemory = \"16M\"\nprogram = \"spin.elf\"",
        ":18: ",
        "partition[1].cpus",
        "belongs to partition \"a\"",
    ),
    ("*[linus]\n", ":16: ", "linus", "unknown"),
];

/// `+KEY = …` replaces that line of [`GOOD`], `*…` comes after it, and
/// anything else stands in its first line's place.
fn compose(lines: &str) -> String {
    if let Some(more) = lines.strip_prefix('*') {
        return format!("{HEAD}{GOOD}{more}\n");
    }
    let new = lines.strip_prefix('+').unwrap_or(lines);
    let key = new.split(' ').next().unwrap_or_default();
    let mut text = HEAD.to_owned();
    for (number, line) in GOOD.lines().enumerate() {
        let replaced = if lines.starts_with('+') {
            line.starts_with(&format!("{key} "))
        } else {
            number == 0
        };
        text.push_str(if replaced { new } else { line });
        text.push('\n');
    }
    text
}

/// `cargo xtask check FILE` for every kind of error.
pub(crate) fn checked_on_the_host(_: &Bench) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("bad.toml");
    let complaints = |text: &str| -> Result<String> {
        fs::write(&file, text)?;
        Ok(check::system_files(std::slice::from_ref(&file)).join("\n"))
    };
    let good = complaints(&compose("*"))?;
    ensure!(good.is_empty(), "the good system is refused: {good}");
    let mut wrong = String::new();
    for &(lines, line, key, words) in BAD {
        let said = complaints(&compose(lines))?;
        let place = format!("bad.toml{line}{key}");
        let at_place = said.contains(&place) || (line.is_empty() && said.contains(key));
        if !at_place || !said.contains(words) {
            wrong.push_str(&format!(
                "{lines:?} expected {place} … {words}, got {said}\n"
            ));
        }
    }
    ensure!(wrong.is_empty(), "{wrong}");
    // As a user has it: the message on standard error, and a bad status.
    fs::write(&file, compose("+memory = \"15M\""))?;
    let output = cargo()
        .args(["xtask", "check"])
        .arg(&file)
        .output()
        .context("cannot run cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "xtask check accepts it");
    ensure!(
        said.contains("bad.toml:14: partition[0].memory"),
        "xtask check says {said:?}"
    );
    Ok(())
}

/// The compiled form of a system, and what the hypervisor says to it.
fn refused(bench: &Bench, blob: Vec<u8>, words: &[&str]) -> Result<()> {
    bench
        .system(small())
        .manifest_blob(blob)
        .run_refused()?
        .refused(words)?;
    Ok(())
}

fn small() -> String {
    partitions([exits("exits", 0, "cpuid=1"), exits("other", 1, "cpuid=1")])
}

fn manifest() -> Result<Manifest> {
    match parse("small.toml".as_ref(), &small()) {
        Ok(loaded) => Ok(loaded.manifest),
        Err(errors) => bail!("{errors}"),
    }
}

/// The hypervisor trusts no byte of the compiled manifest.
pub(crate) fn broken_blob(bench: &Bench) -> Result<()> {
    let good = encode(&manifest()?);
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    let byte = flipped.get_mut(middle).context("an empty blob")?;
    *byte ^= 1;
    refused(bench, flipped, &["module \"manifest\"", "checksum"])?;
    let cut = good.get(..good.len() - 3).context("a short blob")?;
    refused(bench, cut.to_vec(), &["module \"manifest\"", "bytes"])?;
    refused(
        bench,
        b"no manifest at all, but text".to_vec(),
        &["module \"manifest\"", "not a compiled manifest"],
    )?;
    let mut other = good;
    let version = other.get_mut(8).context("a short blob")?;
    *version = version.wrapping_add(7);
    refused(bench, other, &["module \"manifest\"", "format"])
}

/// A manifest that no tool of ours would have compiled is validated again.
pub(crate) fn forged_blob(bench: &Bench) -> Result<()> {
    let mut forged = manifest()?;
    let cpus: CpuSet = [0].into_iter().collect();
    forged.partitions.get_mut(1).context("two partitions")?.cpus = cpus;
    refused(bench, encode(&forged), &["partition[1].cpus", "\"exits\""])?;
    let mut forged = manifest()?;
    forged
        .partitions
        .get_mut(0)
        .context("two partitions")?
        .memory = 3 << 20;
    refused(bench, encode(&forged), &["partition[0].memory"])
}

/// What only the machine can tell.
pub(crate) fn machine(bench: &Bench) -> Result<()> {
    let missing = |name: &str, system: System| -> Result<()> {
        let words = [name, "module2"];
        system.without_module(name).run_refused()?.refused(&words)?;
        Ok(())
    };
    missing("exits.elf", bench.system(small()))?;
    bench
        .system(partitions([exits("far", 5, "cpuid=1")]))
        .cores(2)
        .run_refused()?
        .refused(&["partition[0].cpus", "5"])?;
    bench
        .system(partitions([exits("big", 0, "cpuid=1").memory("1G")]))
        .memory(256 << 20)
        .run_refused()?
        .refused(&["memory", "big", "1 GiB"])?;
    let device = exits("device", 0, "cpuid=1").key("devices = [\"0000:00:02.0\"]");
    bench
        .system(partitions([device]))
        .run_refused()?
        .refused(&["partition[0].devices", "IOMMU"])?;
    Ok(())
}

/// The same with Linux: no kernel, no initrd, no memory left for it.
pub(crate) fn machine_with_linux(bench: &Bench) -> Result<()> {
    let system = || with_linux(&linux("[0]"), [exits("exits", 1, "cpuid=1")]);
    for name in ["vmlinuz", "initrd.img"] {
        bench
            .system(system())
            .without_module(name)
            .run_refused()?
            .refused(&[name, "module2"])?;
    }
    let greedy = part("greedy", "spin.elf").cores("[1]").memory("192M");
    bench
        .system(with_linux(&linux("[0]"), [greedy]))
        .memory(256 << 20)
        .run_refused()?
        .refused(&["memory"])?;
    Ok(())
}
