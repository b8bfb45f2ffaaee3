//! `set_dataplane`: its errors, and DEBUG.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::{Ended, part, partitions};

use crate::counting::exits;

/// Errors change nothing.
pub(crate) fn errors(bench: &Bench) -> Result<()> {
    let limited = part("limited", "exits.elf")
        .cores("[0]")
        .args(
            "refuse=strict refuse=debug refuse=populate enter=quiesce refuse=strict cpuid=1 \
             enter=quiesce leave",
        )
        .may("quiesce");
    let invalid = exits(
        "invalid",
        1,
        "refuse=0x100 refuse=0x10 refuse=0x8000000000000001 enter=strict refuse=0x12 \
         enter=quiesce+populate badcall=3 enter=quiesce leave",
    );
    let nothing = part("nothing", "exits.elf")
        .cores("[2]")
        .args("refuse=quiesce leave cpuid=2");
    let ended = bench
        .system(partitions([limited, invalid, nothing]))
        .run_to_end()?
        .completed()?;
    let limited = ended.partition("limited")?.finished(0)?.says("exits: ok")?;
    let refused = limited.lines_with("not allowed: list the flag");
    limited
        .check(refused == 4, format!("{refused} refusals, expected 4"))?
        .says("set_dataplane 0x1 was 0x0")?
        .says("set_dataplane 0x1 was 0x1")?;
    let invalid = ended.partition("invalid")?.finished(0)?.says("exits: ok")?;
    let refused = invalid.lines_with("a bit that is no dataplane flag");
    invalid
        .check(refused == 4, format!("{refused} refusals, expected 4"))?
        .violations(0)?
        .says("set_dataplane 0x9 was 0x3")?
        .says("set_dataplane 0x1 was 0x9")?;
    ended
        .partition("nothing")?
        .finished(0)?
        .says("exits: ok")?
        .says("refused 0x1: not allowed")?
        .violations(0)?;
    Ok(())
}

/// Reasons of core `core`'s trace, oldest first, whose numbers must follow
/// each other; and the first number.
fn trace(ended: &Ended, core: u32) -> Result<(u64, Vec<&str>)> {
    let records: Vec<_> = ended
        .report()
        .trace
        .iter()
        .filter(|record| record.core == core)
        .collect();
    let first = records.first().map_or(0, |record| record.sequence);
    for (record, expected) in records.iter().zip(first..) {
        if record.sequence != expected || record.tsc == 0 || record.rip == 0 {
            return Err(ended.failure(format!(
                "trace record {record:?}, expected number {expected}"
            )));
        }
    }
    let reasons = records
        .iter()
        .map(|record| record.reason.as_str())
        .collect();
    Ok((first, reasons))
}

/// DEBUG traces each exit, no more and no less; without it nothing is traced.
pub(crate) fn debug_traces(bench: &Bench) -> Result<()> {
    let ended = bench
        .system(partitions([
            exits(
                "traced",
                0,
                "cpuid=9 enter=debug+populate cpuid=3 rdmsr=2 in=1 hypercall=1 leave cpuid=9",
            ),
            exits("untraced", 1, "enter=quiesce cpuid=3 leave"),
        ]))
        .run_to_end()?
        .completed()?;
    ended.partition("traced")?.finished(0)?.since_quiesce(7)?;
    ended.partition("untraced")?.finished(0)?.since_quiesce(3)?;
    let (first, reasons) = trace(&ended, 0)?;
    let exits = [
        "cpuid",
        "cpuid",
        "cpuid",
        "rdmsr",
        "rdmsr",
        "port-in",
        "hypercall",
    ];
    // The call that enters the mode ends in it, and is traced as well.
    let expected: Vec<&str> = ["hypercall"].into_iter().chain(exits).collect();
    let message = format!("trace from {first} {reasons:?}, expected {expected:?}");
    let same = first == 1 && reasons == expected;
    // What each was about: leaf, MSR, port, number of the hypercall; and what it
    // cost, which the call that enters the mode does not know yet.
    let records = ended
        .report()
        .trace
        .iter()
        .filter(|record| record.core == 0);
    let about: Vec<u64> = records.clone().map(|record| record.qualification).collect();
    let cost = records
        .skip(1)
        .all(|record| record.cycles > 0 && record.cr3 != 0);
    let same_about = about == [1, 0, 0, 0, 0x480, 0x480, 0x80, 0];
    let message_about = format!("trace about {about:x?}, each with cycles and CR3 {cost}");
    let (_, others) = trace(&ended, 1)?;
    let message_others = format!("trace without DEBUG: {others:?}");
    let none = others.is_empty();
    ended
        .check(same, message)?
        .check(same_about && cost, message_about)?
        .check(none, message_others)?;
    Ok(())
}

/// The ring keeps the last 255 records and says how many there were.
pub(crate) fn debug_overflow(bench: &Bench) -> Result<()> {
    let ended = bench
        .system(partitions([exits(
            "busy",
            0,
            "enter=debug cpuid=300 in=1 leave",
        )]))
        .run_to_end()?
        .completed()?;
    ended.partition("busy")?.finished(0)?.since_quiesce(301)?;
    let (first, reasons) = trace(&ended, 0)?;
    let holds =
        first == 1 + 301 - 254 && reasons.len() == 255 && reasons.last() == Some(&"port-in");
    let message = format!("{} records from number {first}", reasons.len());
    ended.check(holds, message)?;
    Ok(())
}

/// What a dataplane core must not have: interrupts that exit, virtual
/// interrupts, posted ones, a virtual APIC.
const FORBIDDEN_AMD: &[(&str, u64)] = &[
    ("INTERCEPT_INTR", 1),
    ("AVIC_ENABLE", 1),
    ("V_IRQ", 1),
    ("V_INTR_MASKING", 1),
];

/// Bits of the control words (Intel SDM vol. 3, "VM-Execution Control
/// Fields"): external-interrupt exiting, process posted interrupts;
/// interrupt-window exiting, use TPR shadow; virtualize APIC accesses,
/// virtualize x2APIC mode, APIC-register virtualization, virtual-interrupt
/// delivery; acknowledge interrupt on exit.
const FORBIDDEN_INTEL: &[(&str, u64)] = &[
    ("pin-based", 1 << 0 | 1 << 7),
    ("primary processor-based", 1 << 2 | 1 << 21),
    (
        "secondary processor-based",
        1 << 0 | 1 << 4 | 1 << 8 | 1 << 9,
    ),
    ("exit", 1 << 15),
];

/// NP_ENABLE; secondary controls: enable EPT, enable VPID, unrestricted guest.
const REQUIRED_AMD: &[(&str, u64)] = &[("NP_ENABLE", 1)];
const REQUIRED_INTEL: &[(&str, u64)] = &[("secondary processor-based", 1 << 1 | 1 << 5 | 1 << 7)];

/// What DEBUG turns on of it, so that the words are seen to tell.
const DEBUG_AMD: &[(&str, u64)] = &[("INTERCEPT_INTR", 1), ("V_INTR_MASKING", 1)];
const DEBUG_INTEL: &[(&str, u64)] = &[("pin-based", 1 << 0)];

/// The control words of dataplane cores: no posted interrupts, no APICv or
/// AVIC, no exits for external interrupts; nested paging on. Under DEBUG
/// external interrupts do exit.
pub(crate) fn control_words(bench: &Bench) -> Result<()> {
    let ended = bench
        .system(partitions([
            exits("plain", 0, "cpuid=1"),
            exits("strict", 1, "enter=strict+populate leave"),
            exits("apic", 2, "cpuid=1").key("apic = true"),
            exits("left", 3, "enter=debug cpuid=1 leave"),
            // Ends under DEBUG.
            exits("debug", 4, "enter=debug triple"),
        ]))
        .run_to_end()?
        .completed()?;
    let forbidden = bench.choose(FORBIDDEN_AMD, FORBIDDEN_INTEL);
    let required = bench.choose(REQUIRED_AMD, REQUIRED_INTEL);
    for core in 0..5 {
        let debug = core == 4;
        for &(name, bits) in forbidden.iter().filter(|_| !debug) {
            let word = ended.control(core, name)?;
            if word & bits != 0 {
                return Err(ended.failure(format!(
                    "core {core}: {name} is {word:#x}, which has some of {bits:#x}"
                )));
            }
        }
        let on = bench.choose(DEBUG_AMD, DEBUG_INTEL).iter();
        for &(name, bits) in required.iter().chain(on.filter(|_| debug)) {
            let word = ended.control(core, name)?;
            if word & bits != bits {
                return Err(ended.failure(format!(
                    "core {core}: {name} is {word:#x}, which lacks some of {bits:#x}"
                )));
            }
        }
    }
    Ok(())
}
