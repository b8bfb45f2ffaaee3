//! Network cards: frames through partitions, and through the same programs on
//! the bare machine.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::net::{Cable, Echo, Generator};
use cloister_tests::{Console, NicModel, Part, part, partitions};

/// Where `udp-echo` is.
const IP: [u8; 4] = [10, 0, 0, 2];

fn udp_echo(datagrams: u64) -> Part {
    part("udp-echo", "udp-echo.elf")
        .args(&format!("ip=10.0.0.2 port=7 datagrams={datagrams}"))
        .may("quiesce strict populate")
}

fn l2fwd(frames: u64) -> Part {
    part("l2fwd", "l2fwd.elf")
        .args(&format!("frames={frames}"))
        .may("quiesce strict populate")
}

/// The drivers without a hypervisor: every card, 20,000 frames.
pub(crate) fn bare(bench: &Bench) -> Result<()> {
    const FRAMES: u64 = 20_000;
    for model in [NicModel::Virtio, NicModel::E1000, NicModel::E1000e] {
        let cables = [Cable::new()?, Cable::new()?];
        let [one, other] = &cables;
        let mut machine = bench
            .system(partitions([l2fwd(FRAMES)]))
            .cores(1)
            .nic(one.nic(model))
            .nic(other.nic(model))
            .without_hypervisor()
            .deadline(100)
            .start()?;
        machine.wait_for(Console::Partition("l2fwd".into()), "ready", 60)?;
        let throughput = Generator::new(FRAMES).run(one, other);
        let throughput = machine.explain(throughput)?;
        eprintln!("{model:?}: {:.0} frames/s", throughput.rate());
        let ended = machine.finish()?.completed()?;
        ended
            .partition("l2fwd")?
            .finished(0)?
            .says(&format!("l2fwd: frames={FRAMES} "))?
            .says("drops=0 bad=0")?;
    }
    Ok(())
}

/// smoltcp above the drivers, without a hypervisor.
pub(crate) fn echo_bare(bench: &Bench) -> Result<()> {
    const DATAGRAMS: u64 = 10_000;
    for model in [NicModel::Virtio, NicModel::E1000] {
        let cable = Cable::new()?;
        let mut machine = bench
            .system(partitions([udp_echo(DATAGRAMS)]))
            .cores(1)
            .nic(cable.nic(model))
            .without_hypervisor()
            .deadline(100)
            .start()?;
        machine.wait_for(Console::Partition("udp-echo".into()), "ready", 60)?;
        let throughput = Echo::new(IP, 7, DATAGRAMS).run(&cable);
        let throughput = machine.explain(throughput)?;
        eprintln!("{model:?}: {:.0} datagrams/s", throughput.rate());
        let ended = machine.finish()?.completed()?;
        ended
            .partition("udp-echo")?
            .finished(0)?
            .says(&format!("udp-echo: datagrams={DATAGRAMS} "))?
            .says("bad=0")?;
    }
    Ok(())
}
