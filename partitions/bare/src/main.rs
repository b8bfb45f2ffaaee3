//! Starts the program of a partition on the bare machine: no hypervisor, the
//! same ELF file, the same system file, the same entry state
//! (`cloister_abi::shared`). What a program does under Cloister can so be
//! compared with what it does alone.
//!
//! GRUB loads this instead of the hypervisor, with the same modules. Only a
//! system of one partition with one core can be started so.
#![no_std]
#![no_main]

mod calls;
mod console;
mod devices;
mod entry;
mod load;
mod machine;

use core::panic::PanicInfo;

use cloister_core::multiboot;
use cloister_manifest::MANIFEST_MODULE;

use load::{Module, Start};

/// Where `entry` leads, with the boot tables' mapping of the first 4 GiB and
/// the address of GRUB's information.
extern "C" fn first(information: u64) -> ! {
    machine::mask_interrupts();
    console::open(None);
    match prepare(information) {
        Ok(start) => start.enter(),
        Err(complaint) => calls::refuse(complaint),
    }
}

/// Everything up to the program's first instruction.
fn prepare(information: u64) -> Result<Start, &'static str> {
    // SAFETY: GRUB passed the address (`entry`), and nothing was overwritten.
    let boot = multiboot::parse(unsafe { load::boot_information(information) })
        .map_err(|_| "the Multiboot2 information is damaged")?;
    console::open(Some(&boot.command_line));
    let blob = Module::keep(&boot, MANIFEST_MODULE)?;
    let manifest = cloister_manifest::decode(blob.bytes())
        .map_err(|_| "the module \"manifest\" is no compiled manifest of this version")?;
    let [partition] = manifest.partitions.as_slice() else {
        return Err("a bare run is of one partition: the system file has not exactly one");
    };
    if manifest.linux.is_some() || partition.cpus.len() != 1 {
        return Err("a bare run is of one core, without Linux");
    }
    let program = Module::keep(&boot, &partition.program)?;
    load::load(partition, program.bytes())
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    calls::refuse("the loader panicked")
}
