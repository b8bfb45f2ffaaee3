//! Cloister: the image that GRUB boots. This file is the boot order.
#![no_std]
#![no_main]
#![expect(
    clippy::result_large_err,
    reason = "complaints of the boot hold their text: there is no heap to box it in"
)]

mod arch;
mod boot;
mod control;
mod cores;
mod exit;
mod iommu;
mod partition;
mod pci;
mod report;
mod routes;
mod run;
mod setup;
mod system;
mod trace;
mod virt;
mod watch;

use crate::arch::{apic, provoke};
use crate::boot::acpi::Firmware;
use crate::boot::info::{BootInfo, Complaint};
use crate::boot::{boot_core, smp};
use crate::pci::Pci;
use crate::virt::Vendor;
use crate::virt::svm::Svm;
use crate::virt::vmx::Vmx;

/// The boot core, on its own stack, with a console, descriptor tables and its
/// per-core data.
fn start(info: Result<BootInfo, Complaint>) -> ! {
    log::info!("Cloister {}", env!("CARGO_PKG_VERSION"));
    let info = setup::or_stop(info);
    match setup::vendor() {
        setup::Maker::Amd => bring_up::<Svm>(&info),
        setup::Maker::Intel => bring_up::<Vmx>(&info),
    }
}

/// The rest of the boot, for the vendor of this machine.
fn bring_up<V: Vendor>(info: &BootInfo) -> ! {
    setup::or_stop(V::check());
    let firmware = setup::keep(setup::or_stop(Firmware::read(info, apic::id())));
    let manifest = setup::or_stop(setup::manifest(info));
    let mut memory = setup::or_stop(setup::memory(info, manifest));
    setup::or_stop(setup::own_tables(info, &memory));
    setup::or_stop(setup::start_cores(firmware, &memory));
    let mut pci = Pci::find(firmware);
    let iommu = setup::or_stop(iommu::find(firmware, &pci, memory.pool));
    setup::or_stop(setup::validate(info, manifest, firmware, iommu.is_some()));
    setup::or_stop(setup::devices(&mut pci, manifest, iommu.is_some()));
    let system = setup::system::<V>(info, manifest, firmware, pci, iommu, &mut memory);
    let system = setup::or_stop(system);
    routes::find(system);
    setup::or_stop(setup::confine_devices(system));
    report::boot(V::NAME, system.cores);
    provoke::on_request(&info.command_line);
    smp::release(run::enter::<V>, system, system.cores);
    run::enter::<V>(system, boot_core())
}
