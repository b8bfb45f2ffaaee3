//! Addresses to function names, from an ELF file's symbol table.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::{Object, ObjectSymbol, SymbolKind};
use rustc_demangle::demangle;

/// The functions of one program.
#[derive(Clone, Debug)]
pub struct Symbols {
    /// Address, size and name, sorted.
    functions: Vec<(u64, u64, String)>,
}

impl Symbols {
    /// Reads the program `elf`.
    ///
    /// # Errors
    /// It cannot be read, or is no object file.
    pub fn read(elf: &Path) -> Result<Self> {
        let bytes = std::fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
        let file = object::File::parse(bytes.as_slice())
            .with_context(|| format!("{} is no ELF file", elf.display()))?;
        let mut functions: Vec<(u64, u64, String)> = file
            .symbols()
            .filter(|symbol| symbol.kind() == SymbolKind::Text && !symbol.is_undefined())
            .filter_map(|symbol| {
                let name = symbol.name().ok()?;
                // `{:#}` leaves the hash out.
                Some((
                    symbol.address(),
                    symbol.size(),
                    format!("{:#}", demangle(name)),
                ))
            })
            .collect();
        functions.sort();
        Ok(Self { functions })
    }

    /// Reads a kernel's symbols from `file`: what `/proc/kallsyms` shows root, or
    /// a System.map. Those of a kernel that moves itself (KASLR) fit only the
    /// run that they come from: boot it with `nokaslr`.
    ///
    /// # Errors
    /// It cannot be read, or has no function with an address.
    pub fn read_kernel(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        let mut functions: Vec<(u64, u64, String)> = text
            .lines()
            .filter_map(|line| {
                let mut words = line.split_whitespace();
                let address = u64::from_str_radix(words.next()?, 16).ok()?;
                let is_text = matches!(words.next()?, "t" | "T" | "w" | "W");
                let name = words.next()?.to_owned();
                (is_text && address != 0).then_some((address, 0, name))
            })
            .collect();
        ensure!(
            !functions.is_empty(),
            "{} has no line like `ffffffff81000000 T _stext`: /proc/kallsyms shows addresses to \
             root only, and Debian's System.map is in the package linux-image-*-dbg",
            file.display()
        );
        functions.sort();
        Ok(Self { functions })
    }

    /// `function+0x12` for an address in a function. Assembly symbols have no
    /// size: they reach to the next symbol.
    #[must_use]
    pub fn name(&self, address: u64) -> Option<String> {
        let after = self
            .functions
            .partition_point(|(start, _, _)| *start <= address);
        let (start, size, name) = self.functions.get(after.checked_sub(1)?)?;
        let offset = address - start;
        let is_last = after == self.functions.len();
        if (*size > 0 || is_last) && offset > (*size).max(1) {
            return None;
        }
        Some(format!("{name}+{offset:#x}"))
    }

    /// The text with ` <function+0x12>` after each `0x…` that is in a
    /// function; for the hypervisor's fault dumps.
    #[must_use]
    pub fn annotate(&self, text: &str) -> Option<String> {
        let mut found = Vec::new();
        for word in text.split(|c: char| !c.is_ascii_alphanumeric()) {
            let digits = word.strip_prefix("0x").unwrap_or_default();
            if let Ok(address) = u64::from_str_radix(digits, 16)
                && let Some(name) = self.name(address)
            {
                found.push(format!("{word} is {name}"));
            }
        }
        (!found.is_empty()).then(|| found.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(text: &str) -> Result<Symbols> {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), text)?;
        Symbols::read_kernel(file.path())
    }

    #[test]
    fn kernel_functions_have_names() {
        let symbols = kernel(
            "ffffffff81000000 T _stext\nffffffff81000040 t do_it\t[module]\n\
             ffffffff81000050 d data\nffffffff81000060 W weak\n",
        )
        .unwrap();
        assert_eq!(symbols.name(0xffff_ffff_8100_0055).unwrap(), "do_it+0x15");
        assert_eq!(symbols.name(0xffff_ffff_8100_0000).unwrap(), "_stext+0x0");
        assert_eq!(symbols.name(0x1000), None);
    }

    #[test]
    fn a_file_without_addresses_is_refused() {
        for text in [
            "",
            "0000000000000000 T _stext\n",
            "ffffffffffffffff B The real one\n",
        ] {
            let error = kernel(text).unwrap_err().to_string();
            assert!(error.contains("shows addresses to root only"), "{error}");
        }
    }
}
