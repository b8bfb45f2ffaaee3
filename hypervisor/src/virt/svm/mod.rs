//! AMD SVM with nested paging (AMD APM vol. 2, ch. 15 "Secure Virtual
//! Machine").
//!
//! What is off, and why: external interrupts, HLT and machine checks go to the
//! guest as on a bare machine (no HLT and #MC intercept; no INTR intercept and
//! V_INTR_MASKING = 0 unless in DEBUG, see `interrupts`); there is no AVIC, no virtual GIF, no virtual NMI and no
//! LBR virtualisation. #DB and #AC are intercepted only because a guest could
//! otherwise keep the processor delivering them for ever (CVE-2015-8104,
//! CVE-2015-5307).
//!
//! `next-RIP save`, `decode assists`, `flush by ASID` and `VMCB clean bits` are
//! used where CPUID Fn8000_000A shows them.

mod entry;
mod event;
mod exit;
mod interrupts;
mod nmi;
mod permissions;
mod state;
mod vcpu;
mod vmcb;

use cloister_core::mtrr::Mtrrs;
use cloister_core::nested::Npt;
use raw_cpuid::CpuId;
use x86::msr::{IA32_EFER, IA32_PAT};

use crate::arch::memory::FramePool;
use crate::arch::{apic, cpu, msr, percpu};
use crate::virt::{Unsupported, Vendor};

pub(crate) use permissions::SvmPermissions;
pub(crate) use vcpu::SvmVcpu;

/// AMD's virtualisation extension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Svm;

/// EFER.LME and EFER.LMA: long mode enabled, active.
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// EFER.NXE: no-execute pages.
const EFER_NXE: u64 = 1 << 11;
/// EFER.SVME: VMRUN checks it, in the host and in the guest.
const EFER_SVME: u64 = 1 << 12;

/// MSR VM_CR (AMD APM vol. 2, 15.30.1).
const VM_CR: u32 = 0xc001_0114;
/// VM_CR.R_INIT: an INIT that is not intercepted becomes #SX.
const VM_CR_R_INIT: u64 = 1 << 1;
/// VM_CR.SVMDIS: EFER.SVME cannot be set.
const VM_CR_SVMDIS: u64 = 1 << 4;
/// MSR VM_HSAVE_PA (AMD APM vol. 2, 15.30.4).
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// What CPUID Fn8000_000A says of this core.
#[derive(Clone, Copy, Debug, Default)]
struct Features {
    /// EBX: ASIDs, from 0 (the host's).
    asids: u32,
    /// EDX bit 3.
    next_rip: bool,
    /// EDX bit 5.
    clean_bits: bool,
    /// EDX bit 6.
    flush_by_asid: bool,
    /// EDX bit 7.
    decode_assists: bool,
}

impl Features {
    fn read() -> Self {
        CpuId::new()
            .get_svm_info()
            .map_or_else(Self::default, |svm| Self {
                asids: svm.supported_asids(),
                next_rip: svm.has_nrip(),
                clean_bits: svm.has_vmcb_clean_bits(),
                flush_by_asid: svm.has_flush_by_asid(),
                decode_assists: svm.has_decode_assists(),
            })
    }
}

impl Vendor for Svm {
    const NAME: &'static str = "amd";
    const POLICY: cloister_core::policy::Vendor = cloister_core::policy::Vendor::Amd;
    const HYPERCALL: u32 = 1;
    /// The processor would keep the guest's PAT in the VMCB (AMD APM vol. 2,
    /// 15.25.4), but QEMU's TCG has one PAT for guest and host.
    const PAT_DIRECT: bool = false;
    type Format = Npt;
    type Permissions = SvmPermissions;
    type Vcpu = SvmVcpu;

    fn check() -> Result<(), Unsupported> {
        let refuse = |what, value| Err(Unsupported { what, value });
        let cpuid = CpuId::new();
        let extended = cpuid.get_extended_processor_and_feature_identifiers();
        if !extended.as_ref().is_some_and(|e| e.has_svm()) {
            return refuse(
                "the processor has no SVM (CPUID Fn8000_0001 ECX bit 2): use an AMD processor, \
                 or one with VMX",
                0,
            );
        }
        if !extended.is_some_and(|e| e.has_execute_disable()) {
            return refuse(
                "the processor has no NX pages (CPUID Fn8000_0001 EDX bit 20)",
                0,
            );
        }
        // SAFETY: a processor with SVM has VM_CR (AMD APM vol. 2, 15.4).
        let vm_cr = unsafe { msr::read(VM_CR) };
        if vm_cr & VM_CR_SVMDIS != 0 {
            return refuse(
                "SVM is disabled by the firmware (VM_CR.SVMDIS, MSR C001_0114 bit 4): turn on \
                 SVM (AMD-V) in the firmware's setup",
                vm_cr,
            );
        }
        let svm = cpuid.get_svm_info();
        if !svm.as_ref().is_some_and(|s| s.has_nested_paging()) {
            return refuse(
                "the processor has no nested paging (CPUID Fn8000_000A EDX bit 0)",
                0,
            );
        }
        let asids = svm.map_or(0, |s| s.supported_asids());
        if asids < 2 {
            return refuse(
                "the processor has no ASID for a guest (CPUID Fn8000_000A EBX, at least 2)",
                asids.into(),
            );
        }
        Ok(())
    }

    unsafe fn enable(pool: &FramePool) -> Result<(), Unsupported> {
        let Some(host_save) = pool.page() else {
            return Err(NO_MEMORY);
        };
        // SAFETY: `check` found SVM and NX here, so these MSRs exist. NXE only
        // makes bit 63 of page-table entries mean what it says. The low four
        // types of the PAT stay what they are at reset. The page is ours.
        // With GIF = 0 from here on, NMIs wait for `take_pending`.
        unsafe {
            let efer = msr::read(IA32_EFER);
            msr::write(IA32_EFER, efer | EFER_SVME | EFER_NXE);
            msr::write(VM_HSAVE_PA, host_save.address());
            msr::write(IA32_PAT, Npt::HOST_PAT);
            // Emulators may lack it; then an INIT, which only hardware
            // outside the guests can send, resets the core.
            let vm_cr = msr::read(VM_CR);
            let _ = msr::try_write(VM_CR, vm_cr | VM_CR_R_INIT);
            entry::clear_gif();
        }
        Ok(())
    }

    /// Nested paging combines the guest's and the nested PAT type with the
    /// MTRRs (AMD APM vol. 2, 15.25.8 "Combining Memory Types, MTRRs").
    fn memory_types() -> Option<Mtrrs> {
        None
    }

    fn wait_for_nmi() {
        entry::with_gif(cpu::wait_for_nmi);
    }

    fn drain_interrupt() {
        entry::with_gif(cpu::open_interrupt_window);
        // An NMI that came in as well is to exit like any other: it comes once
        // more, and is held back until the next entry.
        if percpu::this().take_nmi() {
            apic::send_nmi(apic::id());
        }
    }
}

/// The pool is empty.
const NO_MEMORY: Unsupported = Unsupported {
    what: "no memory left for SVM: give the hypervisor more (manifest key hypervisor.memory)",
    value: 0,
};
