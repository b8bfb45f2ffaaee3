//! `load`: only what a program's segments need is handed over.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use object::LittleEndian;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

use crate::device::Device;
use crate::output;

/// `cloister load NAME FILE`.
pub(super) fn load(device: &Device, name: &str, file: &Path, json: bool) -> Result<()> {
    let partition = device.partition(name)?;
    let image = image(file)?;
    device
        .load(partition.index, &image)
        .with_context(|| format!("{}", file.display()))?;
    if json {
        let done = serde_json::json!({ "name": name, "bytes": image.len() });
        return output::json(&done);
    }
    output::text(&format!(
        "{name}: loaded {} bytes; \"cloister start {name}\" starts it\n",
        image.len()
    ))
}

/// What is handed over of the program in `file`.
///
/// # Errors
/// It cannot be read, or is no ELF program.
pub(super) fn image(file: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    trim(bytes).with_context(|| format!("{}", file.display()))
}

/// The file without symbols, debug information and section headers.
fn trim(mut file: Vec<u8>) -> Result<Vec<u8>> {
    /// Where the ELF header has the section headers' place and number
    /// (System V ABI, "ELF Header").
    const SECTIONS: [std::ops::Range<usize>; 2] = [0x28..0x30, 0x3c..0x40];
    let header = FileHeader64::<LittleEndian>::parse(file.as_slice())
        .map_err(|error| anyhow::anyhow!("no ELF64 program: {error}"))?;
    let endian = LittleEndian;
    let segments = header
        .program_headers(endian, file.as_slice())
        .map_err(|error| anyhow::anyhow!("its program headers: {error}"))?;
    let table = header.e_phoff(endian) + (segments.len() as u64) * 56;
    let ends = segments
        .iter()
        .filter(|segment| segment.p_type(endian) == PT_LOAD)
        .map(|segment| {
            segment
                .p_offset(endian)
                .saturating_add(segment.p_filesz(endian))
        });
    let end = usize::try_from(ends.chain([table, 64]).max().unwrap_or(64))?;
    if end > file.len() {
        bail!(
            "cut short: its segments end at {end}, the file at {}",
            file.len()
        );
    }
    file.truncate(end);
    for range in SECTIONS {
        if let Some(field) = file.get_mut(range) {
            field.fill(0);
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Vec<u8> {
        let mut file = vec![0; 200];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[0x10..0x14].copy_from_slice(&[2, 0, 62, 0]);
        file[0x14] = 1;
        file[0x20] = 64;
        file[0x28..0x30].copy_from_slice(&150_u64.to_le_bytes());
        file[0x34] = 64;
        file[0x36] = 56;
        file[0x38] = 1;
        file[0x3c] = 3;
        file[64] = 1;
        file[64 + 8] = 120;
        file[64 + 32] = 20;
        file
    }

    #[test]
    fn what_is_not_loaded_is_left_out() {
        let image = trim(program()).unwrap();
        assert_eq!(image.len(), 140);
        assert_eq!(&image[0x28..0x30], &[0; 8]);
        assert_eq!(image[0x3c], 0);
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert!(trim(b"#!/bin/sh".to_vec()).is_err());
        let mut short = program();
        short[64 + 32] = 200;
        assert!(trim(short).is_err());
    }
}
