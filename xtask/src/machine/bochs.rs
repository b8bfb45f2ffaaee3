//! Bochs 2.7, as Debian packages it (with its debugger built in).

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::child::{Child, Port};
use super::witness::{Testimony, Witness, read_bochs};
use super::{Setup, nic};

/// Starts Bochs with the image as its CD.
///
/// # Errors
/// See [`super::MachineKind::start`].
pub fn start(setup: &Setup<'_>) -> Result<Child> {
    let work = tempfile::tempdir()?;
    let mut ends = Vec::new();
    let mut config = config(setup);
    config.push_str(&nic::bochs(setup.nics)?);
    for (port, number) in [
        (Port::Linux, setup.ports.linux),
        (Port::Hypervisor, setup.ports.hypervisor),
    ] {
        let (master, slave, path) = terminal()?;
        writeln!(
            config,
            "com{}: enabled=1, mode=term, dev={}",
            number + 1,
            path.display()
        )?;
        ends.push((port, master, slave));
    }
    let rc = work.path().join("bochsrc");
    let debugger = work.path().join("debugger");
    fs::write(&rc, config)?;
    // The debugger stops before the first instruction: let it continue.
    fs::write(&debugger, "c\n")?;
    let log = work.path().join("log");
    let pipe = setup.witness.then(|| pipe(&log)).transpose()?;
    let folder = work.path().to_owned();
    let mut child = Child::spawn("bochs", work, |command| {
        // A card without a cable leaves its frames in a file there.
        command.current_dir(folder);
        command.arg("-q").arg("-f").arg(&rc);
        command.arg("-rc").arg(&debugger).arg("-log").arg(&log);
        command.env("SDL_VIDEODRIVER", "dummy");
        command.env("SDL_AUDIODRIVER", "dummy");
    })?;
    if let Some((reader, writer)) = pipe {
        let testimony = Arc::new(Mutex::new(Testimony::default()));
        child.watch(Witness::Bochs(Arc::clone(&testimony)));
        child.read_with(move || read_bochs(reader, &testimony));
        // Else the pipe would end before Bochs has opened it.
        child.hold(writer);
    }
    for (port, master, slave) in ends {
        child.attach(port, master)?;
        // Without it, reading fails until Bochs has opened its side.
        child.hold(slave);
    }
    Ok(child)
}

/// A pseudo-terminal in raw mode: our side, Bochs' side, and its path.
/// Unlike a file, Bochs writes to it byte by byte, so that nothing is lost at
/// power-off; and it takes input.
fn terminal() -> Result<(File, File, PathBuf)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .context("cannot make a pseudo-terminal")?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = PathBuf::from(
        ptsname(&master, Vec::new())?
            .into_string()
            .context("the pseudo-terminal's name is not text")?,
    );
    let slave = OpenOptions::new().read(true).write(true).open(&path)?;
    let mut attributes = tcgetattr(&slave)?;
    attributes.make_raw();
    tcsetattr(&slave, OptionalActions::Now, &attributes)?;
    Ok((master.into(), slave, path))
}

/// A named pipe at `path`: the end that is read, and one that keeps it open.
/// The processors' debug messages are hundreds of megabytes: too many to keep.
fn pipe(path: &Path) -> Result<(File, File)> {
    let status = Command::new("mkfifo")
        .arg(path)
        .status()
        .context("cannot run mkfifo (package coreutils)")?;
    ensure!(status.success(), "mkfifo failed: {status}");
    // For reading and writing, so that it does not wait for the other side
    // (fifo(7)).
    let writer = OpenOptions::new().read(true).write(true).open(path)?;
    Ok((File::open(path)?, writer))
}

/// The configuration file (bochsrc(5)). `ips` is low: a low figure makes the
/// guest's timed waits short in instructions, and those are what takes time.
fn config(setup: &Setup<'_>) -> String {
    let megabytes = setup.memory >> 20;
    let debug: String = (0..setup.cpus)
        .filter(|_| setup.witness)
        .map(|core| format!(", cpu{core}=report"))
        .collect();
    let mut text = format!(
        "cpu: model=corei7_skylake_x, count={cpus}, ips=10000000, reset_on_triple_fault=0\n\
         memory: guest={megabytes}, host={megabytes}\n\
         romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
         vgaromimage: file=/usr/share/vgabios/vgabios.bin\n\
         ata0-master: type=cdrom, path=\"{iso}\", status=inserted\n\
         boot: cdrom\n\
         clock: sync=none, time0=local\n\
         display_library: sdl2\n\
         sound: driver=dummy\n\
         port_e9_hack: enabled=1\n\
         panic: action=fatal\n\
         error: action=report\n\
         info: action=report\n\
         debug: action=ignore{debug}\n",
        cpus = setup.cpus,
        iso = setup.iso.display(),
    );
    for line in setup.extra {
        text.push_str(line);
        text.push('\n');
    }
    text
}
