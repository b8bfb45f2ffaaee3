//! Which kernel modules go into the initramfs, with what they depend on.
//!
//! The package has no `modules.dep` (that is made when a kernel is
//! installed), so the dependencies come from the modules themselves: the
//! `depends=` entry of their `.modinfo` section (Linux
//! include/linux/moduleparam.h).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::{Object, ObjectSection};

/// The modules of one kernel, by name.
#[derive(Debug)]
pub struct Modules {
    root: PathBuf,
    files: BTreeMap<String, PathBuf>,
    builtin: Vec<String>,
}

/// One module to be put into the initramfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Path relative to `lib/modules/RELEASE`.
    pub path: PathBuf,
    /// Relative paths of all modules it needs, nearest first.
    pub needs: Vec<PathBuf>,
}

impl Modules {
    /// The modules below `root`, a `lib/modules/RELEASE`.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn scan(root: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut folders = vec![root.join("kernel")];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder)
                .with_context(|| format!("cannot read {}", folder.display()))?;
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|e| e == "ko")
                    && let (Some(stem), Ok(relative)) = (path.file_stem(), path.strip_prefix(root))
                {
                    files.insert(canonical(&stem.to_string_lossy()), relative.to_owned());
                }
            }
        }
        let builtin = fs::read_to_string(root.join("modules.builtin"))
            .unwrap_or_default()
            .lines()
            .filter_map(|line| Path::new(line).file_stem())
            .map(|stem| canonical(&stem.to_string_lossy()))
            .collect();
        Ok(Self {
            root: root.to_owned(),
            files,
            builtin,
        })
    }

    /// The modules `names` (`-` and `_` are the same) and all that they need,
    /// each once. A name that is built into the kernel adds nothing.
    ///
    /// # Errors
    /// A name that the kernel has neither as a module nor built in, or a
    /// module that is not an ELF file.
    pub fn closure(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut chosen: BTreeMap<String, Module> = BTreeMap::new();
        let mut wanted: Vec<String> = names.iter().map(|name| canonical(name)).collect();
        while let Some(name) = wanted.pop() {
            if chosen.contains_key(&name) || self.builtin.contains(&name) {
                continue;
            }
            let mut needs = Vec::new();
            self.collect(&name, &mut needs)?;
            let path = self.path(&name)?.to_owned();
            for need in &needs {
                wanted.push(need.clone());
            }
            let needs = needs
                .iter()
                .map(|need| self.path(need).map(Path::to_owned))
                .collect::<Result<_>>()?;
            chosen.insert(name, Module { path, needs });
        }
        Ok(chosen.into_values().collect())
    }

    /// The absolute path of a module chosen before.
    #[must_use]
    pub fn absolute(&self, relative: &Path) -> PathBuf {
        self.root.join(relative)
    }

    fn path(&self, name: &str) -> Result<&Path> {
        self.files
            .get(name)
            .map(PathBuf::as_path)
            .with_context(|| format!("the kernel in {} has no module {name}", self.root.display()))
    }

    /// Appends what `name` needs, directly or not, nearest first.
    fn collect(&self, name: &str, into: &mut Vec<String>) -> Result<()> {
        let file = self.root.join(self.path(name)?);
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let direct =
            depends(&content).with_context(|| format!("{} is no kernel module", file.display()))?;
        for need in direct {
            if !self.builtin.contains(&need) && !into.contains(&need) {
                into.push(need.clone());
                self.collect(&need, into)?;
            }
        }
        Ok(())
    }
}

/// The lines of `modules.dep` for these modules (modules.dep(5)).
#[must_use]
pub fn modules_dep(modules: &[Module]) -> String {
    let mut text = String::new();
    for module in modules {
        text.push_str(&module.path.to_string_lossy());
        text.push(':');
        for need in &module.needs {
            text.push(' ');
            text.push_str(&need.to_string_lossy());
        }
        text.push('\n');
    }
    text
}

/// What the module in `content` says it depends on.
fn depends(content: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(content)?;
    let modinfo = file
        .section_by_name(".modinfo")
        .context("it has no .modinfo section")?;
    let data = modinfo.data()?;
    let entry = data
        .split(|&byte| byte == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="))
        .unwrap_or_default();
    Ok(String::from_utf8_lossy(entry)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(canonical)
        .collect())
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dep_lines() {
        let modules = [Module {
            path: "kernel/a.ko".into(),
            needs: vec!["kernel/b.ko".into(), "kernel/c.ko".into()],
        }];
        assert_eq!(
            modules_dep(&modules),
            "kernel/a.ko: kernel/b.ko kernel/c.ko\n"
        );
    }

    #[test]
    fn unknown_and_builtin_names() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("kernel")).unwrap();
        fs::write(
            dir.path().join("modules.builtin"),
            "kernel/fs/ext-four.ko\n",
        )
        .unwrap();
        let modules = Modules::scan(dir.path()).unwrap();
        assert_eq!(modules.closure(&["ext_four"]).unwrap(), []);
        let error = modules.closure(&["nothing"]).unwrap_err().to_string();
        assert!(error.contains("no module nothing"), "{error}");
    }
}
