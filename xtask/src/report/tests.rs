use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use cloister_abi::record::{self, Record};
use cloister_abi::{BACKTRACE_FRAMES, LinuxState, PartitionState};

use super::*;

const SYSTEM: &str = r#"
[linux]
cpus = [0, 1]
kernel = "vmlinuz"
cmdline = "console=ttyS0"

[[partition]]
name = "wide"
cpus = [2, 3]
memory = "4M"
program = "spin.elf"
dataplane = ["strict", "populate"]
"#;

fn fold() -> Fold {
    let loaded = cloister_manifest::parse(Path::new("test"), SYSTEM).unwrap();
    Fold::new(Some(&loaded.manifest), "qemu", "tcg", 4, BTreeMap::new())
}

fn json(fold: &mut Fold, text: &str) -> Vec<(String, String)> {
    fold.record(serde_json::from_str(text).unwrap())
}

fn core(core: u32, total: u64, dataplane: u64) -> Record<String> {
    Record::Core(record::Core {
        core,
        total,
        since_quiesce: total / 10,
        interrupts_since_quiesce: 1,
        dataplane,
        quiesce_count: 1,
    })
}

fn exits(core: u32, reason: &str, total: u64) -> Record<String> {
    Record::Exits(record::Exits {
        core,
        reason: reason.into(),
        total,
        since_quiesce: 0,
        cycles: total * 100,
        worst: u64::from(core) * 1000,
        last_rip: 0x10_0000,
    })
}

fn end(fold: &mut Fold) {
    json(fold, r#"{"end":{"outcome":"completed","detail":""}}"#);
}

#[test]
fn totals_are_summed_over_a_partitions_cores() {
    let mut fold = fold();
    for record in [
        core(0, 500, 0),
        core(2, 10, 0xb),
        core(3, 30, 0x9),
        exits(0, "cpuid", 500),
        exits(2, "cpuid", 4),
        exits(2, "hypercall", 6),
        exits(3, "cpuid", 30),
        // A later record about the same thing replaces the earlier one.
        exits(3, "cpuid", 31),
        core(3, 31, 0x9),
    ] {
        fold.record(record);
    }
    end(&mut fold);
    let report = fold.finish(Ending::Over, Duration::from_secs(1));
    let wide = report.partition("wide").unwrap();
    assert_eq!(wide.cpus, [2, 3]);
    assert_eq!((wide.exits.total, wide.exits.since_quiesce), (41, 4));
    assert_eq!(
        (wide.exits.of("cpuid"), wide.exits.of("hypercall")),
        (35, 6)
    );
    assert_eq!(wide.exits.of("nmi"), 0);
    assert_eq!(wide.interrupts_since_quiesce, 2);
    let cpuid = &wide.reasons[0];
    assert_eq!((cpuid.cycles, cpuid.worst), (3500, 3000));
    // Only the flags that both cores have.
    assert_eq!(wide.dataplane, ["quiesce", "populate"]);
    assert_eq!(
        report.core(2).unwrap().dataplane,
        ["quiesce", "strict", "populate"]
    );
    assert_eq!(report.linux().unwrap().exits.total, 500);
    assert!(report.core(1).is_err(), "no totals came for core 1");
}

#[test]
fn states_and_console_lines() {
    let mut fold = fold();
    json(
        &mut fold,
        r#"{"boot":{"version":"0.1.0","vendor":"amd","cpus":4}}"#,
    );
    json(&mut fold, r#"{"linux":{"state":"running"}}"#);
    assert_eq!(
        json(&mut fold, r#"{"console":{"name":"wide","text":"one\ntw"}}"#).len(),
        1
    );
    let lines = json(&mut fold, r#"{"console":{"name":"wide","text":"o\nrest"}}"#);
    assert_eq!(lines, [("wide".to_owned(), "two".to_owned())]);
    json(
        &mut fold,
        r#"{"partition":{"name":"wide","state":"finished","exit_code":7,"restarts":0,"detail":""}}"#,
    );
    json(&mut fold, r#"{"linux":{"state":"off"}}"#);
    fold.run_status(3);
    fold.run_status(4);
    end(&mut fold);
    let report = fold.finish(Ending::Over, Duration::ZERO);
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.platform.vendor, "amd");
    assert_eq!(report.linux().unwrap().state, LinuxState::Off);
    assert_eq!(report.linux().unwrap().run_status, Some(3));
    let wide = report.partition("wide").unwrap();
    assert_eq!(wide.state, PartitionState::Finished);
    assert_eq!(wide.exit_code, Some(7));
    assert_eq!(wide.console, ["one", "two", "rest"]);
}

#[test]
fn a_violation_keeps_its_frames() {
    let mut fold = fold();
    let mut backtrace = [0; BACKTRACE_FRAMES];
    backtrace[..2].copy_from_slice(&[0x10_1234, 0x10_0040]);
    fold.record(Record::Violation(record::Violation {
        name: "wide".into(),
        core: 3,
        reason: "cpuid".into(),
        detail: "leaf 0x1".into(),
        tsc: 9,
        rip: 0x10_1234,
        cr3: 0x1000,
        rflags: 2,
        registers: [1; 16],
        frames: 2,
        backtrace,
    }));
    end(&mut fold);
    let report = fold.finish(Ending::Over, Duration::ZERO);
    let violation = report.partition("wide").unwrap().violation.clone().unwrap();
    assert_eq!(violation.backtrace, [Hex(0x10_1234), Hex(0x10_0040)]);
    let json: serde_json::Value = serde_json::from_str(&report.to_json().unwrap()).unwrap();
    let partition = &json["partitions"][0];
    assert_eq!(partition["violation"]["rip"], "0x101234");
    assert_eq!(partition["violation"]["backtrace"][1], "0x100040");
    assert_eq!(json["schema"], 1);
    let mut table = String::new();
    print(&report, &mut table).unwrap();
    assert!(
        table.contains("violation on core 3: cpuid (leaf 0x1) at 0x101234"),
        "{table}"
    );
}

#[test]
fn the_json_reads_back() {
    let mut fold = fold();
    fold.record(core(0, 5, 0));
    fold.record(exits(0, "cpuid", 5));
    let report = fold.finish(Ending::TimeUp(9), Duration::from_millis(1500));
    let back: Report = serde_json::from_str(&report.to_json().unwrap()).unwrap();
    assert_eq!(back, report);
}

#[test]
fn a_machine_that_vanishes_is_no_completed_run() {
    let outcome = |fold: Fold, how| fold.finish(how, Duration::ZERO).outcome;
    assert_eq!(outcome(fold(), Ending::Over), Outcome::HypervisorPanic);
    assert_eq!(outcome(fold(), Ending::TimeUp(1)), Outcome::Timeout);
    assert_eq!(
        outcome(fold(), Ending::Quit("x".into())),
        Outcome::Interrupted
    );
    let mut panicked = fold();
    json(
        &mut panicked,
        r#"{"end":{"outcome":"hypervisor-panic","detail":"page fault"}}"#,
    );
    let report = panicked.finish(Ending::Over, Duration::ZERO);
    assert_eq!(report.outcome, Outcome::HypervisorPanic);
    assert_eq!(report.detail, "page fault");
}

#[test]
fn a_linux_panic_counts_unless_the_hypervisor_knows_better() {
    for (state, expected) in [
        ("running", LinuxState::Failed),
        ("reset", LinuxState::Reset),
    ] {
        let mut fold = fold();
        json(&mut fold, &format!(r#"{{"linux":{{"state":"{state}"}}}}"#));
        fold.linux_panicked();
        assert!(!fold.stuck(), "the partition still runs");
        json(
            &mut fold,
            r#"{"partition":{"name":"wide","state":"failed","exit_code":null,"restarts":0,"detail":"x"}}"#,
        );
        assert!(fold.stuck());
        let report = fold.finish(Ending::NothingLeft, Duration::ZERO);
        assert_eq!(report.outcome, Outcome::Completed);
        assert_eq!(report.linux().unwrap().state, expected);
    }
}

#[test]
fn a_bare_run_needs_no_record() {
    let fold = Fold::new(None, "qemu", "tcg", 2, BTreeMap::new());
    let report = fold.finish(Ending::Over, Duration::ZERO);
    assert_eq!(report.outcome, Outcome::Completed);
    assert_eq!(report.linux().unwrap().state, LinuxState::Off);
    assert_eq!(report.linux().unwrap().cpus, [0, 1]);
}

#[test]
fn faults_of_devices_are_counted_for_their_owner() {
    let mut fold = fold();
    json(&mut fold, r#"{"iommu":{"kind":"vt-d","interrupts":true}}"#);
    for number in [1, 2] {
        json(
            &mut fold,
            &format!(
                r#"{{"dma-fault":{{"owner":"wide","device":"0000:00:06.0","address":4096,"access":"read","code":6,"number":{number}}}}}"#
            ),
        );
    }
    json(
        &mut fold,
        r#"{"dma-faults":{"owner":"wide","device":"0000:00:06.0","total":7}}"#,
    );
    json(
        &mut fold,
        r#"{"dma-faults":{"owner":"linux","device":"0000:00:07.0","total":1}}"#,
    );
    end(&mut fold);
    let report = fold.finish(Ending::Over, Duration::from_secs(1));
    assert_eq!(report.iommu.as_deref(), Some("vt-d"));
    assert!(report.interrupt_remapping);
    assert_eq!(report.dma_faults.len(), 2);
    assert_eq!(report.partition("wide").unwrap().dma_faults, 7);
    assert_eq!(report.linux().unwrap().dma_faults, 1);
}
