//! Network cards: frames through partitions, and through the same program on
//! the bare machine.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::net::{Cable, Echo, Generator, Throughput};
use cloister_tests::{
    Console, Ended, Iommu, Nic, NicModel, Part, PartitionState, Running, System, linux, part,
    partitions, with_linux,
};

use crate::hostile::hostile;

/// Where `udp-echo` is.
const IP: [u8; 4] = [10, 0, 0, 2];

fn l2fwd(args: &str) -> Part {
    part("l2fwd", "l2fwd.elf")
        .args(args)
        .may("quiesce strict populate")
}

fn udp_echo(args: &str) -> Part {
    part("udp-echo", "udp-echo.elf")
        .args(&format!("ip=10.0.0.2 port=7 {args}"))
        .may("quiesce strict populate")
}

/// The machine's network cards `numbers`, behind its IOMMU or not.
fn cards(bench: &Bench, numbers: &[u32], protected: bool) -> String {
    let dma = if protected {
        "protected"
    } else {
        "unprotected"
    };
    let card = |number: &u32| {
        let device = number + bench.choose(0x10, 2);
        format!("{{ address = \"0000:00:{device:02x}.0\", dma = \"{dma}\" }}")
    };
    let cards: Vec<String> = numbers.iter().map(card).collect();
    format!("devices = [{}]", cards.join(", "))
}

/// Waits until `program` has its cards.
pub(crate) fn ready(machine: &mut Running, program: &str) -> Result<()> {
    machine.wait_for(Console::Partition(program.into()), "ready", 300)
}

/// `frames` frames through `l2fwd`, with cards of this model.
fn through(
    bench: &Bench,
    model: NicModel,
    text: String,
    frames: u64,
    configure: impl FnOnce(System) -> System,
) -> Result<(Throughput, Ended)> {
    let [one, other] = [Cable::new(bench.machine())?, Cable::new(bench.machine())?];
    let system = bench.system(text).nic(one.nic(model)).nic(other.nic(model));
    let mut machine = configure(system).start()?;
    ready(&mut machine, "l2fwd")?;
    let throughput = Generator::new(frames).run(&one, &other);
    let throughput = machine.explain(throughput)?;
    Ok((throughput, machine.finish()?.completed()?))
}

/// The drivers without a hypervisor: every card, 20,000 frames.
pub(crate) fn bare(bench: &Bench) -> Result<()> {
    const FRAMES: u64 = 20_000;
    for model in [NicModel::Virtio, NicModel::E1000, NicModel::E1000e] {
        let text = partitions([l2fwd(&format!("frames={FRAMES}"))]);
        let (throughput, ended) = through(bench, model, text, FRAMES, |system| {
            system.cores(1).without_hypervisor()
        })?;
        bench.note(format!("{model:?}: {:.0} frames/s", throughput.rate()));
        ended
            .partition("l2fwd")?
            .finished(0)?
            .says(&format!("l2fwd: frames={FRAMES} "))?
            .says("drops=0 bad=0")?;
    }
    Ok(())
}

/// One exit among the frames is seen: counted when quiet, a violation when
/// strict.
pub(crate) fn forward_one_exit(bench: &Bench) -> Result<()> {
    const FRAMES: u64 = 4000;
    for (flags, strict) in [("quiesce+populate", false), ("strict+populate", true)] {
        // The violation comes when all frames have gone back.
        let at = if strict { FRAMES } else { FRAMES / 2 };
        let args = format!("frames={FRAMES} cpuid={at} flags={flags}");
        let part = l2fwd(&args).key(&cards(bench, &[0, 1], false));
        let (_, ended) = through(bench, NicModel::Virtio, partitions([part]), FRAMES, |s| s)?;
        let partition = ended.partition("l2fwd")?;
        if strict {
            partition
                .state(PartitionState::Violated)?
                .violations(1)?
                .violation("cpuid")?;
        } else {
            partition.finished(0)?.since_quiesce(1)?.interrupts(0)?;
        }
    }
    Ok(())
}

/// Datagrams through smoltcp on an e1000, in STRICT mode.
pub(crate) fn echo(bench: &Bench) -> Result<()> {
    echoed(bench, "")?
        .partition("udp-echo")?
        .finished(0)?
        .since_quiesce(0)?
        .interrupts(0)?
        .says("bad=0")?;
    Ok(())
}

/// One exit among them is seen.
pub(crate) fn echo_one_exit(bench: &Bench) -> Result<()> {
    echoed(bench, "flags=quiesce+populate cpuid=100")?
        .partition("udp-echo")?
        .finished(0)?
        .since_quiesce(1)?
        .interrupts(0)?;
    Ok(())
}

/// Datagrams of one conversation.
const DATAGRAMS: u64 = 300;

fn echoed(bench: &Bench, args: &str) -> Result<Ended> {
    let cable = Cable::new(bench.machine())?;
    let part = udp_echo(&format!("datagrams={DATAGRAMS} {args}"));
    let mut machine = bench
        .system(partitions([part.key(&cards(bench, &[0], false))]))
        .nic(cable.nic(NicModel::E1000))
        .start()?;
    ready(&mut machine, "udp-echo")?;
    converse(&mut machine, &cable)?;
    let ended = machine.finish()?.completed()?;
    ended
        .partition("udp-echo")?
        .says(&format!("udp-echo: datagrams={DATAGRAMS} "))?;
    Ok(ended)
}

/// A partition that finishes when [`converse`] has talked to it through the
/// cable, which is for an e1000.
pub(crate) fn echo_beside(bench: &Bench, cores: &str) -> Result<(Cable, Part)> {
    let part = udp_echo(&format!("datagrams={DATAGRAMS}"))
        .cores(cores)
        .key(&cards(bench, &[0], false));
    Ok((Cable::new(bench.machine())?, part))
}

/// Every datagram comes back.
pub(crate) fn converse(machine: &mut Running, cable: &Cable) -> Result<()> {
    let throughput = Echo::new(IP, 7, DATAGRAMS).run(cable);
    machine.explain(throughput).map(drop)
}

/// A million frames and 100,000 datagrams behind VT-d.
pub(crate) fn beside_linux_intel(bench: &Bench) -> Result<()> {
    beside_linux(bench, Iommu::Intel, NicModel::E1000e, NicModel::Virtio)
}

/// The same behind AMD-Vi.
pub(crate) fn beside_linux_amd(bench: &Bench) -> Result<()> {
    beside_linux(bench, Iommu::Amd, NicModel::Virtio, NicModel::E1000)
}

/// Frames through `l2fwd` and datagrams to `udp-echo` at once, both strict,
/// while Linux reads its disk.
fn beside_linux(bench: &Bench, iommu: Iommu, forwards: NicModel, answers: NicModel) -> Result<()> {
    const FRAMES: u64 = 1_000_000;
    const DATAGRAMS: u64 = 100_000;
    const CHANNEL: &str = "[[channel]]\nname = \"statistics\"\n\
         between = [\"linux\", \"l2fwd\"]\nsize = \"64K\"\n";
    const DISK: &str = "virtio-blk-pci,drive=disk,disable-legacy=on,iommu_platform=on,addr=0x18";
    let new = || Cable::new(bench.machine());
    let [one, other, third] = [new()?, new()?, new()?];
    let parts = [
        l2fwd(&format!("frames={FRAMES} report=100000 channel=statistics"))
            .cores("[2]")
            .key(&cards(bench, &[0, 1], true)),
        udp_echo(&format!("datagrams={DATAGRAMS}"))
            .cores("[3]")
            .key(&cards(bench, &[2], true)),
    ];
    let mut machine = bench
        .system(with_linux(&linux("[0, 1]"), parts) + CHANNEL)
        .iommu(iommu)
        .nic(one.nic(forwards))
        .nic(other.nic(forwards))
        .nic(third.nic(answers))
        .kernel_module("virtio_blk")
        .kernel_module("virtio_pci")
        .machine_argument("-blockdev")
        .machine_argument("driver=null-co,node-name=disk,size=1073741824,read-zeroes=on")
        .machine_argument("-device")
        .machine_argument(DISK)
        .start()?;
    machine.wait_for(Console::Linux, " # ", 300)?;
    machine.type_line("modprobe virtio_pci; modprobe virtio_blk; ls /dev/vda")?;
    machine.wait_for(Console::Linux, "\n/dev/vda", 60)?;
    machine.type_line(
        "while :; do dd if=/dev/vda of=/dev/null bs=64k count=1600 2>/dev/null; \
         echo x >> /tmp/rounds; done &",
    )?;
    ready(&mut machine, "l2fwd")?;
    ready(&mut machine, "udp-echo")?;
    let echo = std::thread::spawn(move || Echo::new(IP, 7, DATAGRAMS).run(&third));
    let forwarded = Generator::new(FRAMES).run(&one, &other);
    let forwarded = machine.explain(forwarded)?;
    let echoed = echo
        .join()
        .map_err(|_| anyhow::anyhow!("the generator panicked"))?;
    let echoed = machine.explain(echoed)?;
    bench.note(format!(
        "{:.0} frames/s, {:.0} datagrams/s",
        forwarded.rate(),
        echoed.rate()
    ));
    machine.type_line(
        "kill $!; echo rounds=$(wc -l < /tmp/rounds).; \
         cloister channel receive statistics; poweroff -f",
    )?;
    let ended = machine.finish()?.completed()?;
    for (name, says) in [
        ("l2fwd", format!("l2fwd: frames={FRAMES} ")),
        ("udp-echo", format!("udp-echo: datagrams={DATAGRAMS} ")),
    ] {
        ended
            .partition(name)?
            .finished(0)?
            .since_quiesce(0)?
            .interrupts(0)?
            .says(&says)?
            .says("bad=0")?;
    }
    // Linux got the last of the statistics.
    let linux = ended.linux()?;
    linux.says(&format!("frames={FRAMES} "))?;
    linux.says("exits=0 interrupts=0 lost=0")?;
    let console = ended.linux_console();
    let rounds = console
        .rsplit_once("rounds=")
        .and_then(|(_, rest)| rest.split_once('.'))
        .and_then(|(number, _)| number.trim().parse::<u64>().ok());
    match rounds {
        Some(1..) => Ok(()),
        _ => Err(ended.failure(format!("Linux read its disk {rounds:?} times"))),
    }
}

/// A network card that its partition aims at the hypervisor, a neighbour and
/// the IOMMU itself: blocked, and recorded with device and address; the
/// neighbour does not notice.
pub(crate) fn hostile_card(bench: &Bench) -> Result<()> {
    for iommu in [Iommu::Intel, Iommu::Amd] {
        let neighbour = part("neighbour", "spin.elf")
            .args("quanta=60000000")
            .may("quiesce strict populate");
        let aims = hostile("aims", 1, "dma").key(&cards(bench, &[0], true));
        let ended = bench
            .system(partitions([neighbour, aims]))
            .iommu(iommu)
            .nic(Nic {
                model: NicModel::E1000,
                netdev: "hubport,hubid=0".into(),
            })
            .run_to_end()?
            .completed()?;
        let aims = ended.partition("aims")?.finished(0)?;
        aims.says("hostile: dma: done=1 refused=8")?;
        ended
            .partition("neighbour")?
            .finished(0)?
            .since_quiesce(0)?
            .interrupts(0)?
            .violations(0)?;
        let faults = &ended.report().dma_faults;
        bench.note(format!("{iommu:?}: {} faults recorded", faults.len()));
        // QEMU's AMD-Vi logs no event up to 7.2: see `iommu::linux_is_confined`.
        if iommu == Iommu::Amd && faults.is_empty() {
            continue;
        }
        for address in [16 << 20, 0x3e00_0000, 0xfed9_0000_u64, 1 << 36] {
            for access in ["write", "read"] {
                let found = faults.iter().any(|fault| {
                    fault.owner == "aims"
                        && fault.device == "0000:00:10.0"
                        && fault.address.0 == address
                        && fault.access == access
                });
                aims.check(found, format!("no fault for the {access} of {address:#x}"))?;
            }
        }
    }
    Ok(())
}
