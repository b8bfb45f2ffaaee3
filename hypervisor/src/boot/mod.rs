//! From GRUB to Rust: the Multiboot2 entry, long mode, the other cores, what
//! the firmware and GRUB say about the machine, and who gets its memory.

pub(crate) mod acpi;
mod ap;
pub(crate) mod claim;
mod entry;
pub(crate) mod info;
pub(crate) mod power;
pub(crate) mod smp;
pub(crate) mod topology;

pub(crate) use entry::BOOT_STACK;

use crate::arch::percpu::{self, PerCpu};
use crate::arch::{apic, console, cpu};
use crate::boot::info::BootInfo;

static BOOT_CORE: PerCpu = PerCpu::new(0, 0);

/// The boot core's data.
pub(crate) fn boot_core() -> &'static PerCpu {
    &BOOT_CORE
}

/// First Rust code of the boot core, in long mode on the boot tables.
/// `information` is the Multiboot2 information's address.
extern "sysv64" fn first(information: u32) -> ! {
    // SAFETY: called once, by the entry code, with what GRUB passed.
    let info = unsafe { BootInfo::read(u64::from(information)) };
    let line = info.as_ref().map_or("", |info| info.command_line.as_str());
    // SAFETY: first of all that prints; the command line names our UART.
    unsafe { console::open(line) };
    // SAFETY: this core's own data, installed once.
    unsafe { percpu::install(&BOOT_CORE) };
    cpu::enable_features();
    apic::choose_mode(line);
    apic::mask_legacy_pics();
    BOOT_CORE.identify(apic::id());
    crate::start(info)
}
