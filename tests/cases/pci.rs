//! PCI functions of partitions.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::{
    Ended, Iommu, Nic, NicModel, Part, System, linux, part, partitions, with_linux,
};

use crate::demo::expect;
use crate::hostile_root::{number, with_root};
use crate::neighbour::{beside, undisturbed};

/// A partition `name` on core `core` with the functions `devices` (a TOML list).
fn owner(name: &str, core: u32, devices: &str, args: &str) -> Part {
    part(name, "device")
        .cores(&format!("[{core}]"))
        .args(args)
        .key(&format!("devices = [{devices}]"))
}

/// Adds two e1000.
fn cards(bench: &Bench, system: System) -> System {
    let card = || Nic {
        model: NicModel::E1000,
        netdev: bench.choose("user", "ethmod=null").into(),
    };
    system.nic(card()).nic(card())
}

/// The second card, by what it is.
const SECOND: &str = "{ device = \"8086:100e#1\", dma = \"unprotected\" }";

/// The address of card `number`, as the system file has it, unprotected.
fn card(bench: &Bench, number: u32) -> String {
    let device = number + bench.choose(0x10, 2);
    format!("{{ address = \"0000:00:{device:02x}.0\", dma = \"unprotected\" }}")
}

/// Two partitions find one function each, and nothing else.
fn two(bench: &Bench, iommu: Option<Iommu>) -> Result<Ended> {
    let args = "count=1 list fresh alone sizes fresh master";
    let parts = [
        owner("first", 0, &card(bench, 0), args),
        owner("second", 1, SECOND, args),
    ];
    let system = cards(bench, bench.system(partitions(parts)));
    let system = match iommu {
        Some(iommu) => system.iommu(iommu),
        None => system,
    };
    let ended = system.run_to_end()?.completed()?;
    for name in ["first", "second"] {
        ended.partition(name)?.finished(0)?.says("found=1")?;
    }
    Ok(ended)
}

/// The report names the card of partition `name`, and what keeps its DMA in
/// bounds.
fn reported(ended: &Ended, name: &str, dma: &str) -> Result<()> {
    let devices = &ended.report().partition(name)?.devices;
    let holds = matches!(devices.as_slice(), [one] if one.id == "8086:100e" && one.dma == dma);
    ended.ensure(
        holds,
        format!("{name} has {devices:?}, expected one, {dma}"),
    )
}

/// Without an IOMMU the program is told that nothing keeps its DMA in bounds,
/// and so is whoever reads the report.
pub(crate) fn own_only(bench: &Bench) -> Result<()> {
    let ended = two(bench, None)?;
    ended.partition("first")?.says("unprotected=1")?;
    reported(&ended, "first", "unprotected")?;
    reported(&ended, "second", "unprotected")
}

/// Behind each IOMMU consent is needless, and addresses are the partition's own;
/// but behind a bridge that hides who asks nobody can own a function.
pub(crate) fn behind_iommu(bench: &Bench) -> Result<()> {
    for iommu in [Iommu::Intel, Iommu::Amd] {
        let ended = two(bench, Some(iommu))?;
        ended.partition("first")?.says("unprotected=0 offset=0x0")?;
        reported(&ended, "first", "protected")?;
    }
    let behind = "{ device = \"8086:100e\" }";
    bench
        .system(partitions([owner("first", 0, behind, "")]))
        .iommu(Iommu::Intel)
        .machine_argument("-device")
        .machine_argument("pci-bridge,id=bridge,chassis_nr=1,addr=5")
        .machine_argument("-device")
        .machine_argument("e1000,bus=bridge,addr=1,romfile=")
        .run_refused()?
        .refused(&[
            "partition[0].devices[0]",
            "behind the conventional PCI bridge 00:05.0",
        ])?;
    Ok(())
}

/// What a partition may not write to its function, or to others', changes
/// nothing, and is recorded.
pub(crate) fn forbidden(bench: &Bench) -> Result<()> {
    let own = owner("own", 0, &card(bench, 0), "forbidden alone");
    let others = owner("others", 1, SECOND, "others fresh alone");
    let ended = cards(bench, bench.system(partitions([own, others])))
        .run_to_end()?
        .completed()?;
    for (name, tried) in [("own", "forbidden"), ("others", "others")] {
        let partition = ended.partition(name)?.finished(0)?;
        let refused = ended.report().refused.iter();
        let recorded = refused.filter(|refused| refused.owner == name).count() as u64;
        let tried = partition.value(tried)?;
        partition.check(
            recorded == tried && tried >= 12,
            format!("{recorded} writes recorded of {tried}"),
        )?;
    }
    Ok(())
}

/// A partition that is restarted finds its function as at the start.
pub(crate) fn reset(bench: &Bench) -> Result<()> {
    let args = "fresh until=2 master strict cpuid";
    let part = owner("again", 0, &card(bench, 0), args)
        .may("strict")
        .key("on_violation = \"restart\"");
    let ended = cards(bench, bench.system(partitions([part])))
        .run_to_end()?
        .completed()?;
    ended.partition("again")?.finished(0)?.restarts(2)?;
    Ok(())
}

/// What this machine cannot give is refused at boot, by key.
pub(crate) fn refused_at_boot(bench: &Bench) -> Result<()> {
    let first = || owner("first", 0, &card(bench, 0), "");
    let isa_bridge = bench.choose("1f.0", "01.0");
    let with = |address: &str| {
        let device = format!("{{ address = \"0000:{address}\", dma = \"unprotected\" }}");
        [first(), owner("other", 1, &device, "")]
    };
    let same = "{ device = \"8086:100e#0\", dma = \"unprotected\" }";
    let beyond = "{ device = \"8086:100e#2\", dma = \"unprotected\" }";
    for (parts, words) in [
        (
            with("00:1c.5"),
            [
                "partition[1].devices[0]",
                "has no PCI function 0000:00:1c.5",
            ],
        ),
        (
            with(&format!("00:{isa_bridge}")),
            ["partition[1].devices[0]", "is a bridge"],
        ),
        (
            [first(), owner("other", 1, beyond, "")],
            ["partition[1].devices[0]", "has no PCI function 8086:100e#2"],
        ),
        (
            [first(), owner("other", 1, same, "")],
            [
                "partition[1].devices[0]",
                "belongs to partition \"first\" already",
            ],
        ),
    ] {
        cards(bench, bench.system(partitions(parts)))
            .run_refused()?
            .refused(&words)?;
    }
    Ok(())
}

/// Linux lists, and finds in its memory, the function that is its own, and not
/// the one beside it, whichever way its root reaches for it.
pub(crate) fn hidden(bench: &Bench) -> Result<()> {
    let work = "
        for card in 10 11; do
            echo card$card=$(ls /sys/bus/pci/devices | grep -c 0000:00:$card.0)
            echo ecam$card=$(devmem $((0xb0000000 + (0x$card << 15))) 32)
        done
        devmem $((0xb0000000 + (0x10 << 15) + 4)) 16 7
        hostile-root function 0x80
        hostile-root function 0x88
    ";
    let owner = owner("nic", 2, &card(bench, 0), "count=1 list fresh alone sizes");
    let linux = linux("[0, 1]").cmdline("iomem=relaxed");
    let system = with_root(bench.system(with_linux(&linux, [owner])))?;
    let ended = cards(bench, system).run(work)?.completed()?;
    ended.partition("nic")?.finished(0)?.says("found=1")?;
    expect(&ended, "card10", "0")?;
    expect(&ended, "ecam10", "0xFFFFFFFF")?;
    expect(&ended, "card11", "1")?;
    expect(&ended, "ecam11", "0x100E8086")?;
    ended
        .linux()?
        .says("function: ones=448 other=0")?
        .says("function: ones=0 other=448")?;
    recorded(&ended, "linux", "a partition's function")
}

/// Something of `owner` was refused for this reason, and recorded with where.
fn recorded(ended: &Ended, owner: &str, why: &str) -> Result<()> {
    let mut refused = ended.report().refused.iter();
    if refused.any(|refused| refused.owner == owner && refused.detail.contains(why)) {
        return Ok(());
    }
    Err(ended.failure(format!("nothing of {owner} was refused as \"{why}\"")))
}

/// Root aims what Linux's functions and the I/O APIC send at every core, by
/// every vector and delivery mode. What does not stay with Linux is refused,
/// and a strict partition notices nothing; what does, is done.
pub(crate) fn forged(bench: &Bench) -> Result<()> {
    let work = "hostile-root forge 2 4; echo forge=$?";
    let card = Nic {
        model: NicModel::E1000e,
        netdev: "user".into(),
    };
    let linux = linux("[0, 1]").cmdline("iomem=relaxed");
    let ended = with_root(beside(bench, &linux, []))?
        .cores(4)
        .nic(card)
        .run(work)?
        .completed()?;
    expect(&ended, "forge", "0")?;
    for name in ["msi", "msix", "pins"] {
        let count = |key| number(&ended, name, key);
        let (foreign, own) = (count("foreign")?, count("own")?);
        if foreign < 700 || own < 480 {
            return Err(ended.failure(format!("{name}: little was tried")));
        }
        if count("foreign_done")? != 0 || count("own_done")? != own {
            return Err(ended.failure(format!("{name}: foreign was done, or own was not")));
        }
    }
    recorded(&ended, "linux", "a message to a core that is not")?;
    undisturbed(&ended)?;
    Ok(())
}
