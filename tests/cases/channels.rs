//! Channels: messages arrive in order, at no exit; a peer that scribbles harms
//! nobody; telemetry from a strict partition to Linux, and commands to it.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::{Part, channel, part, partitions};

/// A partition that runs `messages` on core `core`.
fn end(name: &str, core: u32, args: &str) -> Part {
    part(name, "messages.elf")
        .cores(&format!("[{core}]"))
        .args(args)
        .may("quiesce strict populate")
}

/// Messages of many lengths through the smallest ring there is, again and
/// again: each whole and in its order, and no exit on either side.
pub(crate) fn in_order(bench: &Bench) -> Result<()> {
    let count = bench.choose("20000", "2000");
    let ends = [
        end("from", 0, &format!("send messages={count} longest=700")),
        end("to", 1, &format!("receive messages={count} longest=700")),
    ];
    let ended = bench
        .system(partitions(ends) + &channel("ring", ["from", "to"], "4K"))
        .run_to_end()?
        .completed()?;
    for (name, word, peer) in [("from", "sent", "to"), ("to", "received", "from")] {
        ended
            .partition(name)?
            .finished(0)?
            .says(&format!("messages: ring to {peer}, 4096 bytes"))?
            .says("messages: a second time: the channel is open already")?
            .says(&format!("messages: {word}={count}"))?
            .says("messages: peer_starts=1 since_quiesce=0")?
            .since_quiesce(0)?
            .interrupts(0)?
            .violations(0)?;
    }
    Ok(())
}

/// The twin: one instruction that exits, on one side.
pub(crate) fn one_exit(bench: &Bench) -> Result<()> {
    let ends = [
        end("from", 0, "send"),
        end("to", 1, "receive flags=quiesce+populate cpuid"),
    ];
    let ended = bench
        .system(partitions(ends) + &channel("ring", ["from", "to"], "4K"))
        .run_to_end()?
        .completed()?;
    ended.partition("from")?.finished(0)?.since_quiesce(0)?;
    ended
        .partition("to")?
        .finished(0)?
        .says("messages: received=1000")?
        .since_quiesce(1)?
        .exits_of("cpuid", 1)?;
    Ok(())
}

/// A peer that writes nonsense over every word, positions and lengths too: the
/// other end is told, goes on, and has no exit.
pub(crate) fn hostile_peer(bench: &Bench) -> Result<()> {
    let rounds = bench.choose("1000", "100");
    let ends = [
        end("good", 0, "suffer"),
        end("bad", 1, &format!("scribble messages={rounds}")),
    ];
    let ended = bench
        .system(partitions(ends) + &channel("ring", ["good", "bad"], "8K"))
        .run_to_end()?
        .completed()?;
    ended
        .partition("bad")?
        .finished(0)?
        .says(&format!("messages: scribbled={rounds}"))?;
    let good = ended
        .partition("good")?
        .finished(0)?
        .since_quiesce(0)?
        .violations(0)?;
    for what in ["damaged", "refused"] {
        let count = good.value(what)?;
        good.check(count > 0, format!("{what}={count}"))?;
    }
    Ok(())
}

/// A receiver that breaks STRICT and is started again finds what was sent
/// meanwhile, from where it stopped; the sender is told, and has no exit.
pub(crate) fn restarted_end(bench: &Bench) -> Result<()> {
    let ends = [
        end("from", 0, "send messages=4000"),
        end("to", 1, "receive messages=2000 cpuid")
            .key("on_violation = \"restart\"\nmax_restarts = 1"),
    ];
    let ended = bench
        .system(partitions(ends) + &channel("ring", ["from", "to"], "4K"))
        .run_to_end()?
        .completed()?;
    ended
        .partition("from")?
        .finished(0)?
        .says("messages: sent=4000")?
        .says("messages: peer_starts=2 since_quiesce=0")?
        .since_quiesce(0)?;
    ended
        .partition("to")?
        .violations(2)?
        .says("messages: received=2000 from 2000")?
        .violation("cpuid")?;
    Ok(())
}
