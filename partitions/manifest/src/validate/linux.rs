//! Linux's command line against what it does not own.

use super::Sink;
use crate::hardware::Console;
use crate::model::Manifest;
use crate::problem::Problem;

/// Kernel parameters that take a serial port (Linux,
/// `Documentation/admin-guide/kernel-parameters.txt`).
const SERIAL_PARAMETERS: [&str; 3] = ["console=", "earlyprintk=", "earlycon="];

/// Linux must not print on a serial port of somebody else: its output would be
/// lost without a word.
pub(super) fn check(manifest: &Manifest, sink: Sink<'_>) {
    let Some(linux) = &manifest.linux else { return };
    let words = linux.cmdline.split_ascii_whitespace();
    for word in words.filter(|word| SERIAL_PARAMETERS.iter().any(|p| word.starts_with(p))) {
        let Some((console, tty)) = serial_port(word) else {
            continue;
        };
        if manifest.hypervisor.console == console {
            sink(Problem::error(
                format_args!("linux.cmdline"),
                format_args!(
                    "ttyS{tty} is {0}, the hypervisor's console; \
                     name another ttyS, or set hypervisor.console to another port than \"{0}\"",
                    console.name()
                ),
            ));
        }
        for (owner, partition) in manifest.owners() {
            let theirs = |ports| partition.ports.iter().any(|range| range.overlaps(ports));
            if console.ports().is_some_and(theirs) {
                sink(Problem::error(
                    format_args!("linux.cmdline"),
                    format_args!(
                        "ttyS{tty} is {}, whose ports belong to {owner}; name another ttyS",
                        console.name()
                    ),
                ));
            }
        }
    }
}

fn serial_port(word: &str) -> Option<(Console, u8)> {
    let (_, number) = word.split_once("ttyS")?;
    let digits = number
        .split(|character: char| !character.is_ascii_digit())
        .next()?;
    let number: u8 = digits.parse().ok()?;
    let mut consoles = Console::NAMES.iter().map(|&(_, console)| console);
    consoles
        .find(|console| console.tty() == Some(number))
        .map(|console| (console, number))
}
