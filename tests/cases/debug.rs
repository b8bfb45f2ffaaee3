//! DEBUG: who interrupts a core; and what else is refused, limited or named
//! for it.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::report::{Interrupt, Interrupter};
use cloister_tests::{Ended, Part, PartitionState, part, partitions};

/// `probe` with a local APIC.
pub(crate) fn probe(name: &str, cores: &str, args: &str) -> Part {
    part(name, "probe.elf")
        .cores(cores)
        .args(args)
        .may("quiesce strict debug populate")
        .key("apic = true")
}

/// The interrupts of `core` that were caught, in order.
fn interrupts(ended: &Ended, core: u32) -> Vec<&Interrupt> {
    let all = ended.report().interrupts.iter();
    all.filter(|interrupt| interrupt.core == core).collect()
}

/// The sources of `core`'s interrupts.
pub(crate) fn sources(ended: &Ended, core: u32) -> impl Iterator<Item = &Interrupter> {
    let all = ended.report().interrupters.iter();
    all.filter(move |source| source.core == core)
}

/// An IPI is named with its sender, the sending instruction and its callers,
/// and the guest gets it.
pub(crate) fn ipis(bench: &Bench) -> Result<()> {
    let args = "core=0 enter=debug sti meet taken=1 meet taken=2 meet taken=3 leave \
                core=1 meet ipi=0:0x77 meet ipi=0:0x77 meet ipi=0:0x78";
    let ended = bench
        .system(partitions([probe("pair", "[0, 1]", args)]))
        .run_to_end()?
        .completed()?;
    ended.partition("pair")?.finished(0)?.says("probe: ok")?;
    let caught = interrupts(&ended, 0);
    let vectors: Vec<u8> = caught.iter().map(|interrupt| interrupt.vector).collect();
    let named = caught.iter().all(|interrupt| {
        interrupt.kind == "ipi"
            && interrupt.origin == "core 1"
            && interrupt.sender == Some(1)
            && interrupt.sender_symbol.contains("apic::send")
            && interrupt.tsc != 0
            && interrupt.cr3.0 != 0
            && interrupt.backtrace.first() == Some(&interrupt.rip)
            && interrupt.symbols.iter().any(|name| name.contains("start"))
    });
    let counts: Vec<(u8, u64)> = sources(&ended, 0).map(|s| (s.vector, s.count)).collect();
    let callers = sources(&ended, 0).all(|s| s.symbols.iter().any(|name| name.contains("main")));
    let message = format!("caught {caught:?}, sources {counts:?}");
    let holds = vectors == [0x77, 0x77, 0x78] && named && counts == [(0x77, 2), (0x78, 1)];
    // Without DEBUG nothing is caught.
    let quiet = interrupts(&ended, 1).is_empty() && sources(&ended, 1).next().is_none();
    ended.check(holds && callers && quiet, message)?;
    Ok(())
}

/// The timer is named; what comes while the guest's RFLAGS.IF is 0 is caught
/// when it comes, and the guest gets all of it later, once.
pub(crate) fn masked(bench: &Bench) -> Result<()> {
    let args = "enter=debug cli timer=20 caught=1 send=0x90 caught=2 send=0xa1 caught=3 \
                sti taken=3 cli interrupts=3 leave";
    let ended = bench
        .system(partitions([probe("masked", "[1]", args)]))
        .run_to_end()?
        .completed()?;
    ended
        .partition("masked")?
        .finished(0)?
        .says("probe: ok")?
        .exits_of("interrupt", 3)?;
    let caught: Vec<(u8, &str)> = interrupts(&ended, 1)
        .into_iter()
        .map(|interrupt| (interrupt.vector, interrupt.kind.as_str()))
        .collect();
    let message = format!("caught {caught:?}");
    let holds = caught == [(0x40, "lvt-timer"), (0x90, "ipi"), (0xa1, "ipi")];
    ended.check(holds, message)?;
    Ok(())
}

/// An NMI is named like an IPI, and the guest gets it.
pub(crate) fn nmi(bench: &Bench) -> Result<()> {
    let args = "core=0 enter=debug meet taken=1 leave core=1 meet nmi=0";
    let ended = bench
        .system(partitions([probe("pair", "[0, 1]", args)]))
        .run_to_end()?
        .completed()?;
    ended
        .partition("pair")?
        .finished(0)?
        .says("probe: ok")?
        .exits_of("nmi", 1)?;
    let caught = interrupts(&ended, 0);
    let named = caught.iter().all(|interrupt| {
        interrupt.kind == "nmi"
            && interrupt.vector == 2
            && interrupt.origin == "core 1"
            && interrupt.sender_symbol.contains("apic::send_nmi")
    });
    let counted = sources(&ended, 0).map(|source| source.count).sum::<u64>();
    let message = format!("caught {caught:?}");
    let holds = caught.len() == 1 && named && counted == 1;
    ended.check(holds, message)?;
    Ok(())
}

/// With STRICT an interrupt that exits is a violation that says who sent it.
pub(crate) fn strict(bench: &Bench) -> Result<()> {
    let args = "core=0 enter=strict+debug sti meet loop core=1 meet wait=1000000 ipi=0:0x77";
    let ended = bench
        .system(partitions([probe("pair", "[0, 1]", args)]))
        .run_to_end()?
        .completed()?;
    ended
        .partition("pair")?
        .state(PartitionState::Violated)?
        .violations(1)?
        .violation("interrupt")?
        .detail("vector 119 ipi core 1")?;
    Ok(())
}

/// An IPI to somebody else's core is dropped and recorded with its sender's
/// backtrace; the other core is not interrupted, which its DEBUG would show.
pub(crate) fn forbidden(bench: &Bench) -> Result<()> {
    let sender = probe("sender", "[0]", "wait=1000000 ipi=1:0x77 ipi=1:0x78");
    let target = probe(
        "target",
        "[1]",
        "enter=debug sti wait=30000000 interrupts=0 leave",
    );
    let ended = bench
        .system(partitions([sender, target]))
        .run_to_end()?
        .completed()?;
    ended.partition("sender")?.finished(0)?;
    ended
        .partition("target")?
        .finished(0)?
        .says("probe: ok")?
        .since_quiesce(0)?;
    let refused: Vec<_> = ended.report().refused.iter().collect();
    let holds = refused.len() == 2
        && refused.iter().all(|refused| {
            refused.owner == "sender"
                && refused.core == 0
                && refused.detail.contains("beyond its own cores")
                && refused.backtrace.len() > 1
                && refused
                    .symbols
                    .iter()
                    .any(|name| name.contains("apic::send"))
                && refused.symbols.iter().any(|name| name.contains("main"))
        });
    let message = format!("refused {refused:?}");
    ended.check(holds, message)?;
    Ok(())
}

/// The ring overwrites its oldest records and says how many.
pub(crate) fn lost(bench: &Bench) -> Result<()> {
    let args = "enter=debug cpuid=300 leave";
    let ended = bench
        .system(partitions([crate::counting::exits("busy", 0, args)]))
        .run_to_end()?
        .completed()?;
    let traced: Vec<_> = ended.report().traced.iter().collect();
    let holds = traced.len() == 1 && traced[0].core == 0 && traced[0].written == 301;
    let holds = holds && traced[0].lost == 301 - 255;
    let message = format!("traced {traced:?}");
    ended.check(holds, message)?;
    Ok(())
}

fn again(core: u32, window: &str, args: &str) -> Part {
    part(&format!("again-{core}"), "probe.elf")
        .cores(&format!("[{core}]"))
        .args(args)
        .may("quiesce strict")
        .key("on_violation = \"restart\"")
        .key("max_restarts = 1")
        .key(&format!("restart_window = \"{window}\""))
}

/// Restarts that lie within the window count; its twin has waited for longer
/// than that before each breach, and goes on.
pub(crate) fn restart_window(bench: &Bench) -> Result<()> {
    // More than a second at the 6 GHz that are assumed where CPUID does not
    // tell the TSC's frequency.
    let slow = "until=2 wait=7000000000 enter=strict cpuid";
    let quick = "until=2 enter=strict cpuid";
    let ended = bench
        .system(partitions([again(0, "1s", slow), again(1, "1h", quick)]))
        .run_to_end()?
        .completed()?;
    ended
        .partition("again-0")?
        .finished(0)?
        .restarts(2)?
        .violations(2)?;
    ended
        .partition("again-1")?
        .state(PartitionState::Violated)?
        .restarts(1)?
        .violations(2)?;
    Ok(())
}
