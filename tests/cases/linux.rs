//! Linux under Cloister: it sees its cores and nothing else, and does what
//! Linux does, with partitions beside it that do not notice.

use std::fs;

use anyhow::{Context, Result};
use cloister_tests::cases::Bench;
use cloister_tests::{
    Console, Ended, LinuxState, NicModel, PartitionState, channel, linux, part, with_linux,
};
use serde_json::{Value, json};
use xtask::paths;

use crate::channels;
use crate::control::{list, marked};
use crate::counting::exits;
use crate::demo::{expect, listed};
use crate::neighbour::{beside, undisturbed};
use crate::{control, control_misuse, hostile_root, net};

/// What no kernel log may have.
const ALARMS: [&str; 6] = [
    "BUG:",
    // WARN_ON; mitigations have warnings of their own.
    "WARNING: CPU:",
    "Oops",
    "soft lockup",
    "Firmware Bug",
    "unchecked MSR access",
];

pub(crate) fn calm(ended: &Ended) -> Result<()> {
    ALARMS.iter().try_for_each(|alarm| {
        ended.linux()?.does_not_say(alarm)?;
        Ok(())
    })
}

/// Linux alone on `cores` of a machine that has more: it sees its own.
fn alone(bench: &Bench, cores: &str, count: u32) -> Result<()> {
    let last = count - 1;
    let range = if last == 0 {
        "0".to_owned()
    } else {
        format!("0-{last}")
    };
    let ended = bench
        .system(with_linux(&linux(cores), []))
        .run(
            "cd /sys/devices/system/cpu; echo nproc=$(nproc); \
             echo cpuinfo=$(grep -c ^processor /proc/cpuinfo); \
             echo possible=$(cat possible); echo present=$(cat present); \
             echo online=$(cat online); echo folders=$(ls -d cpu[0-9]* | wc -l); \
             echo svm=$(grep -cwE 'svm|vmx' /proc/cpuinfo); \
             echo hypervisor=$(grep -cw hypervisor /proc/cpuinfo); \
             echo busy=$(for n in 1 2 3 4; do (i=0; while [ $i -lt 3000 ]; do \
             i=$((i + 1)); done; echo done) & done | wc -l)",
        )?
        .completed()?;
    ended.linux()?.run_status(0)?.state(LinuxState::Off)?;
    calm(&ended)?;
    let count = count.to_string();
    for key in ["nproc", "cpuinfo", "folders", "hypervisor"] {
        expect(&ended, key, &count)?;
    }
    for key in ["possible", "present", "online"] {
        expect(&ended, key, &range)?;
    }
    expect(&ended, "svm", "0")?;
    expect(&ended, "busy", "4")
}

/// One core of four.
pub(crate) fn alone_1(bench: &Bench) -> Result<()> {
    alone(bench, "[0]", 1)
}

/// Two, of which the first is not the machine's first.
pub(crate) fn alone_2(bench: &Bench) -> Result<()> {
    alone(bench, "[0, 2]", 2)
}

/// All four.
pub(crate) fn alone_4(bench: &Bench) -> Result<()> {
    alone(bench, "[0, 1, 2, 3]", 4)
}

/// What is known to reach isolated cores of a bare Linux, all of it, on every
/// housekeeping core, while a strict partition runs.
pub(crate) fn load(bench: &Bench) -> Result<()> {
    let work = "
        calls() { awk '/^ *(CAL|RES|TLB):/ { n += $2 + $3 } END { print n }' /proc/interrupts; }
        before=$(calls)
        for n in 1 2 3 4; do (while :; do :; done) & done
        for n in 1 2 3; do modprobe dummy && rmmod dummy && echo reloaded; done
        for n in 1 2; do
            echo 0 >/sys/devices/system/cpu/cpu1/online || exit 11
            [ $(nproc) = 1 ] || exit 12
            echo 1 >/sys/devices/system/cpu/cpu1/online || exit 13
            [ $(nproc) = 2 ] || exit 14
        done
        echo 1 >/proc/sys/vm/compact_memory
        echo 1 >/proc/sys/vm/stat_refresh
        echo 3 >/proc/sys/vm/drop_caches
        echo 'base=0xe0000000 size=0x1000000 type=uncachable' >/proc/mtrr; echo mtrr=$?
        for n in 1 2 3; do taskset 1 sh -c 'dd if=/dev/zero bs=64k count=40 2>/dev/null' |
            taskset 2 cat >/dev/null; done
        sleep 3
        kill $(jobs -p)
        echo calls=$(($(calls) - before))
        echo online=$(cat /sys/devices/system/cpu/online)
    ";
    let ended = beside(bench, &linux("[0, 1]"), []).run(work)?.completed()?;
    ended.linux()?.run_status(0)?.state(LinuxState::Off)?;
    calm(&ended)?;
    expect(&ended, "online", "0-1")?;
    let calls: u64 = ended.linux_value("calls")?.parse()?;
    let reloads = ended
        .linux_console()
        .lines()
        .filter(|line| line.trim() == "reloaded")
        .count();
    let iterations = undisturbed(&ended)?;
    bench.note(format!(
        "{calls} interrupts between Linux's cores; {iterations} strict iterations, 0 exits"
    ));
    ended
        .check(
            calls > 100,
            format!("only {calls} interrupts between cores"),
        )?
        .check(reloads == 3, format!("{reloads} modules reloaded"))?;
    Ok(())
}

/// Linux reaches for what is not its own, with partitions around it that
/// break STRICT, fail and hang: it goes on, and so does the strict one.
pub(crate) fn peeks(bench: &Bench) -> Result<()> {
    let work = format!(
        "
        modprobe msr || exit 20
        region=$(dmesg | sed -n 's/.*BIOS-e820: \\[mem \\(0x[0-9a-f]*\\)-.*reserved/\\1/p' |
            while read a; do [ $((a)) -gt 16777216 ] && echo $a && break; done)
        echo region=$region
        echo read=$(devmem $region 32)
        devmem $region 32 0x12345678; echo write=$?
        echo again=$(devmem $region 64)
        echo -n aaaaaaaa | dd of=/dev/cpu/0/msr bs=8 count=1 oflag=seek_bytes seek=$(({DENIED})) \
            2>/tmp/e; echo wrmsr=$?
        grep -o 'Input/output error' /tmp/e
        dd if=/dev/cpu/1/msr bs=8 count=1 iflag=skip_bytes skip=$((0x40000000)) of=/tmp/v 2>/tmp/e
        echo rdmsr=$?
        echo alive=$(nproc)
        sleep 2
        "
    );
    let parts = [
        exits("breaks", 3, "enter=strict cpuid=1"),
        exits("fails", 4, "triple"),
        exits("hangs", 5, "enter=quiesce+populate hlt"),
    ];
    let ended = beside(bench, &linux("[0, 1]"), parts)
        .run(&work)?
        .completed()?;
    ended.linux()?.run_status(0)?.state(LinuxState::Off)?;
    expect(&ended, "read", "0xFFFFFFFF")?;
    expect(&ended, "write", "0")?;
    expect(&ended, "again", "0xFFFFFFFFFFFFFFFF")?;
    expect(&ended, "wrmsr", "1")?;
    expect(&ended, "rdmsr", "1")?;
    expect(&ended, "alive", "2")?;
    ended.linux()?.says("Input/output error")?;
    calm(&ended)?;
    undisturbed(&ended)?;
    ended
        .partition("breaks")?
        .state(PartitionState::Violated)?
        .violation("cpuid")?
        .in_function("Run::act", 2)?;
    ended.partition("fails")?.failed(&["triple fault"])?;
    ended
        .partition("hangs")?
        .state(PartitionState::Running)?
        .since_quiesce(0)?;
    let region = ended.linux_value("region")?;
    for (reason, words) in [
        ("nested-page-fault", region.trim_start_matches(['0', 'x'])),
        ("wrmsr", DENIED),
        ("rdmsr", "0x40000000"),
        // Linux probes for a second serial port: the hypervisor's console.
        ("port-in", "port 0x2f"),
    ] {
        let found = ended.report().refused.iter().any(|refused| {
            refused.owner == "linux" && refused.reason == reason && refused.detail.contains(words)
        });
        if !found {
            return Err(ended.failure(format!("no refused {reason} {words}")));
        }
    }
    Ok(())
}

/// SVM's VM_CR (AMD APM vol. 2 §15.30.1), which Linux may not write.
const DENIED: &str = "0xc0010114";

/// Linux reboots: that is the end, with a report.
pub(crate) fn reboot(bench: &Bench) -> Result<()> {
    let ended = beside(bench, &linux("[0, 1]"), [])
        .run("echo going; sync; reboot -f; sleep 30; exit 9")?
        .completed()?;
    ended.linux()?.state(LinuxState::Reset)?.says("going")?;
    calm(&ended)?;
    undisturbed(&ended)?;
    Ok(())
}

/// Linux dies by `command`; the partition beside it answers as before.
fn death(bench: &Bench, cmdline: &str, command: &str, last_words: &str) -> Result<Ended> {
    let (cable, echo) = net::echo_beside(bench, "[2]")?;
    let mut machine = bench
        .system(with_linux(&linux("[0, 1]").cmdline(cmdline), [echo]))
        .nic(cable.nic(NicModel::E1000))
        .start_with(command)?;
    net::ready(&mut machine, "udp-echo")?;
    machine.wait_for(Console::Linux, last_words, 150)?;
    net::converse(&mut machine, &cable)?;
    let ended = machine.finish()?.completed()?;
    ended
        .partition("udp-echo")?
        .finished(0)?
        .since_quiesce(0)?
        .interrupts(0)?
        .violations(0)?
        .says("bad=0")?;
    Ok(ended)
}

/// A kernel panic.
pub(crate) fn panic(bench: &Bench) -> Result<()> {
    let ended = death(
        bench,
        "",
        "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger",
        "Kernel panic - not syncing",
    )?;
    ended.linux()?.state(LinuxState::Failed)?;
    Ok(())
}

/// A triple fault, which is how `reboot=triple` reboots.
pub(crate) fn triple_fault(bench: &Bench) -> Result<()> {
    let ended = death(
        bench,
        "reboot=triple",
        "reboot -f; sleep 90",
        "reboot: Restarting",
    )?;
    let linux = ended.linux()?.state(LinuxState::Failed)?;
    let faults = linux.report().exits.of("triple-fault");
    linux.check(faults == 1, format!("{faults} triple faults"))?;
    Ok(())
}

/// Boot to user space takes at most twice the bare boot of the same kernel,
/// and the report says what Linux's exits were.
pub(crate) fn boot_time(bench: &Bench) -> Result<()> {
    let once = |ended: Ended| -> Result<(f64, Ended)> {
        let ended = ended.completed()?;
        ended.linux()?.run_status(0)?;
        let seconds = ended.report().linux()?.boot_seconds;
        let seconds = seconds.with_context(|| ended.failure("no user space"))?;
        Ok((seconds, ended))
    };
    let (mut bare, mut ours) = (f64::INFINITY, f64::INFINITY);
    let mut exits = String::new();
    // The better of two, taken in turn, if it takes that: other work on this
    // host does not weigh on all alike.
    for _ in 0..2 {
        let (seconds, _) = once(bench.bare().cores(2).run("true")?)?;
        bare = bare.min(seconds);
        let system = with_linux(&linux("[0, 1]"), []);
        let (seconds, ended) = once(bench.system(system).cores(2).run("true")?)?;
        ours = ours.min(seconds);
        let linux = ended.report().linux()?;
        let reasons: Vec<String> = linux
            .reasons
            .iter()
            .map(|reason| format!("{} {}", reason.reason, reason.total))
            .collect();
        exits = format!("{} exits: {}", linux.exits.total, reasons.join(", "));
        let sum: u64 = linux.exits.by_reason.values().sum();
        let total = linux.exits.total;
        ended.check(
            sum == total && total > 0,
            format!("exits by reason sum to {sum}, all are {total}"),
        )?;
        if ours / bare <= 1.5 {
            break;
        }
    }
    let ratio = ours / bare;
    bench.note(format!(
        "boot to user space: bare {bare:.1} s, Cloister {ours:.1} s, ratio {ratio:.2}\n{exits}"
    ));
    anyhow::ensure!(ratio <= 2.0, "ratio {ratio:.2}, expected 2 at most");
    Ok(())
}

/// What Linux is told on Bochs: see `partitions/demo-bochs.toml`.
const BOCHS_TSC: &str = "tsc_early_khz=100000";

/// One housekeeping core and one partition: the demo for slow machines. And
/// another one, which Linux starts and talks to.
pub(crate) fn beside_one(bench: &Bench) -> Result<()> {
    // Its core is parked until Linux starts it.
    let sensor = part("sensor", "telemetry.elf")
        .cores("[2]")
        .args("rate=50000")
        .may("quiesce strict populate")
        .key("autostart = false");
    let shipped = fs::read_to_string(paths::demo_bochs())?;
    let shipped = shipped.replace(BOCHS_TSC, bench.choose("", BOCHS_TSC));
    let ended = bench
        .system(format!("{shipped}\n{sensor}") + &channel("telemetry", ["linux", "sensor"], "64K"))
        .run(&format!(
            "echo nproc=$(nproc); uname -r; cloister start sensor; {}; {}",
            channels::FEW_WORDS,
            list("listed")
        ))?
        .completed()?;
    ended.linux()?.run_status(0)?.state(LinuxState::Off)?;
    expect(&ended, "nproc", "1")?;
    listed(&ended, &["spin", "sensor"])?;
    calm(&ended)?;
    ended
        .partition("spin")?
        .finished(0)?
        .since_quiesce(0)?
        .interrupts(0)?
        .violations(0)?;
    channels::conversed(&ended, "sensor", 1)
}

/// Two housekeeping cores and a partition that counts its exits; what the
/// operator's tool says and does there.
pub(crate) fn beside_two(bench: &Bench) -> Result<()> {
    const ROUNDS: u64 = 5;
    let command = format!(
        "{}; echo nproc=$(nproc); cat /proc/interrupts; {}; {}; {}; \
         hostile-root control 64; hostile-root hypercalls; {}",
        control::QUIET_KERNEL,
        list("before"),
        marked("watched", "watch --cpu 1 --seconds 0.2 --json"),
        marked("cycle", &format!("cycle exits -n {ROUNDS} --json")),
        list("after"),
    );
    let args = "cpuid=3 enter=strict+populate touch=2 leave in=1";
    let linux = linux("[0, 1]").cmdline(bench.choose("", BOCHS_TSC));
    let system = with_linux(&linux, [exits("exits", 2, args)]);
    let ended = hostile_root::with_root(bench.system(system))?
        .run(&command)?
        .completed()?;
    ended.linux()?.run_status(0)?.state(LinuxState::Off)?;
    expect(&ended, "nproc", "2")?;
    calm(&ended)?;
    let (before, after) = (
        control::json(&ended, "before")?,
        control::json(&ended, "after")?,
    );
    let starts = after["partitions"][0]["starts"].clone();
    control::equal(&ended, "starts", starts, 1 + 2 * ROUNDS)?;
    let ended = told_truly(bench, ended, &before)?;
    ended
        .partition("exits")?
        .finished(0)?
        .says("exits: ok")?
        .since_quiesce(0)?
        .interrupts(0)?;
    let watched = control::json(&ended, "watched")?;
    let interrupts = watched["interrupts"].as_u64().unwrap_or(0);
    let ended = ended.check(interrupts > 0, format!("watched: {watched}"))?;
    control_misuse::refusals(&ended, &before, &after)?;
    let cycled = control::json(&ended, "cycle")?;
    // TSC cycles, which on Bochs are instructions; elsewhere the host's time.
    let (call, effect) = bench.choose((u64::MAX, u64::MAX), (200_000, 10_000_000));
    let operations = cycled["operations"].as_array();
    let late = operations.into_iter().flatten().find(|of| {
        let beyond = |what: &str, bound| of[what]["max"].as_u64().is_none_or(|max| max > bound);
        beyond("call", call) || beyond("effect", effect)
    });
    ended.ensure(late.is_none(), format!("too late: {late:?}"))?;
    let calls: Vec<String> = cycled["operations"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|of| {
            format!(
                "{} {} / {}",
                of["operation"], of["call"]["max"], of["effect"]["max"]
            )
        })
        .collect();
    bench.note(format!(
        "{interrupts} interrupts of CPU 1 in 0.2 s; TSC cycles of a call / until its effect, \
         the longest of {ROUNDS}: {}",
        calls.join(", ")
    ));
    Ok(())
}

/// What the tool lists is so.
fn told_truly(bench: &Bench, ended: Ended, list: &Value) -> Result<Ended> {
    let partition = &list["partitions"][0];
    let counts = list["cores"][2]["by_reason"].as_array();
    let of = |reason: &str| {
        let mut all = counts.into_iter().flatten();
        all.find(|count| count["reason"] == reason)
            .map(|count| count["total"].clone())
    };
    let holds = list["vendor"] == bench.choose("amd", "intel")
        && list["linux"] == json!([0, 1])
        && partition["name"] == "exits"
        && partition["state"] == "finished"
        && partition["cpus"] == json!([2])
        && partition["starts"] == 1
        && partition["exit_code"] == 0
        && list["cores"][2]["owner"] == "exits"
        && list["cores"][2]["since_quiesce"] == 0
        && of("cpuid") == Some(json!(3));
    ended.check(holds, format!("the tool lists {list:#}"))
}
