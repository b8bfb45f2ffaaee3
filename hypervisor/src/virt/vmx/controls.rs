//! The five control words: which bits Cloister needs, which must be off, and
//! what the processor allows (Intel SDM vol. 3, "VM-Execution Control Fields"
//! to "VM-Entry Control Fields"; appendix A, "VMX Capability Reporting").
//!
//! A word is built from the TRUE capability MSRs: what must be 1, plus what we
//! ask for. Each bit that Cloister needs, and each that would break the
//! contract of a dataplane core, has its own refusal.

use raw_cpuid::CpuIdResult;
use raw_cpuid::native_cpuid::cpuid_count;
use x86::msr::{
    IA32_VMX_PROCBASED_CTLS2, IA32_VMX_TRUE_ENTRY_CTLS, IA32_VMX_TRUE_EXIT_CTLS,
    IA32_VMX_TRUE_PINBASED_CTLS, IA32_VMX_TRUE_PROCBASED_CTLS,
};

use crate::arch::msr;
use crate::virt::{GuestKind, Unsupported};

/// Pin-based: external interrupts exit. On in DEBUG only.
pub(super) const EXTERNAL_INTERRUPT_EXITING: u32 = 1 << 0;
/// Primary: exit as soon as the guest can take an interrupt.
pub(super) const INTERRUPT_WINDOW: u32 = 1 << 2;
/// Primary: exit as soon as the guest can take an NMI.
pub(super) const NMI_WINDOW: u32 = 1 << 22;
/// Entry: the guest is in IA-32e mode. The processor keeps it equal to
/// EFER.LMA at every exit (IA32_VMX_MISC bit 5).
pub(super) const IA32E_GUEST: u32 = 1 << 9;
const ENABLE_XSAVES: u32 = 1 << 20;

/// A control bit and what to say when the processor does not let us have it.
struct Bit {
    mask: u32,
    cannot_be_1: &'static str,
    cannot_be_0: &'static str,
}

macro_rules! bits {
    ($name:ident: $word:literal, $msr:literal; $($bit:literal $what:literal,)*) => {
        const $name: &[Bit] = &[$(Bit {
            mask: 1 << $bit,
            cannot_be_1: concat!("this processor lacks the ", $word, " control '", $what,
                "' (bit ", $bit, " of ", $msr, " cannot be 1)"),
            cannot_be_0: concat!("this processor forces the ", $word, " control '", $what,
                "' on (bit ", $bit, " of ", $msr, " cannot be 0)"),
        },)*];
    };
}

bits! { PIN_ON: "pin-based", "IA32_VMX_TRUE_PINBASED_CTLS, MSR 0x48d";
    3 "NMI exiting",
    5 "virtual NMIs",
}
bits! { PIN_OFF: "pin-based", "IA32_VMX_TRUE_PINBASED_CTLS, MSR 0x48d";
    0 "external-interrupt exiting",
    6 "activate VMX-preemption timer",
    7 "process posted interrupts",
}
// DEBUG turns it on for a while: it must be settable.
bits! { PIN_SETTABLE: "pin-based", "IA32_VMX_TRUE_PINBASED_CTLS, MSR 0x48d";
    0 "external-interrupt exiting",
}
bits! { PRIMARY_ON: "primary processor-based", "IA32_VMX_TRUE_PROCBASED_CTLS, MSR 0x48e";
    25 "use I/O bitmaps",
    28 "use MSR bitmaps",
    31 "activate secondary controls",
}
bits! { PRIMARY_PARTITION: "primary processor-based", "IA32_VMX_TRUE_PROCBASED_CTLS, MSR 0x48e";
    10 "MWAIT exiting",
    23 "MOV-DR exiting",
    29 "MONITOR exiting",
}
bits! { PRIMARY_OFF: "primary processor-based", "IA32_VMX_TRUE_PROCBASED_CTLS, MSR 0x48e";
    2 "interrupt-window exiting",
    3 "use TSC offsetting",
    7 "HLT exiting",
    9 "INVLPG exiting",
    11 "RDPMC exiting",
    12 "RDTSC exiting",
    15 "CR3-load exiting",
    16 "CR3-store exiting",
    19 "CR8-load exiting",
    20 "CR8-store exiting",
    21 "use TPR shadow",
    22 "NMI-window exiting",
    23 "MOV-DR exiting",
    24 "unconditional I/O exiting",
    27 "monitor trap flag",
    30 "PAUSE exiting",
}
bits! { PRIMARY_SETTABLE: "primary processor-based", "IA32_VMX_TRUE_PROCBASED_CTLS, MSR 0x48e";
    2 "interrupt-window exiting",
    22 "NMI-window exiting",
}
bits! { SECONDARY_ON: "secondary processor-based", "IA32_VMX_PROCBASED_CTLS2, MSR 0x48b";
    1 "enable EPT",
    5 "enable VPID",
    7 "unrestricted guest",
}
bits! { SECONDARY_PARTITION: "secondary processor-based", "IA32_VMX_PROCBASED_CTLS2, MSR 0x48b";
    6 "WBINVD exiting",
}
bits! { SECONDARY_OFF: "secondary processor-based", "IA32_VMX_PROCBASED_CTLS2, MSR 0x48b";
    0 "virtualize APIC accesses",
    4 "virtualize x2APIC mode",
    8 "APIC-register virtualization",
    9 "virtual-interrupt delivery",
    10 "PAUSE-loop exiting",
    13 "enable VM functions",
    14 "VMCS shadowing",
    17 "enable PML",
    25 "use TSC scaling",
}
// Instructions that are #UD in a guest without their control: needed if CPUID
// shows the instruction, because the guest sees that CPUID.
bits! { RDTSCP: "secondary processor-based", "IA32_VMX_PROCBASED_CTLS2, MSR 0x48b";
    3 "enable RDTSCP",
}
bits! { INVPCID: "secondary processor-based", "IA32_VMX_PROCBASED_CTLS2, MSR 0x48b";
    12 "enable INVPCID",
}
bits! { XSAVES: "secondary processor-based", "IA32_VMX_PROCBASED_CTLS2, MSR 0x48b";
    20 "enable XSAVES/XRSTORS",
}
bits! { USER_WAIT: "secondary processor-based", "IA32_VMX_PROCBASED_CTLS2, MSR 0x48b";
    26 "enable user wait and pause",
}
bits! { EXIT_ON: "VM-exit", "IA32_VMX_TRUE_EXIT_CTLS, MSR 0x48f";
    2 "save debug controls",
    9 "host address-space size",
    18 "save IA32_PAT",
    19 "load IA32_PAT",
    20 "save IA32_EFER",
    21 "load IA32_EFER",
}
bits! { EXIT_OFF: "VM-exit", "IA32_VMX_TRUE_EXIT_CTLS, MSR 0x48f";
    15 "acknowledge interrupt on exit",
    22 "save VMX-preemption timer value",
}
bits! { ENTRY_ON: "VM-entry", "IA32_VMX_TRUE_ENTRY_CTLS, MSR 0x490";
    2 "load debug controls",
    14 "load IA32_PAT",
    15 "load IA32_EFER",
}
bits! { ENTRY_SETTABLE: "VM-entry", "IA32_VMX_TRUE_ENTRY_CTLS, MSR 0x490";
    9 "IA-32e mode guest",
}
bits! { ENTRY_OFF: "VM-entry", "IA32_VMX_TRUE_ENTRY_CTLS, MSR 0x490";
    9 "IA-32e mode guest",
    10 "entry to SMM",
    11 "deactivate dual-monitor treatment",
}

/// The control words of a guest.
#[derive(Clone, Copy)]
pub(super) struct Controls {
    pub(super) pin_based: u32,
    pub(super) primary: u32,
    pub(super) secondary: u32,
    pub(super) exit: u32,
    pub(super) entry: u32,
}

impl Controls {
    /// The words for a guest of `kind` on this core.
    ///
    /// # Errors
    /// Names the control, its MSR and its bit.
    ///
    /// # Safety
    /// The processor has VMX and the TRUE capability MSRs (IA32_VMX_BASIC bit
    /// 55).
    pub(super) unsafe fn new(kind: GuestKind) -> Result<Self, Unsupported> {
        let shown = |shows: bool, bits: &'static [Bit]| if shows { bits } else { &[] };
        let partition = |bits| shown(kind == GuestKind::Partition, bits);
        // SAFETY: the caller vouches for the MSRs; the one for the secondary
        // controls exists when "activate secondary controls" can be 1, which
        // has been seen by then.
        unsafe {
            Ok(Self {
                pin_based: word(
                    IA32_VMX_TRUE_PINBASED_CTLS,
                    &[PIN_ON],
                    PIN_SETTABLE,
                    PIN_OFF,
                )?,
                primary: word(
                    IA32_VMX_TRUE_PROCBASED_CTLS,
                    &[PRIMARY_ON, partition(PRIMARY_PARTITION)],
                    PRIMARY_SETTABLE,
                    PRIMARY_OFF,
                )?,
                secondary: word(
                    IA32_VMX_PROCBASED_CTLS2,
                    &[
                        SECONDARY_ON,
                        partition(SECONDARY_PARTITION),
                        shown(extended_leaf(0x8000_0001).edx & 1 << 27 != 0, RDTSCP),
                        shown(leaf(7, 0).ebx & 1 << 10 != 0, INVPCID),
                        shown(leaf(0xd, 1).eax & 1 << 3 != 0, XSAVES),
                        shown(leaf(7, 0).ecx & 1 << 5 != 0, USER_WAIT),
                    ],
                    &[],
                    SECONDARY_OFF,
                )?,
                exit: word(IA32_VMX_TRUE_EXIT_CTLS, &[EXIT_ON], &[], EXIT_OFF)?,
                entry: word(
                    IA32_VMX_TRUE_ENTRY_CTLS,
                    &[ENTRY_ON],
                    ENTRY_SETTABLE,
                    ENTRY_OFF,
                )?,
            })
        }
    }

    /// Whether the XSS-exiting bitmap exists.
    pub(super) fn has_xss_bitmap(&self) -> bool {
        self.secondary & ENABLE_XSAVES != 0
    }
}

/// One control word from capability MSR `index`: its low half holds the bits
/// that must be 1, its high half those that may be.
unsafe fn word(
    index: u32,
    on: &[&[Bit]],
    settable: &[Bit],
    off: &[Bit],
) -> Result<u32, Unsupported> {
    // SAFETY: the caller vouches for the MSR.
    let value = unsafe { msr::read(index) };
    #[expect(clippy::cast_possible_truncation, reason = "split in halves")]
    let (must, may) = (value as u32, (value >> 32) as u32);
    let needed = on.iter().copied().flatten();
    if let Some(bit) = needed
        .clone()
        .chain(settable)
        .find(|bit| may & bit.mask == 0)
    {
        return Err(Unsupported {
            what: bit.cannot_be_1,
            value,
        });
    }
    if let Some(bit) = off.iter().find(|bit| must & bit.mask != 0) {
        return Err(Unsupported {
            what: bit.cannot_be_0,
            value,
        });
    }
    Ok(needed.fold(must, |word, bit| word | bit.mask))
}

const NO_LEAF: CpuIdResult = CpuIdResult {
    eax: 0,
    ebx: 0,
    ecx: 0,
    edx: 0,
};

/// A basic CPUID leaf; zeros if the processor does not have it.
pub(super) fn leaf(leaf: u32, subleaf: u32) -> CpuIdResult {
    if leaf <= cpuid_count(0, 0).eax {
        cpuid_count(leaf, subleaf)
    } else {
        NO_LEAF
    }
}

/// An extended CPUID leaf; zeros if the processor does not have it.
pub(super) fn extended_leaf(leaf: u32) -> CpuIdResult {
    if leaf <= cpuid_count(0x8000_0000, 0).eax {
        cpuid_count(leaf, 0)
    } else {
        NO_LEAF
    }
}
