//! The machine underneath: instructions, MSRs, descriptor tables, paging, the
//! local APIC, the console UART. Most `unsafe` of the hypervisor is here.

pub(crate) mod apic;
pub(crate) mod console;
pub(crate) mod cpu;
pub(crate) mod extended;
pub(crate) mod fault;
pub(crate) mod memory;
pub(crate) mod msr;
pub(crate) mod paging;
pub(crate) mod passthrough;
pub(crate) mod pci;
pub(crate) mod percpu;
pub(crate) mod provoke;
pub(crate) mod routes;
pub(crate) mod tables;
pub(crate) mod uart;
pub(crate) mod window;
