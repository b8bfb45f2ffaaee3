//! Root in the housekeeping Linux against the machine
//! (`guest-linux/hostile`): what is not Linux's is refused and recorded,
//! Linux goes on, and strict partitions beside it do not notice.

use anyhow::{Context, Result, bail};
use cloister_tests::cases::Bench;
use cloister_tests::{Ended, LinuxState, Part, PartitionState, System, linux, part};
use xtask::{build, paths};

use crate::demo::{expect, packaged_kernel};
use crate::hostile::hostile;
use crate::neighbour::{beside, undisturbed};

const TARGET: &str = "x86_64-unknown-linux-musl";
const TOOL: &str = "hostile-root";

/// The tool, statically linked.
fn tool() -> Result<Vec<u8>> {
    let status = build::cargo()
        .args(["build", "--quiet", "--profile", "small"])
        .args(["--target", TARGET, "--package", TOOL])
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("building {TOOL} failed: {status}; rustup target add {TARGET} may help");
    }
    let file = paths::target().join(TARGET).join("small").join(TOOL);
    std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
}

/// `system` with the tool in its Linux.
pub(crate) fn with_root(system: System) -> Result<System> {
    Ok(system.linux_file("bin/hostile-root", 0o755, &tool()?))
}

/// The number that Linux printed behind `key=` in the line of `name`.
pub(crate) fn number(ended: &Ended, name: &str, key: &str) -> Result<u64> {
    let prefix = format!("{name}: ");
    ended
        .linux_console()
        .lines()
        .filter_map(|line| line.trim().strip_prefix(&prefix))
        .flat_map(str::split_whitespace)
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
        .with_context(|| ended.failure(format!("no {key}= of {name}")))
}

/// Sweeps over MSRs, ports, PCI configuration space, foreign memory and
/// addresses where nothing is; sleep states; a second hypervisor; then the
/// reset register, which is Linux's right.
pub(crate) fn sweeps(bench: &Bench) -> Result<()> {
    // PM1a control of QEMU's q35 is at 0x604.
    let work = "
        modprobe msr allow_writes=on 2>/dev/null || modprobe msr
        echo on >/sys/module/msr/parameters/allow_writes
        # On the core whose MSRs they are, or each access costs two switches.
        taskset 1 hostile-root msrs 0; echo msrs=$?
        taskset 2 hostile-root msrs 1
        hostile-root pci; echo pci=$?
        hostile-root sleep 0x604; echo sleep=$?
        hostile-root beyond; echo beyond=$?
        dmesg | sed -n 's/.*BIOS-e820: \\[mem \\(0x[0-9a-f]*\\)-\\(0x[0-9a-f]*\\)\\] reserved/\\1 \\2/p' |
            while read first last; do
                [ $((first)) -gt 16777216 ] && [ $((last)) -lt 2952790016 ] &&
                    hostile-root memory $first $((last - first + 1))
            done
        modprobe kvm-amd; echo kvm=$?
        echo deep=$(grep -c deep /sys/power/mem_sleep); echo states=$(cat /sys/power/state)
        for n in 1 2 3 4 5; do
            echo 0 >/sys/devices/system/cpu/cpu1/online
            echo 1 >/sys/devices/system/cpu/cpu1/online
        done
        hostile-root ports; echo ports=$?
        echo alive=$(nproc)
        cloister start late
        until cloister show late --json | grep -q finished; do sleep 0.2; done
        hostile-root reset
        sleep 20; exit 9
    ";
    let ended = with_root(beside(bench, &linux("[0, 1]"), [late(3)]))?
        .kernel_module("kvm-amd")
        .run(work)?
        .completed()?;
    ended.linux()?.state(LinuxState::Reset)?;
    undisturbed(&ended)?;
    for key in ["msrs", "pci", "sleep", "beyond", "ports"] {
        expect(&ended, key, "0")?;
    }
    expect(&ended, "kvm", "1")?;
    expect(&ended, "alive", "2")?;
    // S3 is not offered: what is left is to idle, and to be powered off.
    expect(&ended, "deep", "0")?;
    let other = number(&ended, "memory", "other")?;
    let ones = number(&ended, "memory", "ones")?;
    ended.linux()?.check(
        ones > 0 && other == 0,
        format!("foreign memory: {ones} pages of ones, {other} others"),
    )?;
    let (read, refused) = (
        number(&ended, "msrs", "read")?,
        number(&ended, "msrs", "refused")?,
    );
    bench.note(format!(
        "MSRs: {read} read, {refused} writes refused; {ones} foreign pages read as ones"
    ));
    // Sparse first touches after the sweep over all addresses: tables are left
    // for them.
    ended.partition("late")?.finished(0)?.says("exits: ok")?;
    Ok(())
}

/// Root starts another kernel in place of Linux: it comes up on the same cores,
/// and nobody else notices.
pub(crate) fn kexec(bench: &Bench) -> Result<()> {
    let kernel = packaged_kernel()?;
    let work = "
        mkdir /tmp/next; cp /bin/hostile-root /tmp/next/init; cd /tmp/next
        find . | cpio -o -H newc >/tmp/next.img 2>/dev/null
        hostile-root kexec /vmlinuz /tmp/next.img 'console=ttyS0 next_kernel=1'
        echo kexec=$?; exit 9
    ";
    let ended = with_root(beside(bench, &linux("[0, 1]"), []))?
        .linux_file("vmlinuz", 0o644, &kernel)
        .run(work)?
        .completed()?;
    ended
        .linux()?
        .state(LinuxState::Off)?
        .says("kexec: loaded=1")?
        .says("next_kernel=1")?
        .says("arrived: processors=2")?;
    let banners = ended.linux_console().matches("Linux version").count();
    undisturbed(&ended)?;
    ended.check(banners == 2, format!("{banners} kernels came up"))?;
    Ok(())
}

/// Touches its memory when Linux says so.
fn late(core: u32) -> Part {
    part("late", "exits.elf")
        .cores(&format!("[{core}]"))
        .memory("64M")
        .args("touch=20")
        .key("autostart = false")
}

/// Partitions in endless hostile loops beside Linux: it boots, works and
/// powers off, and each core answers the kick for the report.
pub(crate) fn partitions_beside(bench: &Bench) -> Result<()> {
    let kinds = ["flush", "cpuid", "nmi-blocked", "step", "wbinvd"];
    let parts = (3..).zip(kinds).map(|(core, kind)| {
        let part = hostile(kind, core, &format!("loop kind={kind}"));
        match kind {
            "nmi-blocked" => part.key("apic = true"),
            _ => part,
        }
    });
    let system = beside(bench, &linux("[0, 1]"), parts);
    let ended = (3..=7)
        .fold(system, System::yielding)
        .run("echo alive=$(nproc); sleep 2; dmesg | grep -c 'soft lockup'; echo done=1")?
        .completed()?;
    ended.linux()?.run_status(0)?.state(LinuxState::Off)?;
    expect(&ended, "alive", "2")?;
    undisturbed(&ended)?;
    for kind in kinds {
        ended
            .partition(kind)?
            .state(PartitionState::Running)?
            .says(&format!("into {kind}"))?;
    }
    let silent = ended
        .hypervisor_console()
        .contains("did not bring its counters up to date");
    ended.check(!silent, "a core did not answer")?;
    Ok(())
}
