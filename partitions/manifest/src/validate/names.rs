//! Names: well formed, and each of one thing.

use core::fmt;

use super::Sink;
use crate::model::{LINUX, MANIFEST_MODULE, Manifest};
use crate::problem::Problem;

/// Names that the design uses for something else.
const RESERVED: [&str; 2] = [LINUX, "hypervisor"];

pub(super) fn check(manifest: &Manifest, sink: Sink<'_>) {
    for (index, partition) in manifest.partitions.iter().enumerate() {
        let key = format_args!("partition[{index}].name");
        owner_name(key, &partition.name, sink);
        let mut earlier = manifest.partitions.iter().take(index);
        if let Some(other) = earlier.position(|other| other.name == partition.name) {
            taken(
                key,
                &partition.name,
                format_args!("partition[{other}]"),
                sink,
            );
        }
        module_name(
            format_args!("partition[{index}].program"),
            &partition.program,
            sink,
        );
        text(
            format_args!("partition[{index}].args"),
            &partition.args,
            sink,
        );
    }
    for (index, channel) in manifest.channels.iter().enumerate() {
        let key = format_args!("channel[{index}].name");
        owner_name(key, &channel.name, sink);
        let mut earlier = manifest.channels.iter().take(index);
        if let Some((other, _)) = manifest.partition(&channel.name) {
            taken(key, &channel.name, format_args!("partition[{other}]"), sink);
        } else if let Some(other) = earlier.position(|other| other.name == channel.name) {
            taken(key, &channel.name, format_args!("channel[{other}]"), sink);
        }
    }
    if let Some(linux) = &manifest.linux {
        module_name(format_args!("linux.kernel"), &linux.kernel, sink);
        if let Some(initrd) = &linux.initrd {
            module_name(format_args!("linux.initrd"), initrd, sink);
            if *initrd == linux.kernel {
                two_kinds(format_args!("linux.initrd"), initrd, "linux.kernel", sink);
            }
        }
        text(format_args!("linux.cmdline"), &linux.cmdline, sink);
        for (index, partition) in manifest.partitions.iter().enumerate() {
            let key = format_args!("partition[{index}].program");
            if partition.program == linux.kernel {
                two_kinds(key, &partition.program, "linux.kernel", sink);
            } else if linux.initrd.as_ref() == Some(&partition.program) {
                two_kinds(key, &partition.program, "linux.initrd", sink);
            }
        }
    }
}

fn taken(key: fmt::Arguments<'_>, name: &str, by: fmt::Arguments<'_>, sink: Sink<'_>) {
    sink(Problem::error(
        key,
        format_args!("{by} is called \"{name}\" already; give each its own name"),
    ));
}

fn two_kinds(key: fmt::Arguments<'_>, name: &str, other: &str, sink: Sink<'_>) {
    sink(Problem::error(
        key,
        format_args!("\"{name}\" is {other} already; name another module here"),
    ));
}

/// Names appear in reports, on command lines and as ends of channels.
fn owner_name(key: fmt::Arguments<'_>, name: &str, sink: Sink<'_>) {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let starts_well = name.bytes().next().is_some_and(allowed);
    if !starts_well
        || !name
            .bytes()
            .all(|byte| allowed(byte) || byte == b'-' || byte == b'_')
    {
        sink(Problem::error(
            key,
            format_args!(
                "\"{}\" is no name; use a-z, 0-9, '-' and '_', and begin with a letter or digit, \
                 as in \"packet-loop\"",
                name.escape_debug()
            ),
        ));
    } else if RESERVED.contains(&name) {
        sink(Problem::error(
            key,
            format_args!("\"{name}\" always means something else; choose another name"),
        ));
    }
}

/// A module's name is its GRUB command line, and a file beside the system
/// file: one word, no directory.
fn module_name(key: fmt::Arguments<'_>, name: &str, sink: Sink<'_>) {
    let starts_well = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+".contains(&byte);
    if !starts_well || !name.bytes().all(allowed) {
        sink(Problem::error(
            key,
            format_args!(
                "\"{}\" is no module name; use letters, digits, '.', '_', '-' and '+', \
                 without directories, as in \"spin.elf\"",
                name.escape_debug()
            ),
        ));
    } else if name == MANIFEST_MODULE {
        sink(Problem::error(
            key,
            format_args!("\"{name}\" is the compiled manifest's own module; rename the file"),
        ));
    }
}

fn text(key: fmt::Arguments<'_>, text: &str, sink: Sink<'_>) {
    if text.chars().any(char::is_control) {
        sink(Problem::error(
            key,
            format_args!(
                "has a control character in it; write it on one line, words apart by spaces"
            ),
        ));
    }
}
