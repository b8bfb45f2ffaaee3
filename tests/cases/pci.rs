//! PCI functions of partitions.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::{Ended, Iommu, Nic, NicModel, Part, System, linux, part, partitions};

use crate::demo::expect;
use crate::hostile_root::{number, strict, undisturbed, with_root};

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

/// The address of card `number`, as the system file has it, unprotected.
fn card(bench: &Bench, number: u32) -> String {
    let device = number + bench.choose(0x10, 2);
    format!("{{ address = \"0000:00:{device:02x}.0\", dma = \"unprotected\" }}")
}

/// Two partitions find one function each, and nothing else.
fn two(bench: &Bench, iommu: Option<Iommu>) -> Result<Ended> {
    let args = "count=1 list fresh alone sizes fresh master";
    let parts = [("first", 0), ("second", 1)]
        .map(|(name, number)| owner(name, number, &card(bench, number), args));
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

/// Without an IOMMU the program is told that nothing keeps its DMA in bounds.
pub(crate) fn own_only(bench: &Bench) -> Result<()> {
    two(bench, None)?
        .partition("first")?
        .says("unprotected=1")?;
    Ok(())
}

/// Behind each IOMMU consent is needless, and addresses are the partition's own.
pub(crate) fn behind_iommu(bench: &Bench) -> Result<()> {
    for iommu in [Iommu::Intel, Iommu::Amd] {
        let ended = two(bench, Some(iommu))?;
        ended.partition("first")?.says("unprotected=0 offset=0x0")?;
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
    let system = with_root(bench, &linux("[0, 1]").cmdline("iomem=relaxed"), [owner])?;
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
    let ended = with_root(bench, &linux, [strict(2)])?
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
    undisturbed(&ended)
}
