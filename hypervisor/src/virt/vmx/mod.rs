//! Intel VMX with EPT (Intel SDM vol. 3, the chapters on virtual-machine
//! extensions).
//!
//! | file | what |
//! |---|---|
//! | `controls.rs` | the five control words and their refusals |
//! | `vmcs.rs`, `fields.rs` | the VMCS, its fields by width and access |
//! | `host.rs`, `state.rs` | host state; guest state after a reset |
//! | `entry.rs` | the way in and out |
//! | `exit.rs` | exit reasons to neutral exits |
//! | `event.rs` | what waits to be injected |
//! | `control_registers.rs` | CR0 and CR4 |
//! | `permissions.rs`, `ept.rs` | MSR and I/O bitmaps; EPTP, INVEPT, INVVPID |
//!
//! Decisions. "Unrestricted guest" is required: there is no emulator for real
//! mode. INIT and SIPI are emulated by the hypervisor; the activity state
//! wait-for-SIPI is not used. External interrupts go to the guest unless DEBUG
//! asks otherwise; NMIs always exit, with virtual NMIs for the guest. No TPR
//! shadow, no virtualised APIC accesses, no virtual-interrupt delivery, no
//! posted interrupts, no preemption timer. Task switches always exit on VMX and end in
//! [`Exit::TaskSwitch`]. A failed entry ends in [`Exit::EntryFailure`]: its
//! code is the exit reason if bit 31 is set, otherwise the VM-instruction
//! error. [`Exit::ControlRegister`] is an access to CR0 or
//! CR4 that raises #GP(0), or a partition's MOV DR.
//!
//! [`Exit::TaskSwitch`]: crate::virt::Exit::TaskSwitch
//! [`Exit::EntryFailure`]: crate::virt::Exit::EntryFailure
//! [`Exit::ControlRegister`]: crate::virt::Exit::ControlRegister

mod control_registers;
mod controls;
mod entry;
mod ept;
mod event;
mod exit;
mod fields;
mod host;
mod permissions;
mod state;
mod vcpu;
mod vmcs;

use core::arch::asm;

use cloister_core::mtrr::Mtrrs;
use cloister_core::nested::Ept;
use x86::msr::{IA32_FEATURE_CONTROL, IA32_VMX_BASIC, IA32_VMX_MISC};

use self::control_registers::{CR0_NE, CR4_VMXE};
use self::controls::{Controls, extended_leaf, leaf};
use crate::arch::memory::FramePool;
use crate::arch::{cpu, msr, percpu};
use crate::virt::{GuestKind, Unsupported, Vendor};

/// IA32_FEATURE_CONTROL: the firmware's word on VMX.
const FEATURE_LOCKED: u64 = 1 << 0;
const FEATURE_VMXON_OUTSIDE_SMX: u64 = 1 << 2;

/// Intel VMX.
#[derive(Clone, Copy)]
pub(crate) struct Vmx;

/// VMCS revision identifier: bits 30:0 of IA32_VMX_BASIC.
///
/// # Safety
/// The processor has VMX.
unsafe fn vmcs_revision() -> u32 {
    // SAFETY: the MSR exists with VMX.
    let basic = unsafe { msr::read(IA32_VMX_BASIC) };
    u32::try_from(basic & 0x7fff_ffff).unwrap_or(0)
}

/// IA32_VMX_BASIC and IA32_VMX_MISC (SDM vol. 3, appendix "VMX Capability
/// Reporting").
///
/// # Safety
/// The processor has VMX.
unsafe fn check_basics() -> Result<(), Unsupported> {
    const PHYSICAL_32_BIT: u64 = 1 << 48;
    const MEMORY_TYPE_SHIFT: u32 = 50;
    const WRITE_BACK: u64 = 6;
    const TRUE_CONTROLS: u64 = 1 << 55;
    const STORES_LMA: u64 = 1 << 5;
    const CAN_HALT: u64 = 1 << 6;
    // SAFETY: both MSRs exist with VMX.
    let (basic, misc) = unsafe { (msr::read(IA32_VMX_BASIC), msr::read(IA32_VMX_MISC)) };
    let basics = [
        (
            basic & PHYSICAL_32_BIT == 0,
            "VMX structures must lie below 4 GiB (IA32_VMX_BASIC, MSR 0x480, bit 48 is 1)",
        ),
        (
            basic >> MEMORY_TYPE_SHIFT & 0xf == WRITE_BACK,
            "VMX structures are not write-back (IA32_VMX_BASIC, MSR 0x480, bits 53:50 are not 6)",
        ),
        (
            basic & TRUE_CONTROLS != 0,
            "no TRUE capability MSRs (IA32_VMX_BASIC, MSR 0x480, bit 55 is 0)",
        ),
    ];
    if let Some((_, what)) = basics.iter().find(|(good, _)| !good) {
        return Err(Unsupported { what, value: basic });
    }
    if misc & STORES_LMA == 0 {
        let what = "exits do not store EFER.LMA (IA32_VMX_MISC, MSR 0x485, bit 5 is 0)";
        return Err(Unsupported { what, value: misc });
    }
    if misc & CAN_HALT == 0 {
        let what = "no activity state HLT (IA32_VMX_MISC, MSR 0x485, bit 6 is 0)";
        return Err(Unsupported { what, value: misc });
    }
    Ok(())
}

impl Vendor for Vmx {
    const NAME: &'static str = "intel";
    const POLICY: cloister_core::policy::Vendor = cloister_core::policy::Vendor::Intel;
    const HYPERCALL: u32 = 0;
    /// Entries and exits switch IA32_PAT.
    const PAT_DIRECT: bool = true;
    type Format = Ept;
    type Permissions = permissions::VmxPermissions;
    type Vcpu = vcpu::VmxVcpu;

    fn check() -> Result<(), Unsupported> {
        let features = leaf(1, 0).ecx;
        if features & 1 << 5 == 0 {
            return Err(Unsupported {
                what: "no VMX (CPUID leaf 1, ECX bit 5): enable Intel VT-x, or nesting",
                value: features.into(),
            });
        }
        // SAFETY: CPUID shows VMX, so its MSRs exist; `Controls` refuses a
        // processor without EPT before the EPT capabilities are read.
        unsafe {
            let feature_control = msr::read(IA32_FEATURE_CONTROL);
            if feature_control & (FEATURE_LOCKED | FEATURE_VMXON_OUTSIDE_SMX) == FEATURE_LOCKED {
                return Err(Unsupported {
                    what: "the firmware has locked VMX off (IA32_FEATURE_CONTROL, MSR 0x3a, \
                           bit 2 is 0, bit 0 is 1): enable Intel VT-x in its setup",
                    value: feature_control,
                });
            }
            check_basics()?;
            control_registers::check_fixed(cpu::cr0() | CR0_NE, cpu::cr4() | CR4_VMXE)?;
            // A partition needs all that Linux needs, and more.
            Controls::new(GuestKind::Partition)?;
            ept::check()
        }
    }

    unsafe fn enable(pool: &FramePool) -> Result<(), Unsupported> {
        let region = pool.page().ok_or(Unsupported {
            what: "no memory left for the VMXON region: raise [hypervisor] memory",
            value: 0,
        })?;
        // SAFETY: zeros are valid integers.
        let words: &'static mut [u32; 1024] = unsafe { region.leak() };
        // SAFETY: `check` has seen VMX.
        words[0] = unsafe { vmcs_revision() };
        let address = core::ptr::from_mut(words) as u64;
        let done: u8;
        // SAFETY: `check` has found that the firmware allows VMX or leaves it
        // open, and that CR0 and CR4 suit it; the region is ours for ever.
        unsafe {
            let feature_control = msr::read(IA32_FEATURE_CONTROL);
            if feature_control & FEATURE_LOCKED == 0 {
                let open = feature_control | FEATURE_LOCKED | FEATURE_VMXON_OUTSIDE_SMX;
                msr::write(IA32_FEATURE_CONTROL, open);
            }
            cpu::set_cr0(cpu::cr0() | CR0_NE);
            cpu::set_cr4(cpu::cr4() | CR4_VMXE);
            asm!("vmxon [{}]", "setnbe {}", in(reg) &raw const address, out(reg_byte) done);
        }
        if done == 0 {
            let what = "VMXON refuses its region (SDM vol. 3, VMXON)";
            return Err(Unsupported {
                what,
                value: address,
            });
        }
        // SAFETY: VMX root operation; `check` has seen the types.
        unsafe { ept::flush_all() };
        if percpu::this().core() == 0 && !ept::large_executable_pages_safe() {
            log::warn!(
                "this processor does not say that it is free of CVE-2018-12207 (iTLB multihit; \
                 IA32_ARCH_CAPABILITIES bit 6): a hostile partition could raise a machine check"
            );
        }
        Ok(())
    }

    fn nested_gib_pages(host: bool) -> bool {
        // SAFETY: guests are made only after `check`.
        host && unsafe { ept::has_gib_pages() }
    }

    fn memory_types() -> Option<Mtrrs> {
        const HAS_MTRRS: u32 = 1 << 12;
        const SIZES: u32 = 0x8000_0008;
        if leaf(1, 0).edx & HAS_MTRRS == 0 {
            return None;
        }
        let physical_bits = extended_leaf(SIZES).eax.to_le_bytes()[0];
        // SAFETY: CPUID says that they exist; `Mtrrs` reads those that
        // IA32_MTRRCAP counts.
        Mtrrs::read(|index| unsafe { msr::read(index) }, physical_bits)
    }

    fn wait_for_nmi() {
        cpu::wait_for_nmi();
    }

    fn drain_interrupt() {
        cpu::open_interrupt_window();
    }
}
