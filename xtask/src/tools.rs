//! The programs a verb needs from the system, and how they get there.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build::{TARGET, TOOL_TARGET};

/// Something a verb needs, with the Debian package that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    what: What,
    package: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Command(&'static str),
    File(&'static str),
}

const fn command(name: &'static str, package: &'static str) -> Need {
    let what = What::Command(name);
    Need { what, package }
}

const fn file(path: &'static str, package: &'static str) -> Need {
    let what = What::File(path);
    Need { what, package }
}

/// To make an image. The GRUB parts are data for the image: this machine's
/// own boot loader is not touched.
pub const IMAGE: &[Need] = &[
    command("strip", "binutils"),
    command("grub-mkrescue", "grub-common"),
    command("xorriso", "xorriso"),
    file("/usr/lib/grub/i386-pc/multiboot2.mod", "grub-pc-bin"),
];
/// To run it in QEMU.
pub const QEMU: &[Need] = &[
    command("qemu-system-x86_64", "qemu-system-x86"),
    command("setpriv", "util-linux"),
];
/// To run it in Bochs.
pub const BOCHS: &[Need] = &[
    command("bochs", "bochs"),
    command("setpriv", "util-linux"),
    file("/usr/share/bochs/BIOS-bochs-latest", "bochsbios"),
    file("/usr/share/vgabios/vgabios.bin", "vgabios"),
    file(
        "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_sdl2_gui.so",
        "bochs-sdl",
    ),
];

impl Need {
    fn is_there(self, path: &[PathBuf]) -> bool {
        match self.what {
            What::Command(name) => path.iter().any(|dir| dir.join(name).is_file()),
            What::File(file) => Path::new(file).exists(),
        }
    }
}

/// Installs what of `needs` is missing, and the Rust targets of the
/// hypervisor. As root on a Debian-like system it runs apt-get, and says so;
/// with `install` false, or otherwise, nothing is changed.
///
/// # Errors
/// Something is missing and is not to be, or cannot be, installed: the message
/// has the one command to type.
pub fn ensure(needs: &[&[Need]], install: bool) -> Result<()> {
    rust_targets(install)?;
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let is_root = rustix::process::geteuid().is_root();
    if !install || !is_root || !search_path().iter().any(|d| d.join("apt-get").is_file()) {
        let sudo = if is_root { "" } else { "sudo " };
        bail!(
            "missing packages; type: {sudo}apt-get install --no-install-recommends {}",
            missing.join(" ")
        );
    }
    if apt_get_install(&missing).is_err() {
        // The package lists may be missing (containers) or out of date.
        say_and_run(apt_get().arg("update"))?;
        apt_get_install(&missing)?;
    }
    match self::missing(needs).as_slice() {
        [] => Ok(()),
        still => bail!("installed, but still missing: {}", still.join(" ")),
    }
}

fn missing(needs: &[&[Need]]) -> Vec<&'static str> {
    let path = search_path();
    let mut packages: Vec<&str> = needs
        .iter()
        .copied()
        .flatten()
        .filter(|need| !need.is_there(&path))
        .map(|need| need.package)
        .collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// PATH, and the folders that an ordinary user's PATH may lack.
fn search_path() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .collect()
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn apt_get_install(packages: &[&str]) -> Result<()> {
    say_and_run(
        apt_get()
            .args(["install", "-y", "--no-install-recommends"])
            .args(packages),
    )
}

/// The targets of hypervisor and programs, and of the operator's tool.
fn rust_targets(install: bool) -> Result<()> {
    let sysroot = Command::new("rustc")
        .args(["--print", "sysroot"])
        .current_dir(crate::paths::root())
        .output()
        .context("cannot run rustc; install Rust from https://rustup.rs")?;
    let sysroot = String::from_utf8_lossy(&sysroot.stdout).trim().to_owned();
    let is_missing = |target: &&str| {
        let libraries = Path::new(&sysroot).join("lib/rustlib").join(target);
        !libraries.join("lib").is_dir()
    };
    let missing: Vec<&str> = [TARGET, TOOL_TARGET]
        .into_iter()
        .filter(is_missing)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !install {
        bail!(
            "a Rust target is missing; type: rustup target add {}",
            missing.join(" ")
        );
    }
    say_and_run(
        Command::new("rustup")
            .args(["target", "add"])
            .args(missing)
            .current_dir(crate::paths::root()),
    )
}

/// Prints a command, then runs it with its output on standard error.
pub(crate) fn say_and_run(command: &mut Command) -> Result<()> {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    eprintln!("running: {line}");
    let status = command
        .stdout(std::io::stderr())
        .status()
        .with_context(|| format!("cannot run {line}"))?;
    if !status.success() {
        bail!("{line}: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_once() {
        const NEEDS: &[Need] = &[
            command("no-such-command", "package-b"),
            file("/no/such/file", "package-a"),
            command("no-such-either", "package-b"),
            command("sh", "dash"),
            file("/", "base"),
        ];
        assert_eq!(missing(&[NEEDS]), ["package-a", "package-b"]);
        assert_eq!(missing(&[]), Vec::<&str>::new());
    }
}
