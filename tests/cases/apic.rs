//! Partitions with a local APIC of their own: QUIESCE says what is still
//! live, and an interrupt that comes is counted.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::{Part, part, partitions};

use crate::strict::neighbour;

/// `probe` with a local APIC. Not on core 0: firmware leaves its LINT pins
/// unmasked.
fn probe(name: &str, core: u32, args: &str) -> Part {
    part(name, "probe.elf")
        .cores(&format!("[{core}]"))
        .args(args)
        .may("quiesce strict debug populate")
        .key("apic = true")
}

/// QUIESCE names what keeps the core busy, changes nothing, and succeeds as
/// soon as that is gone.
pub(crate) fn busy(bench: &Bench) -> Result<()> {
    // 0xf000_0000 ticks of a 128th of the bus clock: it does not fire.
    let timer = "timer=0xf0000000 busy=apic-timer quiet enter=quiesce timer=0xf0000000 \
                 busy=apic-timer quiet enter=quiesce leave";
    let pending = "send=0x50 busy=pending-vector sti taken=1 cli enter=quiesce leave";
    let service = "inside=0x51 enter=quiesce leave";
    let mut parts = vec![
        probe("timer", 1, timer),
        probe("pending", 2, pending),
        probe("service", 3, service),
    ];
    // The x2APIC's LVT entries but the timer's are not a partition's.
    let lvt = "lvt busy=lvt quiet enter=quiesce leave";
    parts.extend(bench.choose(Some(probe("lvt", 0, lvt).cores("[4]")), None));
    let names = bench.choose(
        &["timer", "pending", "service", "lvt"][..],
        &["timer", "pending", "service"],
    );
    let ended = bench
        .system(partitions([neighbour(0)].into_iter().chain(parts)))
        .run_to_end()?
        .completed()?;
    for name in names {
        ended
            .partition(name)?
            .finished(0)?
            .says("probe: ok")?
            .interrupts(0)?
            .violations(0)?;
    }
    ended
        .partition("neighbour")?
        .finished(0)?
        .since_quiesce(0)?
        .interrupts(0)?;
    Ok(())
}

/// The twin of every `interrupts(0)`: one interrupt, and it says 1.
pub(crate) fn one_interrupt(bench: &Bench) -> Result<()> {
    let ended = bench
        .system(partitions([
            neighbour(0),
            probe("none", 1, "enter=quiesce+populate wait=1000000 leave"),
            probe(
                "one",
                2,
                "enter=quiesce+populate send=0x50 wait=100000 leave",
            ),
            probe(
                "two",
                3,
                "enter=quiesce send=0x50 send=0x61 leave sti taken=2 cli",
            ),
        ]))
        .run_to_end()?
        .completed()?;
    for (name, count) in [("none", 0), ("one", 1), ("two", 2)] {
        ended
            .partition(name)?
            .finished(0)?
            .since_quiesce(count)?
            .exits_of("apic-write", ended_writes(bench, count))?
            .interrupts(count)?;
    }
    ended
        .partition("neighbour")?
        .finished(0)?
        .since_quiesce(0)?
        .interrupts(0)?;
    Ok(())
}

/// Writes that exit: the ICR's; in xAPIC mode, also the ends of the two
/// interrupts that are taken.
fn ended_writes(bench: &Bench, sent: u64) -> u64 {
    if sent == 2 { bench.choose(4, 2) } else { sent }
}

/// DEBUG: an interrupt exits, is counted and traced, and reaches the program.
pub(crate) fn debug_interrupt(bench: &Bench) -> Result<()> {
    let ended = bench
        .system(partitions([probe(
            "debug",
            1,
            "enter=debug+populate sti send=0x50 taken=1 cli interrupts=1 leave",
        )]))
        .run_to_end()?
        .completed()?;
    ended
        .partition("debug")?
        .finished(0)?
        .says("probe: ok")?
        .interrupts(1)?
        .exits_of("interrupt", 1)?;
    let caught: Vec<_> = ended
        .report()
        .interrupts
        .iter()
        .map(|interrupt| (interrupt.vector, interrupt.kind.as_str(), interrupt.sender))
        .collect();
    let message = format!("caught {caught:x?}, expected vector 0x50 by an IPI of core 1");
    let one = caught == [(0x50, "ipi", Some(1))];
    let traced = ended.report().trace.iter();
    let traced = traced.filter(|record| record.reason == "interrupt").count();
    ended
        .check(one, message)?
        .check(traced == 1, format!("{traced} interrupts traced"))?;
    Ok(())
}

/// STRICT: sending an interrupt is an exit like any other.
pub(crate) fn strict_send(bench: &Bench) -> Result<()> {
    let ended = bench
        .system(partitions([
            neighbour(0),
            probe("sender", 1, "enter=strict+populate send=0x50"),
        ]))
        .run_to_end()?
        .completed()?;
    ended
        .partition("sender")?
        .violations(1)?
        .violation("apic-write")?
        .in_function("send_self", 2)?;
    ended
        .partition("neighbour")?
        .finished(0)?
        .since_quiesce(0)?;
    Ok(())
}

/// An interrupt for somebody else's core is refused, and nobody gets it; one
/// for the partition's own second core arrives.
pub(crate) fn foreign_ipi(bench: &Bench) -> Result<()> {
    let own = "meet core=0 ipi=2:0x50 taken=1 core=1 sti taken=1 cli";
    let ended = bench
        .system(partitions([
            neighbour(0),
            probe("own", 1, own).cores("[1, 2]"),
            probe("sender", 3, "ipi=0:0x50 ipi=1:0x51 ipi=2:0x52 wait=100000"),
        ]))
        .run_to_end()?
        .completed()?;
    ended.partition("own")?.finished(0)?;
    ended.partition("sender")?.finished(0)?;
    ended
        .partition("neighbour")?
        .finished(0)?
        .since_quiesce(0)?
        .interrupts(0)?;
    let refused = ended
        .report()
        .refused
        .iter()
        .filter(|refused| refused.owner == "sender" && refused.reason == "apic-write")
        .count();
    ended.check(
        refused == 3,
        format!("{refused} interrupts refused, expected 3"),
    )?;
    Ok(())
}
