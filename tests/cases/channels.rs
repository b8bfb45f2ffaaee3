//! Channels: messages arrive in order, at no exit; a peer that scribbles harms
//! nobody; telemetry from a strict partition to Linux, and commands to it.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::{Part, channel, part, partitions};
use xtask::paths;

use crate::demo::expect;

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

/// The demo: a strict partition sends telemetry to Linux and obeys commands
/// from there, at no exit. Its twin beside it executes one instruction that
/// exits, when it is told to, and has one.
pub(crate) fn telemetry(bench: &Bench) -> Result<()> {
    let shipped = std::fs::read_to_string(paths::root().join("partitions/telemetry.toml"))?;
    let twin = part("twin", "telemetry.elf")
        .cores("[3]")
        .args("channel=twins rate=10000000 flags=quiesce+populate")
        .may("quiesce populate");
    let text = format!("{shipped}\n{twin}") + &channel("twins", ["twin", "linux"], "4K");
    let commands = "cloister channel list --json >/tmp/list; echo list=$?; \
        echo functions=$(grep -l 0x1110 /sys/bus/pci/devices/*/device | wc -l); \
        cloister channel receive telemetry -f -n 3; \
        cloister channel send telemetry rate=100000 && cloister channel send telemetry nonsense; \
        sleep 1; cloister channel receive telemetry >/tmp/log; \
        echo ok=$(grep -c '^ok rate=100000$' /tmp/log); \
        echo bad=$(grep -c '^error \"nonsense\"' /tmp/log); \
        echo reports=$(grep -c '^n=' /tmp/log); \
        echo exits=$(grep '^n=' /tmp/log | grep -vc ' exits=0 interrupts=0 '); \
        cloister channel receive nobody; echo nobody=$?; \
        mkdir -p /etc; echo 'user:x:1000:1000::/:/bin/sh' >/etc/passwd; \
        su user -c 'cloister channel send telemetry stop'; echo user=$?; \
        cloister channel send twins cpuid; cloister channel send twins stop; \
        cloister channel send telemetry stop; \
        for name in telemetry twins; do for n in 1 2 3 4 5 6 7 8 9; do sleep 1; \
        cloister channel receive $name | grep '^ok stop' && break; done; done; \
        cloister channel list";
    let ended = bench.system(text).run(commands)?.completed()?;
    for (key, value) in [
        ("list", "0"),
        ("functions", "2"),
        ("ok", "1"),
        ("bad", "1"),
        ("exits", "0"),
        ("nobody", "4"),
        ("user", "3"),
    ] {
        expect(&ended, key, value)?;
    }
    let sensor = ended
        .partition("sensor")?
        .finished(0)?
        .says("telemetry: talks to linux")?
        .since_quiesce(0)?
        .interrupts(0)?
        .violations(0)?;
    for (key, expected) in [("commands", 2), ("corrupt", 0), ("since_quiesce", 0)] {
        let got = sensor.value(key)?;
        sensor.check(got == expected, format!("{key}={got}, expected {expected}"))?;
    }
    ended
        .partition("twin")?
        .finished(0)?
        .since_quiesce(1)?
        .exits_of("cpuid", 1)?;
    Ok(())
}
