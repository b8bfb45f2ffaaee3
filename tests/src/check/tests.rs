//! Every check can fail.

use cloister_abi::{LinuxState, PartitionState};
use xtask::Finished;

use crate::Ended;

/// A run in which Linux powered off, `ours` broke STRICT by a port access
/// and `never` was never quiet.
fn ended() -> Ended {
    let exits = |since: u64| {
        serde_json::json!({ "total": 5, "since_quiesce": since,
            "by_reason": { "cpuid": 3, "port-in": 2 } })
    };
    let violation = serde_json::json!({ "reason": "port-in", "rip": "0x1010", "cr3": "0x1000",
        "backtrace": ["0x1010", "0x2020"], "detail": "port 0x60 width 1", "core": 1, "tsc": 7,
        "rflags": "0x2", "registers": vec!["0x60"; 16], "symbols": ["read_port+0x1", "main+0x2"] });
    let partition = |name: &str, core: u32, state: &str| {
        serde_json::json!({ "name": name, "cpus": [core], "state": state, "exit_code": 3,
            "restarts": 1, "detail": "triple fault", "dataplane": ["quiesce"],
            "exits": exits(2), "reasons": [], "interrupts_since_quiesce": 1,
            "devices": [], "dma_faults": 0, "console": ["n=5 x", "n=7"], "violation": violation,
            "violations": [violation] })
    };
    let core = |core: u32, quiet: u64| {
        serde_json::json!({ "core": core, "owner": "", "dataplane": [], "quiesce_count": quiet,
            "interrupts_since_quiesce": 1, "exits": exits(2), "reasons": [] })
    };
    let report = serde_json::json!({ "schema": 1, "interrupt_remapping": false, "platform": { "machine": "qemu",
        "accel": "tcg", "vendor": "amd", "cpus": 4, "version": "1" }, "outcome": "timeout",
        "detail": "late", "linux": { "state": "off", "cpus": [0], "run_status": 3,
        "boot_seconds": 1.0, "dma_faults": 0, "exits": exits(0), "reasons": [] },
        "partitions": [partition("ours", 1, "violated"), partition("never", 2, "failed")],
        "cores": [core(1, 1), core(2, 0)], "refused": [], "controls": [], "trace": [],
        "traced": [], "interrupts": [], "interrupters": [], "dma_faults": [],
        "seconds": 1.0 });
    Ended::new(Finished {
        report: serde_json::from_value(report).unwrap(),
        linux_console: "nproc=2\r\nBUG: x\r\n".into(),
        hypervisor_console: "error: cannot start: memory\n".into(),
        machine_log: String::new(),
        testimony: None,
    })
}

#[test]
fn what_is_so_passes() {
    let ended = ended();
    let ours = ended.partition("ours").unwrap();
    let ours = ours.state(PartitionState::Violated).unwrap();
    let ours = ours.since_quiesce(2).unwrap().interrupts(1).unwrap();
    let ours = ours.exits_of("cpuid", 3).unwrap().restarts(1).unwrap();
    let ours = ours.exits_exactly(&[("cpuid", 3), ("port-in", 2)]).unwrap();
    assert_eq!(ours.value("n").unwrap(), 7);
    let violation = ours.violations(1).unwrap().violation("port-in").unwrap();
    violation.detail("0x60").unwrap().register(2, 0x60).unwrap();
    violation.in_function("read_port", 1).unwrap();
    let linux = ended.linux().unwrap().run_status(3).unwrap();
    linux.state(LinuxState::Off).unwrap();
    assert_eq!(ended.linux_value("nproc").unwrap(), "2");
}

#[test]
fn what_is_not_so_fails_and_shows_the_consoles() {
    let ended = ended();
    let ours = ended.partition("ours").unwrap();
    let errors = [
        ours.since_quiesce(0).unwrap_err(),
        ours.interrupts(0).unwrap_err(),
        ours.finished(3).unwrap_err(),
        ours.failed(&["triple"]).unwrap_err(),
        ours.exits_of("cpuid", 0).unwrap_err(),
        ours.exits_exactly(&[("cpuid", 5)]).unwrap_err(),
        ours.dataplane(&["quiesce", "strict"]).unwrap_err(),
        ours.says("ok").unwrap_err(),
        ours.value("m").unwrap_err(),
        ours.restarts(0).unwrap_err(),
        ours.violations(0).unwrap_err(),
        ours.violation("cpuid").unwrap_err(),
        ended.linux_value("nprocs").unwrap_err(),
        ended.linux().unwrap().run_status(0).unwrap_err(),
        ended.linux().unwrap().does_not_say("BUG:").unwrap_err(),
        ended.control(1, "AVIC_ENABLE").unwrap_err(),
        ended.clone().completed().unwrap_err(),
        ended.clone().refused(&["memory"]).unwrap_err(),
    ];
    for error in errors {
        let text: Vec<String> = error.chain().map(ToString::to_string).collect();
        let text = text.join("\n");
        for expected in ["--- linux: last", "--- ours: last", "timeout on qemu"] {
            assert!(text.contains(expected), "{text:?} lacks {expected:?}");
        }
    }
    let violation = ours.violation("port-in").unwrap();
    assert!(violation.in_function("main", 1).is_err());
    assert!(violation.register(0, 0).is_err());
    assert!(violation.detail("0x61").is_err());
}

#[test]
fn zero_exits_of_a_core_that_was_never_quiet_are_no_proof() {
    let ended = ended();
    let never = ended.partition("never").unwrap();
    for error in [
        never.since_quiesce(2).unwrap_err(),
        never.interrupts(1).unwrap_err(),
    ] {
        assert!(error.to_string().contains("core 2 was never quiet"));
    }
}
