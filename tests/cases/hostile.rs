//! Partitions that do what they may not (`partitions/hostile`), beside a
//! strict neighbour: each is contained and recorded, and the neighbour counts
//! no exit and no interrupt.

use anyhow::Result;
use cloister_abi::BACKTRACE_FRAMES;
use cloister_tests::cases::Bench;
use cloister_tests::{Ended, Part, PartitionCheck, PartitionState, part, partitions};

/// `hostile` on core `core` with this scenario.
pub(crate) fn hostile(name: &str, core: u32, scenario: &str) -> Part {
    part(name, "hostile.elf")
        .cores(&format!("[{core}]"))
        .args(&format!("do={scenario}"))
        .may("quiesce strict populate")
}

/// A scenario that needs a start for each of its kinds.
fn restarting(name: &str, core: u32) -> Part {
    hostile(name, core, name)
        .key("on_violation = \"restart\"")
        .key("max_restarts = 60")
}

/// Boots `hostiles` beside the neighbour on core 0, whose strict iterations, so
/// many in QEMU and on Bochs, take longer than they do.
fn contain(
    bench: &Bench,
    (qemu, bochs): (u64, u64),
    hostiles: impl IntoIterator<Item = Part>,
) -> Result<Ended> {
    let neighbour = part("neighbour", "spin.elf")
        .cores("[0]")
        .args(&format!("quanta={}", bench.choose(qemu, bochs)))
        .may("quiesce strict populate");
    let ended = bench
        .system(partitions([neighbour].into_iter().chain(hostiles)))
        .run_to_end()?
        .completed()?;
    ended
        .partition("neighbour")?
        .finished(0)?
        .since_quiesce(0)?
        .interrupts(0)?
        .violations(0)?;
    // Where time is the host's, who is last is chance.
    let console = ended.hypervisor_console();
    let last = console.lines().rfind(|line| line.starts_with("partition "));
    let outlasts = last.is_some_and(|line| line.starts_with("partition \"neighbour\""));
    let message = format!("the neighbour was not the last: {last:?}");
    ended.ensure(bench.choose(true, outlasts), message)?;
    Ok(ended)
}

/// The number behind `key=` in what it printed is `expected`.
fn counted<'a>(
    partition: PartitionCheck<'a>,
    key: &str,
    expected: u64,
) -> Result<PartitionCheck<'a>> {
    let got = partition.value(key)?;
    partition.check(got == expected, format!("{key}={got}, expected {expected}"))
}

/// Foreign memory; nonsense in stack and frame pointers and in page tables
/// while the hypervisor takes a backtrace; an overwritten image, which comes
/// back clean; code that changes itself.
pub(crate) fn memory(bench: &Bench) -> Result<()> {
    let scenarios = [("foreign", 1), ("frames", 2), ("tables", 3), ("image", 4)];
    let parts = scenarios.map(|(name, core)| restarting(name, core));
    let modify = hostile("modify", 5, "modify");
    let parts = parts.into_iter().chain([modify]);
    let ended = contain(bench, (30_000_000, 10_000_000), parts)?;
    for (name, kinds, reason) in [
        ("foreign", 22, "nested-page-fault"),
        ("frames", 17, "cpuid"),
        ("tables", 10, "cpuid"),
        ("image", 1, "cpuid"),
    ] {
        let partition = ended
            .partition(name)?
            .finished(0)?
            .restarts(kinds)?
            .violations(usize::try_from(kinds)?)?;
        let odd = partition
            .report()
            .violations
            .iter()
            .find(|violation| violation.reason != reason);
        partition.check(odd.is_none(), format!("another violation: {odd:?}"))?;
    }
    // A chain of frames without an end, and one that is its own caller.
    let frames = ended.partition("frames")?;
    let longest = frames.report().violations.iter();
    let longest = longest.map(|violation| violation.backtrace.len()).max();
    frames.check(
        longest == Some(BACKTRACE_FRAMES),
        format!("the longest backtrace has {longest:?} frames"),
    )?;
    let foreign = ended.partition("foreign")?;
    for place in [
        "Read gpa 0x1000000",
        "Execute gpa 0x1000000",
        "Write gpa 0x40000000",
        "Write gpa 0xfec00000",
        "Write gpa 0xfee00300",
        "Execute gpa 0xfee00000",
        "Read gpa 0x100000000",
        "Write gpa 0x4000000000",
    ] {
        let found = foreign
            .report()
            .violations
            .iter()
            .any(|violation| violation.detail.contains(place));
        foreign.check(found, format!("no violation {place}"))?;
    }
    counted(ended.partition("modify")?.finished(0)?, "done", 20_000)?;
    Ok(())
}

/// Every MSR, every port, every privileged instruction, every bit of the
/// control registers, every hypercall number, every console position.
pub(crate) fn instructions(bench: &Bench) -> Result<()> {
    let step = bench.choose(5, 16);
    let names = [
        "msrs",
        "ports",
        "instructions",
        "control",
        "hypercalls",
        "console",
    ];
    let parts = (1..).zip(names).map(|(core, name)| match name {
        "ports" => hostile(name, core, &format!("ports step={step}")),
        _ => hostile(name, core, name),
    });
    let ended = contain(bench, (30_000_000, 20_000_000), parts)?;
    for name in names {
        ended.partition(name)?.finished(0)?;
    }
    // Three ranges of 0x2000, one of 0x200, five of 0x10, each read once and
    // written three times, and once more where the read succeeds.
    let msrs = ended.partition("msrs")?;
    let reads = msrs.report().exits.of("rdmsr");
    let all = 3 * 0x2000 + 0x200 + 5 * 0x10;
    msrs.check(
        reads + 20 > all && reads < all,
        format!("{reads} RDMSR exits of {all} MSRs"),
    )?;
    let ports = ended.partition("ports")?;
    let accesses = ports.report().exits.of("port-in");
    ports.check(accesses > 65_536, format!("{accesses} IN exits"))?;
    for (owner, reason, words) in [
        ("msrs", "rdmsr", "msr 0x0"),
        ("ports", "port-in", "port 0x0 width 1"),
        ("ports", "port-out", "port 0x0 width 4"),
        ("instructions", "virtualization", ""),
        ("control", "wrmsr", "msr 0xc0000080"),
    ] {
        let refused = &ended.report().refused;
        let found = refused.iter().any(|refused| {
            refused.owner == owner && refused.reason == reason && refused.detail.contains(words)
        });
        if !found {
            return Err(ended.failure(format!("no refused {reason} {words} of {owner}")));
        }
    }
    Ok(())
}

/// Control registers that no program goes on with: the processor refuses the
/// MOV, or the partition fails.
pub(crate) fn control(bench: &Bench) -> Result<()> {
    let kinds = [
        "not-write-through",
        "protection",
        "pae",
        "la57",
        "vmxe",
        "reserved",
        "cr3",
    ];
    let parts = (1..)
        .zip(kinds)
        .map(|(core, kind)| hostile(kind, core, &format!("bad-control kind={kind}")));
    let ended = contain(bench, (30_000_000, 2_000_000), parts)?;
    for kind in kinds {
        let partition = ended.partition(kind)?;
        match partition.report().state {
            PartitionState::Failed => partition.failed(&["rip 0x"])?,
            _ => partition.finished(0)?,
        };
    }
    Ok(())
}

/// A hardware task switch, which always exits on Intel; AMD's new task has no
/// handlers.
pub(crate) fn task_switch(bench: &Bench) -> Result<()> {
    let ended = contain(bench, (400_000, 400_000), [hostile("task", 1, "task")])?;
    let end = bench.choose("triple fault", "task switch");
    ended.partition("task")?.failed(&[end, "rip 0x"])?;
    Ok(())
}

/// A local APIC of its own, asked for everything; storms of exceptions and
/// NMIs.
pub(crate) fn apic(bench: &Bench) -> Result<()> {
    let with_apic = |name, core, scenario| hostile(name, core, scenario).key("apic = true");
    let ended = contain(
        bench,
        (30_000_000, 16_000_000),
        [
            with_apic("ipis", 1, "ipis"),
            with_apic("apic", 2, "apic"),
            with_apic("nmis", 3, "nmis"),
            hostile("exceptions", 4, "exceptions"),
        ],
    )?;
    for name in ["ipis", "apic", "nmis", "exceptions"] {
        ended.partition(name)?.finished(0)?;
    }
    ended.partition("nmis")?.exits_of("nmi", 5_000)?;
    counted(ended.partition("exceptions")?, "refused", 100_000)?;
    let refused = &ended.report().refused;
    let beyond = refused
        .iter()
        .any(|refused| refused.owner == "ipis" && refused.detail.contains("beyond its own cores"));
    if !beyond {
        return Err(ended.failure("no refused IPI"));
    }
    Ok(())
}

/// TSC cycles after which a loop is left, on Bochs, whose cores execute
/// instructions in turn.
const LOOP_WAIT_BOCHS: u64 = 200_000;

/// The neighbour's iterations: more than the loops last.
const BESIDE_LOOPS: (u64, u64) = (30_000_000, 400_000);

/// Partitions of two cores: the first is in an endless loop when the second
/// fails, and must leave it.
fn leave_loops(bench: &Bench, apic: bool, kinds: &[&str]) -> Result<Ended> {
    let wait = bench.choose(20_000_000, LOOP_WAIT_BOCHS);
    let parts = (0..).zip(kinds).map(|(index, kind)| {
        let (first, second) = (2 * index + 1, 2 * index + 2);
        let part = hostile(kind, first, &format!("loop kind={kind} wait={wait}"))
            .cores(&format!("[{first}, {second}]"));
        if apic { part.key("apic = true") } else { part }
    });
    let ended = contain(bench, BESIDE_LOOPS, parts)?;
    for kind in kinds {
        let partition = ended.partition(kind)?.failed(&["triple fault"])?;
        let kicks = partition.report().exits.of("kick");
        partition
            .says(&format!("into {kind}"))?
            .check(kicks > 0, "the looping core was not kicked")?;
    }
    Ok(ended)
}

/// Loops that exit never, or all the time.
pub(crate) fn loops(bench: &Bench) -> Result<()> {
    leave_loops(bench, false, &["spin", "halt", "halt-open"])?;
    leave_loops(bench, false, &["cpuid", "wbinvd", "out"])?;
    leave_loops(bench, false, &["hypercall", "flush", "string"])?;
    leave_loops(bench, false, &["rdmsr", "cr3", "pause"])?;
    Ok(())
}

/// Loops of exceptions, and without paging.
pub(crate) fn exception_loops(bench: &Bench) -> Result<()> {
    leave_loops(bench, false, &["int3", "icebp", "step"])?;
    leave_loops(bench, false, &["ud", "gp", "msr-gp"])?;
    // QEMU's TCG raises no #AC: there it is a loop in user mode.
    let ended = leave_loops(bench, false, &["alignment"])?;
    let checks = ended.partition("alignment")?.report().exits.of("exception");
    let least = bench.choose(0, 100);
    ended.check(checks >= least, format!("{checks} exits for #AC"))?;
    // What code runs then, nobody knows.
    let without_pages = ["paging", "real"];
    let parts = (0..).zip(without_pages).map(|(index, kind)| {
        hostile(kind, 0, &format!("loop kind={kind} wait={LOOP_WAIT_BOCHS}")).cores(&format!(
            "[{}, {}]",
            2 * index + 1,
            2 * index + 2
        ))
    });
    let ended = contain(bench, BESIDE_LOOPS, parts)?;
    for kind in without_pages {
        ended.partition(kind)?.failed(&["rip 0x"])?;
    }
    Ok(())
}

/// Loops around the local APIC: NMIs, NMIs that stay blocked, a timer, and a
/// core that wants another APIC ID so that kicks miss it.
pub(crate) fn apic_loops(bench: &Bench) -> Result<()> {
    leave_loops(bench, true, &["nmi", "nmi-blocked"])?;
    leave_loops(bench, true, &["timer", "identity"])?;
    Ok(())
}
