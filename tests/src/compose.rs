//! System files in a line or two. What they cannot say, TOML can.

use std::fmt;

/// A `[[partition]]`, with 16 MiB on core 0 unless told otherwise.
#[derive(Clone, Debug)]
pub struct Part {
    name: String,
    program: String,
    cores: String,
    memory: String,
    args: String,
    dataplane: Vec<String>,
    more: String,
}

/// The partition `name` that runs `program`.
#[must_use]
pub fn part(name: &str, program: &str) -> Part {
    Part {
        name: name.into(),
        program: program.into(),
        cores: "[0]".into(),
        memory: "16M".into(),
        args: String::new(),
        dataplane: Vec::new(),
        more: String::new(),
    }
}

impl Part {
    /// Its cores, as a TOML list: `[1]`.
    #[must_use]
    pub fn cores(mut self, list: &str) -> Self {
        self.cores = list.into();
        self
    }

    /// Its memory: `64M`.
    #[must_use]
    pub fn memory(mut self, size: &str) -> Self {
        self.memory = size.into();
        self
    }

    /// The program's command line.
    #[must_use]
    pub fn args(mut self, args: &str) -> Self {
        self.args = args.into();
        self
    }

    /// The dataplane flags it may ask for, between spaces.
    #[must_use]
    pub fn may(mut self, flags: &str) -> Self {
        self.dataplane = flags.split_whitespace().map(str::to_owned).collect();
        self
    }

    /// A further key as a line of TOML: `apic = true`.
    #[must_use]
    pub fn key(mut self, line: &str) -> Self {
        self.more.push_str(line);
        self.more.push('\n');
        self
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Debug of strings escapes as TOML's basic strings do.
        write!(
            f,
            "[[partition]]\nname = {:?}\nprogram = {:?}\ncpus = {}\nmemory = {:?}\n\
             args = {:?}\ndataplane = {:?}\n{}\n",
            self.name, self.program, self.cores, self.memory, self.args, self.dataplane, self.more
        )
    }
}

/// The `[linux]` table: Debian's kernel and our initramfs.
#[derive(Clone, Debug)]
pub struct LinuxPart {
    cores: String,
    cmdline: String,
}

/// Linux on `cores`, a TOML list: `[0, 1]`.
#[must_use]
pub fn linux(cores: &str) -> LinuxPart {
    LinuxPart {
        cores: cores.into(),
        cmdline: "console=ttyS0".into(),
    }
}

impl LinuxPart {
    /// Adds words to the kernel command line `console=ttyS0`.
    #[must_use]
    pub fn cmdline(mut self, words: &str) -> Self {
        self.cmdline.push(' ');
        self.cmdline.push_str(words);
        self
    }
}

impl fmt::Display for LinuxPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "[linux]\ncpus = {}\nkernel = \"vmlinuz\"\ninitrd = \"initrd.img\"\ncmdline = {:?}\n\n",
            self.cores, self.cmdline
        )
    }
}

const HYPERVISOR: &str = "[hypervisor]\nmemory = \"32M\"\nconsole = \"com2\"\n\n";

/// A system of partitions alone.
#[must_use]
pub fn partitions(parts: impl IntoIterator<Item = Part>) -> String {
    parts
        .into_iter()
        .fold(HYPERVISOR.to_owned(), |text, part| text + &part.to_string())
}

/// A `[[channel]]` between two partitions, or `linux` and one; add it to the
/// text of a system.
#[must_use]
pub fn channel(name: &str, between: [&str; 2], size: &str) -> String {
    format!("[[channel]]\nname = {name:?}\nbetween = {between:?}\nsize = {size:?}\n\n")
}

/// A system of Linux and partitions.
#[must_use]
pub fn with_linux(linux: &LinuxPart, parts: impl IntoIterator<Item = Part>) -> String {
    parts
        .into_iter()
        .fold(format!("{HYPERVISOR}{linux}"), |text, part| {
            text + &part.to_string()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_composed_is_a_valid_system() {
        let spin = part("spin", "spin.elf")
            .cores("[2, 3]")
            .args("quanta=5 print=\"x\"")
            .may("strict populate")
            .key("apic = true");
        let text = with_linux(&linux("[0, 1]").cmdline("quiet"), [spin])
            + &channel("log", ["linux", "spin"], "64K");
        let loaded = cloister_manifest::parse("composed.toml".as_ref(), &text).unwrap();
        let partition = &loaded.manifest.partitions[0];
        assert_eq!(partition.args.as_str(), "quanta=5 print=\"x\"");
        assert!(partition.apic);
        assert_eq!(partition.cpus.len(), 2);
        assert_eq!(loaded.manifest.channels[0].between, ["linux", "spin"]);
        let linux = loaded.manifest.linux.unwrap();
        assert_eq!(linux.cmdline.as_str(), "console=ttyS0 quiet");
    }
}
