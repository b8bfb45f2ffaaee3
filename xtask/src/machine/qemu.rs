//! QEMU.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::child::{Child, Port};
use super::threads::Threads;
use super::witness::Witness;
use super::{Accel, Clock, Iommu, Setup, nic};
use crate::kvm::{self, Choice};

/// Starts QEMU with the image as its CD.
///
/// # Errors
/// See [`super::MachineKind::start`]; or KVM was asked for and cannot nest, or
/// is to count instructions, or the outside witness cannot see it.
pub fn start(setup: &Setup<'_>) -> Result<Child> {
    let choice = choice(setup.accel)?;
    if setup.clock == Clock::Instructions && matches!(choice, Choice::Kvm(_)) {
        bail!("KVM cannot count instructions: ask for TCG");
    }
    if setup.witness && (setup.clock == Clock::Instructions || matches!(choice, Choice::Kvm(_))) {
        bail!(
            "QEMU logs exits by core only under TCG with a thread for each: Accel::Tcg, Clock::Host"
        );
    }
    let work = tempfile::tempdir()?;
    let path = |port: usize| work.path().join(format!("com{}", port + 1));
    let consoles = [
        (Port::Linux, setup.ports.linux),
        (Port::Hypervisor, setup.ports.hypervisor),
    ];
    let mut listeners = Vec::new();
    for (port, number) in consoles {
        let listener = UnixListener::bind(path(number)).context("cannot make a socket")?;
        listener.set_nonblocking(true)?;
        listeners.push((port, listener));
    }
    let folder = work.path().to_owned();
    let mut child = Child::spawn("qemu-system-x86_64", work, |command| {
        arguments(command, setup, &choice, &folder);
    })?;
    if setup.witness {
        child.watch(Witness::Qemu(folder));
    }
    if has_threads(setup, &choice) {
        child.learn(Threads::new(setup.cpus, setup.yielding.to_owned()));
    }
    for (port, listener) in listeners {
        let stream = accept(&listener, &mut child)?;
        stream.set_nonblocking(false)?;
        child.attach(port, OwnedFd::from(stream).into())?;
    }
    Ok(child)
}

/// What `--accel` comes to on this machine.
///
/// # Errors
/// KVM was asked for and cannot nest here.
pub fn choice(asked: Accel) -> Result<Choice> {
    kvm::choose(asked, &kvm::probe())
}

/// Whether each core has a thread of its own, with a name.
fn has_threads(setup: &Setup<'_>, choice: &Choice) -> bool {
    setup.clock == Clock::Host && matches!(choice, Choice::Tcg(_))
}

fn arguments(command: &mut Command, setup: &Setup<'_>, choice: &Choice, folder: &Path) {
    command.args(["-nodefaults", "-no-user-config", "-no-reboot"]);
    // Interrupts are remapped by QEMU, not by a chip in the host's kernel.
    let machine = match setup.iommu {
        Some(_) => "q35,kernel-irqchip=off",
        None => "q35",
    };
    match choice {
        Choice::Kvm(_) => command.args(["-M", machine, "-accel", "kvm", "-cpu", "host"]),
        Choice::Tcg(_) => {
            let accel = match setup.clock {
                Clock::Host => "tcg,thread=multi",
                Clock::Instructions => "tcg,thread=single",
            };
            command.args(["-M", machine, "-accel", accel, "-cpu", "max"])
        }
    };
    match setup.iommu {
        Some(Iommu::Intel) => command.args(["-device", "intel-iommu,intremap=on"]),
        Some(Iommu::Amd) => command.args(["-device", "amd-iommu,intremap=on"]),
        None => command,
    };
    if setup.clock == Clock::Instructions {
        command.args(["-icount", "shift=0,sleep=off"]);
        // Nothing else that differs from run to run.
        command.args(["-rtc", "base=2026-01-01,clock=vm", "-seed", "1"]);
    }
    command.args(["-smp", &setup.cpus.to_string()]);
    command.args(["-m", &format!("{}M", setup.memory >> 20)]);
    command.args(["-display", "none", "-vga", "std", "-nic", "none"]);
    command.arg("-cdrom").arg(setup.iso).args(["-boot", "d"]);
    let last = setup.ports.linux.max(setup.ports.hypervisor);
    for port in 0..=last {
        if port == setup.ports.linux || port == setup.ports.hypervisor {
            let socket = folder.join(format!("com{}", port + 1));
            command.arg("-chardev");
            command.arg(format!("socket,id=com{port},path={}", socket.display()));
            command.args(["-serial", &format!("chardev:com{port}")]);
        } else {
            command.args(["-serial", "null"]);
        }
    }
    if has_threads(setup, choice) {
        command.args(["-name", "cloister,debug-threads=on"]);
    }
    if setup.witness {
        command.args(["-d", "in_asm,tid", "-dfilter", "0x0+1"]);
        command.arg("-D").arg(folder.join("exits%d"));
    }
    command.args(nic::qemu(setup.nics, setup.iommu.is_some()));
    command.args(setup.extra);
}

/// QEMU connects before it runs anything.
fn accept(listener: &UnixListener, child: &mut Child) -> Result<UnixStream> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if child.ended() || Instant::now() > deadline {
            bail!("QEMU did not start: {}", child.complaints());
        }
        thread::sleep(Duration::from_millis(2));
    }
}
