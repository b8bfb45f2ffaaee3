//! What the source of a folder may not contain: `unsafe` outside a few
//! folders, and vendors' names where none belongs. Sources are read token by
//! token, so that comments and strings do not count.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use proc_macro2::{TokenStream, TokenTree};

/// Folders in which `unsafe` may stand, and two files: no library maps a
/// device's memory or reads the TSC safely.
pub(super) const UNSAFE_FOLDERS: &[&str] = &[
    "guest-linux/tool/src/mapping.rs",
    "guest-linux/tool/src/tsc.rs",
    "hypervisor/src/arch",
    "hypervisor/src/boot",
    "hypervisor/src/iommu",
    "hypervisor/src/virt",
    "partitions/bare",
    "partitions/net/src",
    "partitions/runtime",
    // Does what it may not, which is what it is for.
    "partitions/device",
    "partitions/hostile",
    // A device that sends an interrupt at a word.
    "partitions/probe/src/edu.rs",
    "guest-linux/hostile",
];
const VMX: &[&str] = &["vmx", "vmcs"];
const SVM: &[&str] = &["svm", "vmcb"];
const VENDORS: &[&str] = &["vmx", "vmcs", "svm", "vmcb"];
/// Folders, and words that no identifier in them may contain.
const NO_NAMES: &[(&str, &[&str])] = &[
    ("hypervisor/src/exit", VENDORS),
    ("hypervisor/src/partition", VENDORS),
    ("hypervisor/src/virt/vmx", SVM),
    ("hypervisor/src/virt/svm", VMX),
];

/// What in the sources below `root` is against the rules.
///
/// # Errors
/// A source cannot be read or is not Rust.
pub(super) fn complaints(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for top in ["hypervisor", "guest-linux", "partitions", "tests", "xtask"] {
        rust_files(&root.join(top), &mut files)?;
    }
    files.sort();
    let mut complaints = Vec::new();
    for file in files {
        let relative = file.strip_prefix(root).unwrap_or(&file);
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        complaints.extend(check(relative, &text)?);
    }
    Ok(complaints)
}

fn check(path: &Path, text: &str) -> Result<Vec<String>> {
    let tokens = TokenStream::from_str(text)
        .map_err(|error| anyhow!("{}: not Rust: {error}", path.display()))?;
    let may_be_unsafe = UNSAFE_FOLDERS.iter().any(|folder| path.starts_with(folder));
    let words: Vec<&str> = NO_NAMES
        .iter()
        .filter(|(folder, _)| path.starts_with(folder))
        .flat_map(|(_, words)| words.iter().copied())
        .collect();
    let mut complaints = Vec::new();
    identifiers(tokens, &mut |name, line| {
        let place = format!("{}:{line}", path.display());
        if name == "unsafe" && !may_be_unsafe {
            complaints.push(format!("{place}: unsafe does not belong in this folder"));
        }
        let lower = name.to_lowercase();
        if let Some(word) = words.iter().find(|word| lower.contains(*word)) {
            complaints.push(format!(
                "{place}: `{name}` names {word}; this folder knows only the seam in virt/mod.rs"
            ));
        }
    });
    Ok(complaints)
}

fn identifiers(tokens: TokenStream, found: &mut impl FnMut(&str, usize)) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => identifiers(group.stream(), found),
            TokenTree::Ident(ident) => {
                found(&ident.to_string(), ident.span().start().line);
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, into)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(Path::new(path), text).unwrap()
    }

    #[test]
    fn unsafe_only_where_it_may_be() {
        let text = "// unsafe\nfn f() -> &'static str { \"unsafe\" }\nunsafe fn g() {}\n";
        let complaints = found("hypervisor/src/exit/cpuid.rs", text);
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].contains("cpuid.rs:3"), "{complaints:?}");
        assert_eq!(found("hypervisor/src/arch/msr.rs", text).len(), 0);
        assert_eq!(
            found("xtask/src/lib.rs", "#[unsafe(no_mangle)] fn f() {}").len(),
            1
        );
    }

    #[test]
    fn vendors_are_not_named_in_neutral_folders() {
        let text = "/// On VMX this differs.\nuse crate::virt::svm::Vmcb;\n";
        assert_eq!(found("hypervisor/src/exit/msr.rs", text).len(), 2);
        assert_eq!(
            found("hypervisor/src/partition/mod.rs", "struct VmxState;").len(),
            1
        );
        assert_eq!(found("hypervisor/src/virt/svm/vcpu.rs", text).len(), 0);
        assert_eq!(found("hypervisor/src/virt/vmx/vcpu.rs", text).len(), 2);
        assert_eq!(found("hypervisor/src/main.rs", text).len(), 0);
    }
}
