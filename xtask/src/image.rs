//! Makes the bootable ISO: GRUB (BIOS; from a CD or a USB stick), the
//! hypervisor, the compiled manifest and the modules it names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use cloister_manifest::{MANIFEST_MODULE, Manifest};
use guest_linux::{Initramfs, Kernel};

use crate::system::{Loaded, Source, System};
use crate::{build, paths};

/// What an image is made of.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The system.
    pub system: System,
    /// Command that our initramfs runs before it powers off.
    pub run: Option<String>,
    /// Kernel modules in our initramfs, besides the default ones.
    pub kernel_modules: Vec<String>,
    /// Further files in our initramfs: path, permission bits, content.
    pub files: Vec<(String, u32, Vec<u8>)>,
    /// Module that is left out of the image though the manifest names it: to
    /// test what the hypervisor says.
    pub omit: Option<String>,
    /// Bytes instead of the compiled manifest: to test what the hypervisor
    /// says.
    pub manifest_blob: Option<Vec<u8>>,
    /// Words for the hypervisor's own command line.
    pub hypervisor_words: String,
    /// Starts the system's one program on the bare machine, without the
    /// hypervisor: `partitions/bare`.
    pub without_hypervisor: bool,
}

impl Recipe {
    /// Nothing but the system.
    #[must_use]
    pub fn new(system: System) -> Self {
        Self {
            system,
            run: None,
            kernel_modules: Vec::new(),
            files: Vec::new(),
            omit: None,
            manifest_blob: None,
            hypervisor_words: String::new(),
            without_hypervisor: false,
        }
    }
}

/// An image, and what is needed to understand a run of it.
#[derive(Clone, Debug)]
pub struct Image {
    /// The ISO file.
    pub iso: PathBuf,
    /// The system file's content; [`None`] for a bare image.
    pub loaded: Option<Loaded>,
    /// ELF files with symbols, by partition.
    pub programs: BTreeMap<String, PathBuf>,
    /// The hypervisor with symbols.
    pub hypervisor: Option<PathBuf>,
}

/// Makes the image in `folder`, which is created. Everything in it but
/// `image.iso` is removed again.
///
/// # Errors
/// The system file is wrong, something does not build, or a tool is missing.
pub fn make(recipe: &Recipe, folder: &Path) -> Result<Image> {
    let stage = folder.join("stage");
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    fs::create_dir_all(stage.join("boot/grub"))
        .with_context(|| format!("cannot create {}", stage.display()))?;
    let mut image = Image {
        iso: folder.join("image.iso"),
        loaded: recipe.system.load()?,
        programs: BTreeMap::new(),
        hypervisor: None,
    };
    let config = match &recipe.system {
        System::Bare(command_line) => {
            stage_kernel(&stage.join("boot/vmlinuz"))?;
            stage_initramfs(recipe, &stage.join("boot/initrd.img"))?;
            format!("linux /boot/vmlinuz {command_line}\ninitrd /boot/initrd.img\n")
        }
        System::File(_) | System::Inline(_) => stage_cloister(recipe, &stage, &mut image)?,
    };
    fs::write(stage.join("boot/grub/grub.cfg"), grub_config(&config))?;
    grub_mkrescue(&stage, &image.iso)?;
    fs::remove_dir_all(&stage)?;
    Ok(image)
}

/// Puts hypervisor, manifest and modules on the stage; returns the commands
/// that load them.
fn stage_cloister(recipe: &Recipe, stage: &Path, image: &mut Image) -> Result<String> {
    let loaded = image.loaded.clone().context("no system file")?;
    let manifest = &loaded.manifest;
    let programs = build::programs()?;
    let mut sources = Vec::new();
    for (kind, name) in manifest.modules() {
        check_name(name)?;
        sources.push((name, loaded.source(kind, name, &programs)?));
    }
    let own = programs.iter().filter(|(_, elf)| {
        let source = Source::Program((*elf).clone());
        sources.iter().any(|(_, wanted)| *wanted == source)
    });
    let names: Vec<&str> = own.map(|(name, _)| name.as_str()).collect();
    let kernel = if recipe.without_hypervisor {
        build::bare_with(&names)?
    } else {
        build::hypervisor_with(&names)?
    };
    build::strip(&kernel, &stage.join("boot/cloister"))?;
    image.hypervisor = Some(kernel);

    let console = manifest.hypervisor.console.name();
    let words = &recipe.hypervisor_words;
    let mut config = format!("multiboot2 /boot/cloister console={console} {words}\n");
    let blob = match &recipe.manifest_blob {
        Some(bytes) => bytes.clone(),
        None => cloister_manifest::encode(manifest),
    };
    fs::write(stage.join("boot").join(MANIFEST_MODULE), blob)?;
    writeln!(config, "module2 /boot/{MANIFEST_MODULE} {MANIFEST_MODULE}")?;
    for (name, source) in sources {
        if recipe.omit.as_deref() == Some(name) {
            continue;
        }
        let staged = stage.join("boot").join(format!("module-{name}"));
        match source {
            Source::DebianKernel => stage_kernel(&staged)?,
            Source::OwnInitramfs => stage_initramfs(recipe, &staged)?,
            Source::File(path) => link(&path, &staged)?,
            Source::Program(elf) => {
                build::strip(&elf, &staged)?;
                remember_program(image, manifest, name, &elf);
            }
        }
        writeln!(config, "module2 /boot/module-{name} {name}")?;
    }
    Ok(config)
}

fn remember_program(image: &mut Image, manifest: &Manifest, module: &str, elf: &Path) {
    for partition in &manifest.partitions {
        if partition.program == module {
            let name = partition.name.as_str().to_owned();
            image.programs.insert(name, elf.to_owned());
        }
    }
}

/// GRUB splits at spaces and expands `$`, quotes and backslashes.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        bail!("module name \"{name}\": use letters, digits, '.', '_', '-' and '+'");
    }
    Ok(())
}

fn stage_kernel(to: &Path) -> Result<()> {
    link(&Kernel::fetch(&paths::guest_cache())?.vmlinuz, to)
}

fn stage_initramfs(recipe: &Recipe, to: &Path) -> Result<()> {
    let cache = paths::guest_cache();
    let kernel = Kernel::fetch(&cache)?;
    let mut initramfs = Initramfs::new(&cache, &kernel)?.modules(&recipe.kernel_modules)?;
    let tool = build::tool()?;
    let binary = fs::read(&tool).with_context(|| format!("cannot read {}", tool.display()))?;
    initramfs = initramfs.file("bin/cloister", 0o755, &binary);
    for (path, mode, content) in &recipe.files {
        initramfs = initramfs.file(path, *mode, content);
    }
    if let Some(command) = &recipe.run {
        initramfs = initramfs.run(command);
    }
    fs::write(to, initramfs.build()?).with_context(|| format!("cannot write {}", to.display()))
}

/// A hard link, or a copy where that is impossible.
fn link(from: &Path, to: &Path) -> Result<()> {
    fs::hard_link(from, to)
        .or_else(|_| fs::copy(from, to).map(drop))
        .with_context(|| format!("cannot copy {}", from.display()))
}

/// No menu: a menu clears the screen of whoever watches COM1. GRUB's own
/// errors appear on the screen and on COM1.
fn grub_config(commands: &str) -> String {
    format!(
        "serial --unit=0 --speed=115200\n\
         terminal_output console serial\n\
         {commands}boot\n"
    )
}

/// The modules of GRUB that the image needs: few, since an emulator's BIOS
/// loads them slowly.
const GRUB_MODULES: &str =
    "biosdisk iso9660 part_msdos part_gpt normal boot linux multiboot2 serial terminal";

fn grub_mkrescue(stage: &Path, iso: &Path) -> Result<()> {
    let output = Command::new("grub-mkrescue")
        .arg("--directory=/usr/lib/grub/i386-pc")
        .arg(format!("--install-modules={GRUB_MODULES}"))
        .args(["--fonts=", "--themes=", "--locales=", "--compress=no"])
        .arg("-o")
        .args([iso, stage])
        .output()
        .context("cannot run grub-mkrescue (package grub-common)")?;
    if !output.status.success() || !iso.is_file() {
        bail!(
            "grub-mkrescue failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_grub_would_take_apart() {
        assert!(check_name("spin.elf").is_ok());
        for wrong in ["", "a b", "$x", "a;b", "a'b", "../a", "ä"] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }
}
