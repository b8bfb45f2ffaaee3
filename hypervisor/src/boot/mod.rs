//! From GRUB to Rust: the Multiboot2 entry, long mode, the other cores, and
//! what the firmware and GRUB say about the machine.

pub(crate) mod acpi;
pub(crate) mod ap;
mod entry;

pub(crate) mod info;
pub(crate) mod smp;
pub(crate) mod topology;

pub(crate) use entry::BOOT_STACK;
