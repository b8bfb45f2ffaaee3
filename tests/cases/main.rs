//! Every case, in the order of the list. `tests/README.md` says how to run
//! one.

mod apic;
mod channels;
mod control;
mod control_life;
mod control_misuse;
mod control_watch;
mod cores;
mod cost;
mod counting;
mod dataplane;
mod debug;
mod demo;
mod ends;
mod fault;
mod hostile;
mod hostile_root;
mod interrupters;
mod iommu;
mod linux;
mod manifests;
mod neighbour;
mod net;
mod operator;
mod own;
mod pci;
mod processor;
mod storm;
mod strict;
mod witness;

use std::process::ExitCode;

use anyhow::Result;
use cloister_tests::cases::{self, Bench, Case, On};

/// Partitions alone, on both machines.
const fn light(name: &'static str, run: fn(&Bench) -> Result<()>) -> Case {
    Case {
        name,
        on: On::Both,
        deadline: 30,
        run,
    }
}

/// With Linux: minutes each on Bochs.
const fn with_linux(name: &'static str, run: fn(&Bench) -> Result<()>) -> Case {
    Case {
        name,
        on: On::Qemu("Linux boots take minutes there; linux-beside-* stand for all"),
        deadline: 90,
        run,
    }
}

/// No machine at all: once is enough.
const fn host(name: &'static str, run: fn(&Bench) -> Result<()>) -> Case {
    Case {
        on: On::Qemu("it boots nothing, and has run with QEMU's cases"),
        ..light(name, run)
    }
}

/// XSETBV's exit.
const fn xsetbv(name: &'static str, run: fn(&Bench) -> Result<()>) -> Case {
    Case {
        on: On::Bochs("QEMU's emulation of SVM lacks the intercept of XSETBV"),
        ..light(name, run)
    }
}

/// Frames from the host.
const fn cabled(name: &'static str, deadline: u64, run: fn(&Bench) -> Result<()>) -> Case {
    Case {
        on: On::Qemu("Bochs' network cards have no other end for the harness"),
        deadline,
        ..light(name, run)
    }
}

const CASES: &[Case] = &[
    light("solo", demo::solo),
    light("every-reason-counted", counting::every_reason),
    xsetbv("xsetbv-counted", counting::xsetbv),
    light("one-exit-more-is-seen", counting::one_more),
    light("lazy-against-populate", counting::lazy_against_populate),
    light("exit-cost", cost::exits),
    light("strict-named-exits", strict::instructions),
    xsetbv("strict-xsetbv", strict::xsetbv),
    light("strict-memory-and-calls", strict::memory_and_calls),
    light("strict-rare-exits", strict::rare),
    host("strict-has-every-reason", strict::every_reason),
    light("strict-left-in-order", strict::left_in_order),
    light("on-violation-report", strict::report_and_go_on),
    light("on-violation-restart", strict::restart),
    light("set-dataplane-errors", dataplane::errors),
    light("control-words", dataplane::control_words),
    light("debug-traces-each-exit", dataplane::debug_traces),
    light("debug-ring-keeps-the-last", dataplane::debug_overflow),
    light("quiesce-busy", apic::busy),
    light("one-interrupt-is-seen", apic::one_interrupt),
    light("debug-names-interrupts", apic::debug_interrupt),
    light("strict-send-interrupt", apic::strict_send),
    light("foreign-interrupts", apic::foreign_ipi),
    light("cores-finish-as-one", cores::finish_as_one),
    light("cores-violate-as-one", cores::end_as_one),
    light("cores-restart-as-one", cores::restart_as_one),
    light("partition-ends", ends::partitions),
    light("hostile-memory", hostile::memory),
    light("hostile-instructions", hostile::instructions),
    light("hostile-control-registers", hostile::control),
    light("hostile-task-switch", hostile::task_switch),
    light("hostile-apic", hostile::apic),
    light("hostile-loops", hostile::loops),
    light("hostile-exception-loops", hostile::exception_loops),
    light("hostile-apic-loops", hostile::apic_loops),
    light("outside-witness-agrees", witness::agrees),
    light("outside-witness-sees-none", witness::sees_none),
    light("outside-witness-exit-for-exit", witness::exit_for_exit),
    light("pci-own-functions-only", pci::own_only),
    light("pci-forbidden-writes", pci::forbidden),
    light("pci-reset-at-restart", pci::reset),
    light("pci-refused-at-boot", pci::refused_at_boot),
    Case {
        on: On::Qemu("Bochs has no IOMMU"),
        ..light("pci-behind-iommu", pci::behind_iommu)
    },
    light("program-of-another-repository", own::repository),
    light("hypervisor-faults", fault::dumped),
    light("bad-manifest-blob", manifests::broken_blob),
    light("forged-manifest-blob", manifests::forged_blob),
    light("bad-manifest-for-machine", manifests::machine),
    light("processor-refused", processor::refused),
    with_linux(
        "bad-manifest-for-machine-linux",
        manifests::machine_with_linux,
    ),
    host("bad-manifest-on-host", manifests::checked_on_the_host),
    light("channel-in-order", channels::in_order),
    light("channel-one-exit", channels::one_exit),
    light("channel-hostile-peer", channels::hostile_peer),
    light("channel-restarted-end", channels::restarted_end),
    light("debug-names-ipis", debug::ipis),
    light("debug-names-nmis", debug::nmi),
    light("debug-interrupts-off", debug::masked),
    light("debug-strict-names-sender", debug::strict),
    light("debug-forbidden-ipi", debug::forbidden),
    light("debug-counts-lost", debug::lost),
    Case {
        on: On::Qemu("its time passes too slowly for a window to end"),
        ..light("restart-window", debug::restart_window)
    },
    light("udp-echo", net::echo),
    light("udp-echo-one-exit", net::echo_one_exit),
    cabled("l2fwd-one-exit", 60, net::forward_one_exit),
    cabled("l2fwd-bare", 120, net::bare),
    cabled("net-hostile-dma", 60, net::hostile_card),
    with_linux("pci-hidden-from-linux", pci::hidden),
    cabled("net-behind-vt-d", 400, net::beside_linux_intel),
    cabled("net-behind-amd-vi", 400, net::beside_linux_amd),
    with_linux("pci-forged-interrupts", pci::forged),
    with_linux("demo", demo::demo),
    with_linux("debug-linux-core", interrupters::linux_core),
    with_linux("operator-touches-no-other", operator::touches_no_other),
    with_linux("debug-forbids-linux", interrupters::forbidden),
    with_linux("quiesce-management", interrupters::management),
    Case {
        on: On::Qemu("it has no device with MSIs"),
        ..light("debug-names-devices", interrupters::message)
    },
    Case {
        on: On::Both,
        ..with_linux("linux-beside-one", linux::beside_one)
    },
    Case {
        on: On::Both,
        ..with_linux("linux-beside-two", linux::beside_two)
    },
    with_linux("linux-alone-1", linux::alone_1),
    with_linux("linux-alone-2", linux::alone_2),
    with_linux("linux-alone-4", linux::alone_4),
    with_linux("linux-shell", own::shell),
    with_linux("linux-load", linux::load),
    Case {
        deadline: 300,
        ..with_linux("storm-beside-strict", storm::beside_strict)
    },
    with_linux("linux-peeks", linux::peeks),
    with_linux("linux-reboots", linux::reboot),
    with_linux("linux-panics", linux::panic),
    with_linux("linux-triple-faults", linux::triple_fault),
    Case {
        deadline: 300,
        ..with_linux("hostile-root", hostile_root::sweeps)
    },
    with_linux("hostile-root-kexec", hostile_root::kexec),
    Case {
        deadline: 200,
        ..with_linux("hostile-beside-linux", hostile_root::partitions_beside)
    },
    Case {
        on: On::Qemu("Bochs has no IOMMU"),
        ..light("iommu-partitions-alone", iommu::partitions_alone)
    },
    Case {
        on: On::Qemu("Bochs has no IOMMU"),
        ..light("iommu-confines-partition", iommu::partition_is_confined)
    },
    Case {
        on: On::Qemu("Bochs has no IOMMU, and no function that writes anywhere"),
        ..light("iommu-forged-interrupts", iommu::forged_interrupts)
    },
    Case {
        on: On::Qemu("Bochs has no IOMMU"),
        deadline: 200,
        ..with_linux("iommu-confines-linux", iommu::linux_is_confined)
    },
    with_linux("boot-time", linux::boot_time),
    with_linux("channel-telemetry", channels::telemetry),
    with_linux("control-list", control::list_is_true),
    Case {
        deadline: 240,
        ..with_linux("control-reading-is-free", control::reading_is_free)
    },
    Case {
        deadline: 400,
        ..with_linux("control-life-cycle", control_life::life_cycle)
    },
    Case {
        deadline: 200,
        ..with_linux("control-watch", control_watch::watch)
    },
    Case {
        deadline: 400,
        ..with_linux("control-misuse", control_misuse::misuse)
    },
];

fn main() -> ExitCode {
    cases::main(CASES)
}
