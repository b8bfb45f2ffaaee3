//! One right system file, and everything that can be wrong with it.

mod owners;
mod values;

use std::path::Path;

use super::{Errors, Loaded, load, parse};
use crate::{Console, Dma, OnViolation, PortRange, Problem, blob};

const GOOD: &str = r#"[hypervisor]
memory = "32M"
console = "com2"

[linux]
cpus = [0, 1]
kernel = "vmlinuz"
initrd = "initrd.img"
cmdline = "quiet console=ttyS0"
debug = [1]

[[partition]]
name = "spin"
cpus = [2, 3]
memory = "64M"
program = "spin.elf"
args = "quanta=1000000"
dataplane = ["strict", "populate"]
autostart = false
on_violation = "restart"
max_restarts = 5
restart_window = "10m"
apic = true
ports = [{ base = 0x3e8, count = 8 }]
devices = ["0000:00:03.0", { address = "0000:00:04.0", dma = "unprotected" }]

[[partition]]
name = "other"
cpus = [4]
memory = "16M"
program = "spin.elf"

[[channel]]
name = "log"
between = ["linux", "spin"]
size = "64K"
"#;

fn read(text: &str) -> Result<Loaded, Errors> {
    parse(Path::new("x.toml"), text)
}

/// [`GOOD`] with the only occurrence of `old` replaced.
fn with(old: &str, new: &str) -> String {
    assert_eq!(GOOD.matches(old).count(), 1, "{old}");
    GOOD.replace(old, new)
}

/// Asserts that `text` has these errors and no other: each begins with the
/// first string and ends with the second.
#[track_caller]
fn refused(text: &str, expected: &[(&str, &str)]) {
    let errors = read(text).expect_err("accepted").to_string();
    let lines: Vec<_> = errors.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{errors}");
    for (line, (start, end)) in lines.iter().zip(expected) {
        assert!(
            line.starts_with(start),
            "{line}\nshould begin with\n{start}"
        );
        assert!(line.ends_with(end), "{line}\nshould end with\n{end}");
    }
}

fn shipped(name: &str) -> Loaded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    load(&path).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn shipped_systems_are_right() {
    let demo = shipped("demo.toml");
    assert_eq!(demo.warnings, []);
    assert_eq!(demo.manifest.partitions.len(), 2);
    let solo = shipped("solo.toml");
    assert_eq!(solo.warnings, []);
    assert_eq!(solo.manifest.linux, None);
    for loaded in [demo, solo] {
        let compiled = crate::encode(&loaded.manifest);
        assert_eq!(blob::decode(&compiled), Ok(loaded.manifest));
    }
}

#[test]
fn every_key_is_read() {
    let loaded = read(GOOD).unwrap();
    let manifest = &loaded.manifest;
    assert_eq!(manifest.hypervisor.memory, 32 << 20);
    assert_eq!(manifest.hypervisor.console.port(), Some(0x2f8));
    let linux = manifest.linux.as_ref().unwrap();
    assert_eq!(linux.cpus.to_string(), "[0, 1]");
    assert_eq!(linux.initrd.as_deref(), Some("initrd.img"));
    assert_eq!(linux.cmdline, "quiet console=ttyS0");
    assert_eq!(linux.debug.to_string(), "[1]");
    let [spin, other] = manifest.partitions.as_slice() else {
        panic!("two partitions")
    };
    assert_eq!(spin.name, "spin");
    assert_eq!(spin.memory, 64 << 20);
    assert_eq!(spin.args, "quanta=1000000");
    // QUIESCE is implied by STRICT.
    assert_eq!(spin.dataplane.bits(), 0x1 | 0x2 | 0x8);
    assert_eq!(
        spin.on_violation,
        OnViolation::Restart {
            max: 5,
            window: 600
        }
    );
    assert!(spin.apic && !spin.autostart);
    assert_eq!(
        spin.ports.as_slice(),
        [PortRange {
            base: 0x3e8,
            count: 8
        }]
    );
    let devices: Vec<_> = spin
        .devices
        .iter()
        .map(|d| (d.name.to_string(), d.dma))
        .collect();
    assert_eq!(devices[0], ("0000:00:03.0".to_owned(), Dma::Protected));
    assert_eq!(devices[1], ("0000:00:04.0".to_owned(), Dma::Unprotected));
    assert!(other.autostart && !other.apic);
    assert_eq!((other.dataplane.bits(), other.args.as_str()), (0, ""));
    assert_eq!(other.on_violation, OnViolation::Stop);
    assert_eq!(manifest.channels[0].between, ["linux", "spin"]);
    assert_eq!(manifest.channels[0].size, 64 << 10);
    let modules: Vec<_> = manifest.modules().map(|(_, name)| name).collect();
    assert_eq!(modules, ["vmlinuz", "initrd.img", "spin.elf"]);
}

#[test]
fn left_out_tables_have_defaults() {
    let text = "[[partition]]\nname='a'\ncpus=[0]\nmemory='4M'\nprogram='a.elf'\n";
    let manifest = read(text).unwrap().manifest;
    assert_eq!(manifest.hypervisor.memory, 32 << 20);
    assert_eq!(manifest.hypervisor.console, Console::Com2);
    let text = "linux = { cpus = [0], kernel = 'vmlinuz' }";
    let linux = read(text).unwrap().manifest.linux.unwrap();
    assert_eq!((linux.initrd, linux.cmdline.as_str()), (None, ""));
}

#[test]
fn missing_files_are_named() {
    let error = load(Path::new("nowhere.toml")).unwrap_err().to_string();
    assert!(error.starts_with("nowhere.toml: "), "{error}");
    assert!(
        error.ends_with("name a system file that can be read, as UTF-8 TOML"),
        "{error}"
    );
}

#[test]
fn all_errors_are_told_in_the_order_of_the_lines() {
    let text = with("\"64K\"", "64").replace("cpus = [0, 1]", "cpus = [0, 2]");
    refused(
        &text.replace("\"32M\"", "\"1M\""),
        &[
            ("x.toml:2: hypervisor.memory: ", ""),
            ("x.toml:10: linux.debug: ", ""),
            ("x.toml:14: partition[0].cpus: ", ""),
            ("x.toml:36: channel[0].size: ", ""),
        ],
    );
}

#[test]
fn what_follows_from_an_error_is_not_told() {
    refused(
        &with("name = \"spin\"", "nam = \"spin\""),
        &[
            ("x.toml:12: partition[0].name: missing", ""),
            (
                "x.toml:13: partition[0].nam: unknown key; did you mean \"name\"?",
                "",
            ),
        ],
    );
    refused(
        &with("cpus = [0, 1]", "cpus = [\"0\"]"),
        &[("x.toml:6: linux.cpus[0]: ", "")],
    );
}

#[test]
fn warnings_have_a_line_and_let_pass() {
    let loaded = read(&with("\"strict\", \"populate\"", "\"quiesce\"")).unwrap();
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 2);
    assert!(
        warnings[0].starts_with("x.toml:20: warning: partition[0].on_violation: has no effect")
    );
    assert!(
        warnings[1].starts_with("x.toml:25: warning: partition[0].devices[1]: 0000:00:04.0 may")
    );
}

#[test]
fn later_problems_get_their_line() {
    let loaded = read(GOOD).unwrap();
    let at = |key: &str| {
        loaded
            .diagnose(&Problem::error(format_args!("{key}"), format_args!("no")))
            .to_string()
    };
    assert_eq!(
        at("partition[1].program"),
        "x.toml:31: partition[1].program: no"
    );
    assert_eq!(at("partition[1].args"), "x.toml:27: partition[1].args: no");
    assert_eq!(at("nowhere"), "x.toml:1: nowhere: no");
}
