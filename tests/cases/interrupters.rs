//! Who interrupts, beside Linux: its devices, its own cores, its root; and what
//! QUIESCE says of them.

use std::io::Write as _;

use anyhow::{Context, Result};
use cloister_tests::cases::Bench;
use cloister_tests::report::Interrupter;
use cloister_tests::{Ended, Part, PartitionState, System, linux, part, partitions, with_linux};

use crate::debug::{probe, sources};
use crate::demo::expect;
use crate::hostile_root;

/// Shell functions: PCI configuration space and registers of QEMU's device
/// `edu` (docs/specs/edu.txt: 60h raises its interrupt, 64h takes it back; its
/// MSI capability is at 40h), pins of the I/O APIC (82093AA datasheet, 3.2.4),
/// and waiting for partitions.
const SHELL: &str = r#"
    edu=/sys/bus/pci/devices/0000:00:10.0
    bar=$(head -1 $edu/resource | cut -d' ' -f1)
    config() { printf "$2" | dd of=$edu/config bs=1 seek=$(($1)) conv=notrunc 2>/dev/null; }
    raise() { sleep 1; devmem $((bar + 0x60)) 32 1; devmem $((bar + 0x64)) 32 1; }
    pin() { devmem 0xfec00000 32 $1; devmem 0xfec00010 32 $2; }
    config 4 '\x06\x00'
    is() { cloister show $1 --json | grep -q "$2"; }
    until_is() { until is $1 "$2"; do sleep 1; done; }
"#;

/// With that device, where [`SHELL`] looks for it.
fn with_edu(system: System) -> System {
    system
        .machine_argument("-device")
        .machine_argument("edu,addr=0x10")
}

/// A strict neighbour that waits, with interrupts on, for ever.
fn strict(core: u32) -> Part {
    part("strict", "exits.elf")
        .cores(&format!("[{core}]"))
        .args("sti=1 enter=strict+populate loop")
        .may("quiesce strict populate")
}

fn undisturbed(ended: &Ended) -> Result<()> {
    ended
        .partition("strict")?
        .state(PartitionState::Running)?
        .since_quiesce(0)?
        .interrupts(0)?
        .violations(0)?;
    Ok(())
}

/// The MSI of a partition's own device: QUIESCE says that it is routed to the
/// core, and DEBUG, once it comes, whose it is; the program gets it.
pub(crate) fn message(bench: &Bench) -> Result<()> {
    // Routes that have been looked at less than 100 million cycles ago are not
    // looked at again.
    let args = "msi=1:0x66 busy=route msi-off wait=300000000 enter=debug sti wait=300000000 \
                msi=1:0x66 raise taken=1 msi-off leave";
    let owner = probe("owner", "[1]", args)
        .key("devices = [{ address = \"0000:00:10.0\", dma = \"unprotected\" }]");
    let system = bench.system(partitions([owner]));
    let ended = with_edu(system).run_to_end()?.completed()?;
    ended
        .partition("owner")?
        .finished(0)?
        .says("probe: busy route")?
        .says("probe: ok")?
        .exits_of("interrupt", 1)?;
    let found: Vec<(u8, &str, &str, u64)> = sources(&ended, 1)
        .map(|s| (s.vector, s.kind.as_str(), s.origin.as_str(), s.count))
        .collect();
    let message = format!("sources {found:x?}");
    let named = found == [(0x66, "msi", "0000:00:10.0", 1)];
    ended.clone().check(named, message)?;
    Ok(())
}

/// What Linux's root aims at a core under DEBUG, by a pin of the I/O APIC, by an
/// MSI, by an IPI, does not arrive, and is recorded with its sender. The ring is
/// read while the core runs.
pub(crate) fn forbidden(bench: &Bench) -> Result<()> {
    let command = format!(
        r#"{SHELL}
        cloister start watched
        until_is watched '"debug"$'
        pin 0x39 0x02000000; pin 0x38 0x67; raise
        config 0x44 '\x00\x20\xe0\xfe\x00\x00\x00\x00\x66\x00'; config 0x42 '\x81\x00'; raise
        hostile-root ipi 2 0x68; echo ipi=$?
        hostile-root ipi 3 0x68
        cloister trace watched; echo trace=$?
        "#
    );
    let watched = probe("watched", "[2]", "enter=debug sti loop").key("autostart = false");
    let relaxed = linux("[0, 1]").cmdline("iomem=relaxed");
    let system = bench.system(with_linux(&relaxed, [watched, strict(3)]));
    let system = hostile_root::with_root(system)?;
    let ended = with_edu(system).run(&command)?.completed()?;
    undisturbed(&ended)?;
    ended
        .partition("watched")?
        .state(PartitionState::Running)?
        .since_quiesce(0)?
        .interrupts(0)?;
    let reached = sources(&ended, 2).next().is_some();
    ended.clone().check(!reached, "something arrived")?;
    expect(&ended, "ipi", "0")?;
    expect(&ended, "trace", "0")?;
    // The call that entered the mode.
    ended.linux()?.says("number 1")?;
    let refused = |detail: &'static str| {
        let all = ended.report().refused.iter();
        all.filter(move |refused| refused.owner == "linux" && refused.detail.contains(detail))
    };
    let ipis: Vec<_> = refused("beyond its own cores").collect();
    let named = ipis.iter().all(|refused| {
        refused.backtrace.first().map(|first| first.0) == Some(refused.rip)
            && refused.backtrace.len() > 1
    });
    let others =
        refused("a pin to a core").count() > 0 && refused("a message to a core").count() > 0;
    let message = format!("refused {:?}", ended.report().refused);
    let holds = ipis.len() == 2 && named && others;
    ended.clone().check(holds, message)?;
    Ok(())
}

/// The kernel's functions with their addresses, as root sees them in a kernel
/// that does not move itself.
fn kernel_symbols(bench: &Bench) -> Result<tempfile::NamedTempFile> {
    let system = with_linux(&linux("[0, 1]").cmdline("nokaslr"), []);
    let command = "echo symbols-begin; grep -i ' t ' /proc/kallsyms | \
                   grep -v ']' | cut -d' ' -f1,2,3; echo symbols-end";
    let ended = bench.system(system).run(command)?.completed()?;
    let console = ended.linux_console().replace('\r', "");
    let text = console
        .rsplit_once("symbols-begin\n")
        .and_then(|(_, rest)| rest.split_once("symbols-end"))
        .with_context(|| ended.failure("Linux printed no symbols"))?
        .0;
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(text.as_bytes())?;
    Ok(file)
}

/// `linux.debug`: timer, IPIs and NMIs with their senders' callers and the pin
/// of the serial port, each counted and with the kernel's names, on a core of
/// Linux; and Linux keeps working.
pub(crate) fn linux_core(bench: &Bench) -> Result<()> {
    let symbols = kernel_symbols(bench)?;
    let command = "echo 2 > /proc/irq/4/smp_affinity; cat /proc/interrupts; \
                   echo 0 > /sys/devices/system/cpu/cpu1/online; \
                   echo 1 > /sys/devices/system/cpu/cpu1/online; \
                   echo 2 > /proc/irq/4/smp_affinity; cat /proc/interrupts; \
                   taskset 1 sh -c 'echo l >/proc/sysrq-trigger'; nproc";
    let text = with_linux(
        &linux("[0, 1]").cmdline("nokaslr sysrq_always_enabled"),
        [part("neighbour", "spin.elf")
            .cores("[2]")
            .args("quanta=3000000")
            .may("quiesce strict populate")],
    );
    let text = text.replacen("[linux]\n", "[linux]\ndebug = [1]\n", 1);
    let ended = bench
        .system(text)
        .symbols(symbols.path())
        .run(command)?
        .completed()?;
    let statuses = ended.report().linux()?.run_status;
    let by_kind = |kind: &'static str| sources(&ended, 1).filter(move |source| source.kind == kind);
    let count = |kind: &'static str| by_kind(kind).map(|source| source.count).sum::<u64>();
    let by_core_0 = |source: &Interrupter, function: &str| {
        source.sender == Some(0)
            && source.backtrace.len() > 2
            && source.symbols.iter().any(|name| name.contains(function))
            && !source.symbol.is_empty()
    };
    let callers = by_kind("ipi").any(|source| by_core_0(source, "smp_call_function"));
    let nmis = by_kind("nmi").any(|source| by_core_0(source, "nmi_trigger_cpumask_backtrace"));
    let serial = by_kind("io-apic").any(|source| source.origin == "gsi 4");
    let others = sources(&ended, 0).next().is_some();
    let exits = &ended.report().core(1)?.exits;
    let exits = exits.of("interrupt") + exits.of("nmi");
    let sum: u64 = sources(&ended, 1).map(|source| source.count).sum();
    let timer = count("lvt-timer");
    bench.note(format!(
        "core 1 of Linux: {sum} interrupts, {timer} of its timer, {} IPIs, {} of I/O APIC pins, \
         {} NMIs, {} unknown",
        count("ipi"),
        count("io-apic"),
        count("nmi"),
        count("unknown")
    ));
    let message = format!(
        "status {statuses:?}, {exits} exits, {sum} in the table, {timer} of the timer, callers \
         {callers}, NMI {nmis}, serial port {serial}, core 0 watched {others}"
    );
    let holds = statuses == Some(0)
        && exits == sum
        && timer > 0
        && callers
        && nmis
        && serial
        && !others
        && ended.report().traced.iter().any(|traced| traced.core == 1);
    let ended = ended.check(holds, message)?;
    ended
        .partition("neighbour")?
        .finished(0)?
        .since_quiesce(0)?;
    Ok(())
}

/// QUIESCE says so when the operator does not let go of the core.
pub(crate) fn management(bench: &Bench) -> Result<()> {
    let command = "
        is() { cloister show $1 --json | grep -q \"$2\"; }
        cloister start flooded
        for d in /sys/bus/pci/devices/*; do
            grep -q 0x10f5 $d/device && set -- $(head -1 $d/resource)
        done
        # Partition 0: impose DEBUG no longer (cloister_abi::control).
        until is flooded '\"finished\"'; do
            hostile-root flood $(($1 + 16)) 0x005 2000 100 || exit 31
        done
    ";
    // 0xf000_0000 ticks of a 128th of the bus clock: it does not fire.
    let args = "timer=0xf0000000 busy=apic-timer until-busy=management quiet";
    let flooded = probe("flooded", "[2]", args).key("autostart = false");
    let relaxed = linux("[0, 1]").cmdline("iomem=relaxed");
    let system = hostile_root::with_root(bench.system(with_linux(&relaxed, [flooded])))?;
    let ended = system.run(command)?.completed()?;
    ended
        .partition("flooded")?
        .finished(0)?
        .says("probe: until busy management")?
        .says("probe: ok")?;
    Ok(())
}
