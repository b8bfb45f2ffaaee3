//! Names of Linux's own functions, from /proc/kallsyms.

use std::fs;
use std::sync::OnceLock;

const KALLSYMS: &str = "/proc/kallsyms";
/// Where the kernel's half of the address space begins.
const KERNEL: u64 = 0xffff_8000_0000_0000;
/// How far behind its last symbol an address may lie.
const REACH: u64 = 1 << 20;

/// Functions by address.
#[derive(Debug, Default)]
pub(crate) struct Symbols(Vec<(u64, String)>);

/// `address`, with its function's name if it lies in the kernel and the kernel
/// tells.
pub(crate) fn name(address: u64) -> String {
    lookup(address).unwrap_or_else(|| format!("{address:#x}"))
}

/// The function at `address`, `name+0x12`.
pub(crate) fn lookup(address: u64) -> Option<String> {
    static ALL: OnceLock<Symbols> = OnceLock::new();
    if address < KERNEL {
        return None;
    }
    let read = || Symbols::parse(&fs::read_to_string(KALLSYMS).unwrap_or_default());
    ALL.get_or_init(read).lookup(address)
}

impl Symbols {
    /// Reads lines of address, type, name and perhaps a module; functions only.
    fn parse(text: &str) -> Self {
        let mut all: Vec<(u64, String)> = text
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let address = u64::from_str_radix(words.next()?, 16).ok()?;
                let is_function = matches!(words.next()?, "t" | "T" | "w" | "W");
                let name = words.next()?;
                // Whom the kernel does not trust, it shows zeros.
                (is_function && address >= KERNEL).then(|| match words.next() {
                    Some(module) => (address, format!("{name} {module}")),
                    None => (address, name.to_owned()),
                })
            })
            .collect();
        all.sort_by_key(|(address, _)| *address);
        Self(all)
    }

    fn lookup(&self, address: u64) -> Option<String> {
        let after = self.0.partition_point(|(start, _)| *start <= address);
        let (start, name) = self.0.get(after.checked_sub(1)?)?;
        let offset = address - start;
        let (name, module) = name.split_once(' ').unwrap_or((name, ""));
        let space = if module.is_empty() { "" } else { " " };
        (offset < REACH).then(|| format!("{name}+{offset:#x}{space}{module}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_and_nothing_else() {
        let text = "ffffffff81000000 T _text\nffffffff81000100 t do_it\n\
                    ffffffff81000180 d table\nffffffffc0000000 t work\t[dummy]\n";
        let symbols = Symbols::parse(text);
        let lookup = |address| symbols.lookup(address);
        assert_eq!(lookup(0xffff_ffff_8100_0190).as_deref(), Some("do_it+0x90"));
        assert_eq!(
            lookup(0xffff_ffff_c000_0004).as_deref(),
            Some("work+0x4 [dummy]")
        );
        assert_eq!(lookup(0xffff_ffff_80ff_ffff), None);
        assert_eq!(lookup(0xffff_ffff_a000_0000), None);
        assert_eq!(Symbols::parse("0000000000000000 T _text\n").0, []);
    }
}
