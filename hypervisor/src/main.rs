//! Cloister: the image that GRUB boots. This file is the boot order.
#![no_std]
#![no_main]
#![expect(
    clippy::result_large_err,
    reason = "complaints of the boot hold their text: there is no heap to box it in"
)]

mod arch;
mod boot;
mod cores;
mod exit;
mod guest;
mod partition;
mod power;
mod report;
mod run;
mod setup;
mod system;
mod trace;
mod virt;

use crate::arch::percpu::{self, PerCpu};
use crate::arch::{apic, console, paging};
use crate::boot::acpi::Firmware;
use crate::boot::info::BootInfo;
use crate::boot::smp;
use crate::virt::Vendor;
use crate::virt::svm::Svm;
use crate::virt::vmx::Vmx;

static BOOT_CORE: PerCpu = PerCpu::new(0, 0);

/// First Rust code of the boot core, in long mode on the boot tables.
/// `information` is the Multiboot2 information's address.
extern "sysv64" fn start(information: u32) -> ! {
    // SAFETY: called once, by the entry code, with what GRUB passed.
    let info = unsafe { BootInfo::read(u64::from(information)) };
    let line = info.as_ref().map_or("", |info| info.command_line.as_str());
    // SAFETY: first of all that prints; the command line names our UART.
    unsafe { console::open(line) };
    log::info!("Cloister {}", env!("CARGO_PKG_VERSION"));
    let info = setup::or_stop(info);
    // SAFETY: this core's own data, installed once.
    unsafe { percpu::install(&BOOT_CORE) };
    apic::enable_x2apic();
    apic::mask_legacy_pics();
    BOOT_CORE.identify(apic::id());
    arch::cpu::enable_features();
    match setup::vendor() {
        setup::Maker::Amd => bring_up::<Svm>(&info),
        setup::Maker::Intel => bring_up::<Vmx>(&info),
    }
}

/// The rest of the boot, for the vendor of this machine.
fn bring_up<V: Vendor>(info: &BootInfo) -> ! {
    setup::or_stop(V::check());
    // SAFETY: what GRUB said, and the low 4 GiB are mapped.
    let firmware = setup::keep(setup::or_stop(unsafe { Firmware::read(info, apic::id()) }));
    let manifest = setup::or_stop(setup::manifest(info));
    let plan = setup::or_stop(setup::plan(info, manifest));
    let pool = setup::pool(&plan);
    setup::or_stop(setup::own_tables(info, &plan, pool));
    // SAFETY: the tables were built just now.
    unsafe { paging::enter() };
    let cores = setup::or_stop(setup::start_cores(firmware, &plan, pool));
    setup::or_stop(setup::validate(info, manifest, firmware));
    let system = setup::or_stop(setup::system::<V>(
        info, manifest, firmware, &plan, pool, cores,
    ));
    report::boot(V::NAME, cores);
    let argument = core::ptr::from_ref(system) as usize;
    smp::release(run::enter::<V>, argument);
    run::enter::<V>(argument, &BOOT_CORE)
}
