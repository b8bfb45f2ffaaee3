//! What root in the housekeeping Linux may try against the machine: a test
//! tool for its initramfs, statically linked.
//!
//! | arguments | what it does |
//! |---|---|
//! | `msrs CPU` | through /dev/cpu/CPU/msr, reads every MSR, and writes those that Linux itself does not live on |
//! | `ports` | reads every port; writes those of the 8259s, the 8254, DMA, RTC and reset outlines |
//! | `pci` | reads all configuration space through 0xcf8; writes back what it read, and ones to each BAR for a moment |
//! | `function ADDRESS` | reads and writes the configuration space of the function bus << 8 \| device << 3 \| function through 0xcf8, by every width |
//! | `forge OWN ALL` | aims every MSI, MSI-X message and an I/O APIC pin at the cores with APIC IDs below ALL, of which Linux has those below OWN |
//! | `sleep PORT` | writes every sleep type but S5's to PM1a control at PORT |
//! | `memory START LENGTH` | reads and writes that physical range, page by page |
//! | `beyond` | reads physical addresses where nothing is, up to 2^39 |
//! | `dma DEVICE ADDRESS…` | has QEMU's `edu` device DEVICE (0000:00:03.0) copy within our own memory, then write to each ADDRESS and read it back |
//! | `ipi ID VECTOR` | has this core's xAPIC send VECTOR to the core with APIC ID ID |
//! | `flood ADDRESS VALUE COUNT PAUSE` | stores VALUE, eight bytes, at a physical address, COUNT times, and sleeps PAUSE microseconds between |
//! | `kexec KERNEL INITRD CMDLINE` | starts another kernel in place of this one |
//! | `control STEP` | stores to the hypervisor's control page that are no calls, at each STEP-th offset, and calls that mean nothing |
//! | `hypercalls` | VMCALL and VMMCALL from user mode |
//! | `reset` | writes the reset control register 0xcf9 |
//!
//! As the first process of a machine (of that other kernel) it says how many
//! processors there are, and powers off.
//!
//! Each prints what it counted as `NAME: key=number …`.

mod apic;
mod control;
mod dma;
mod interrupts;
mod kexec;
mod memory;
mod msrs;
mod ports;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| -> Result<u64> {
        let text = arguments.get(index).context("an argument is missing")?;
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        }
        .with_context(|| format!("{text} is no number"))
    };
    match arguments.first().map(String::as_str) {
        Some("msrs") => msrs::sweep(number(1)?),
        Some("ports") => ports::sweep(),
        Some("pci") => ports::pci(),
        Some("function") => ports::function(u32::try_from(number(1)?)?),
        Some("forge") => interrupts::forge(number(1)?, number(2)?),
        Some("sleep") => ports::sleep(number(1)?),
        Some("reset") => ports::reset(),
        Some("memory") => memory::sweep(number(1)?, number(2)?),
        Some("beyond") => memory::beyond(),
        Some("dma") => {
            let device = arguments.get(1).context("the device is missing")?;
            let addresses: Result<Vec<u64>> = (2..arguments.len()).map(number).collect();
            dma::aim(device, &addresses?)
        }
        Some("flood") => memory::flood(number(1)?, number(2)?, number(3)?, number(4)?),
        Some("control") => control::stores(number(1)?),
        Some("hypercalls") => control::hypercalls(),
        Some("ipi") => apic::send(number(1)?, number(2)?),
        Some("kexec") => match arguments.get(1..).unwrap_or(&[]) {
            [kernel, initrd, command_line] => kexec::load_and_go(kernel, initrd, command_line),
            _ => bail!("kexec KERNEL INITRD CMDLINE"),
        },
        None if std::process::id() == 1 => kexec::arrived(),
        _ => bail!(
            "msrs, ports, pci, function, forge, sleep, reset, memory, beyond, dma, control, hypercalls, flood, ipi \
             or kexec"
        ),
    }
}
