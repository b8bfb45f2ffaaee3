//! Channels: messages arrive in order, at no exit; a peer that scribbles harms
//! nobody; telemetry from a strict partition to Linux, and commands to it.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::{Ended, Part, channel, part, partitions};
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

/// The twin: one instruction that exits, on one side. (The block is mapped by
/// large pages, behind another one.)
pub(crate) fn one_exit(bench: &Bench) -> Result<()> {
    let ends = [
        end("from", 0, "send"),
        end("to", 1, "receive flags=quiesce+populate cpuid"),
    ];
    let channels = channel("small", ["from", "to"], "4K") + &channel("ring", ["from", "to"], "4M");
    let ended = bench
        .system(partitions(ends) + &channels)
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

/// What Linux says to a partition that runs `telemetry`, and hears from it.
const CONVERSATION: &str = "cloister channel receive telemetry -f -n 3 >/tmp/log; \
     cloister channel send telemetry rate=100000; cloister channel send telemetry nonsense; \
     cloister channel send telemetry stop; \
     n=0; until grep -q '^ok stop$' /tmp/log || [ $n = 50 ]; do n=$((n + 1)); sleep 1; \
     cloister channel receive telemetry >>/tmp/log; done; \
     echo ok=$(grep -c '^ok rate=100000$' /tmp/log); \
     echo bad=$(grep -c '^error \"nonsense\"' /tmp/log); \
     echo reports=$(grep -c '^n=' /tmp/log); \
     echo exits=$(grep '^n=' /tmp/log | grep -vc ' exits=0 interrupts=0 ')";

/// A shorter one, for slow machines.
pub(crate) const FEW_WORDS: &str = "cloister channel receive telemetry -f -n 2 >/tmp/log; \
     cloister channel send telemetry stop; \
     until grep -q '^ok stop$' /tmp/log; do cloister channel receive telemetry >>/tmp/log; done; \
     echo reports=$(grep -c '^n=' /tmp/log); \
     echo exits=$(grep '^n=' /tmp/log | grep -vc ' exits=0 interrupts=0 ')";

/// The partition has sent reports and obeyed so many commands, and had no
/// exit.
pub(crate) fn conversed(ended: &Ended, name: &str, commands: u64) -> Result<()> {
    expect(ended, "exits", "0")?;
    let reports: u64 = ended.linux_value("reports")?.parse()?;
    ended
        .clone()
        .check(reports >= 2, format!("{reports} reports"))?;
    let partition = ended
        .partition(name)?
        .finished(0)?
        .says("telemetry: talks to linux")?
        .since_quiesce(0)?
        .interrupts(0)?
        .violations(0)?;
    for (key, expected) in [("commands", commands), ("corrupt", 0), ("since_quiesce", 0)] {
        let got = partition.value(key)?;
        partition.check(got == expected, format!("{key}={got}, expected {expected}"))?;
    }
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
    // More functions than one PCI device has, and a block of large pages.
    let many = (0..8).map(|n| channel(&format!("more-{n}"), ["linux", "twin"], "4K"));
    let text = format!("{shipped}\n{twin}")
        + &channel("twins", ["twin", "linux"], "4M")
        + &many.collect::<String>();
    let commands = format!(
        "cloister channel list --json >/tmp/list; echo list=$?; \
         echo functions=$(grep -l 0x1110 /sys/bus/pci/devices/*/device | wc -l); \
         cloister channel receive nobody; echo nobody=$?; \
         mkdir -p /etc; echo 'user:x:1000:1000::/:/bin/sh' >/etc/passwd; \
         su user -c 'cloister channel send telemetry stop'; echo user=$?; \
         cloister channel send twins cpuid; cloister channel send twins stop; \
         {CONVERSATION}; cloister channel list; \
         echo twin=$(cloister channel receive twins | grep -c '^ok cpuid$')"
    );
    let ended = bench.system(text).run(&commands)?.completed()?;
    for (key, value) in [
        ("list", "0"),
        ("functions", "10"),
        ("nobody", "4"),
        ("user", "3"),
        ("twin", "1"),
        ("ok", "1"),
        ("bad", "1"),
    ] {
        expect(&ended, key, value)?;
    }
    conversed(&ended, "sensor", 2)?;
    ended
        .partition("twin")?
        .finished(0)?
        .since_quiesce(1)?
        .exits_of("cpuid", 1)?;
    Ok(())
}
