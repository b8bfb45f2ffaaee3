//! Pure logic of the hypervisor, tested on the host.
#![no_std]
#![forbid(unsafe_code)]

pub mod acpi;
pub mod bzimage;
pub mod decode;
pub mod elf;
pub mod icr;
pub mod iommu;
pub mod lvt;
pub mod memory;
pub mod mtrr;
pub mod multiboot;
pub mod nested;
pub mod pci;
pub mod policy;
pub mod route;
pub mod vmcs;
pub mod walk;

mod bytes;
