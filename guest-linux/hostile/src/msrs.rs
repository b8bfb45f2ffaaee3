//! MSRs, through Linux's msr driver, which turns #GP into an error.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};

const RANGES: [(u64, u64); 8] = [
    (0, 0x2000),
    (0xc000_0000, 0x2000),
    (0xc001_0000, 0x2000),
    (0x4000_0000, 0x200),
    (0x4b56_4d00, 0x10),
    (0x2000, 0x10),
    (0x8000_0000, 0x10),
    (0xffff_fff0, 0x10),
];

/// What Linux itself lives on: time, APIC, system calls, PAT and MTRRs, machine
/// checks, debugging, speculation control, segment bases, EFER.
const LINUX_LIVES_ON: [(u64, u64); 17] = [
    (0x10, 0x10),
    (0x1b, 0x1b),
    (0x3b, 0x49),
    (0x174, 0x17b),
    (0x186, 0x18d),
    (0x1a0, 0x1a0),
    (0x1c4, 0x1c5),
    (0x1d9, 0x1d9),
    (0x200, 0x2ff),
    (0x38d, 0x390),
    (0x400, 0x47f),
    (0x6a0, 0x6a8),
    (0x6e0, 0x6e1),
    (0x800, 0x8ff),
    (0xda0, 0xda0),
    (0xc000_0080, 0xc000_0103),
    (0xc001_0000, 0xc001_0016),
];

pub(crate) fn sweep(cpu: u64) -> Result<()> {
    let path = format!("/dev/cpu/{cpu}/msr");
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {path}: modprobe msr allow_writes=on"))?;
    let (mut read, mut written, mut refused) = (0, 0, 0);
    for index in RANGES
        .into_iter()
        .flat_map(|(first, count)| first..first + count)
    {
        let mut bytes = [0; 8];
        let held = file.read_at(&mut bytes, index).is_ok();
        read += u64::from(held);
        let spared = LINUX_LIVES_ON
            .iter()
            .any(|&(first, last)| (first..=last).contains(&index));
        let values = [0u64, u64::MAX, 0x1234_5678_9abc_def0].map(u64::to_le_bytes);
        for value in values.iter().filter(|_| !spared) {
            match file.write_at(value, index) {
                Ok(_) => written += 1,
                Err(_) => refused += 1,
            }
        }
        if held && !spared {
            // What was there, as far as it takes it back.
            let _ = file.write_at(&bytes, index);
        }
    }
    println!("msrs: read={read} written={written} refused={refused}");
    Ok(())
}
