//! The virtual machine control block, typed (AMD APM vol. 2, appendix B
//! "VMCB Layout", tables B-1 "VMCB Layout, Control Area" and B-2 "VMCB Layout,
//! State Save Area").

use core::mem::offset_of;

use bitflags::bitflags;

bitflags! {
    /// Control area, 00Ch: intercepts of instructions and events.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(transparent)]
    pub(super) struct Intercept3: u32 {
        const INTR = 1 << 0;
        const NMI = 1 << 1;
        const INIT = 1 << 3;
        const VINTR = 1 << 4;
        const CPUID = 1 << 18;
        const IRET = 1 << 20;
        const INVD = 1 << 22;
        const INVLPGA = 1 << 26;
        /// Use the I/O permission map.
        const IOIO_PROT = 1 << 27;
        /// Use the MSR permission map.
        const MSR_PROT = 1 << 28;
        const SHUTDOWN = 1 << 31;
    }

    /// Control area, 010h: intercepts of the SVM and newer instructions.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(transparent)]
    pub(super) struct Intercept4: u32 {
        /// VMRUN checks that this is set.
        const VMRUN = 1 << 0;
        const VMMCALL = 1 << 1;
        const VMLOAD = 1 << 2;
        const VMSAVE = 1 << 3;
        const STGI = 1 << 4;
        const CLGI = 1 << 5;
        const SKINIT = 1 << 6;
        const WBINVD = 1 << 9;
        const MONITOR = 1 << 10;
        const MWAIT = 1 << 11;
        const XSETBV = 1 << 13;
    }

    /// Control area, 0C0h: what the processor may take from its own copy
    /// (AMD APM vol. 2, 15.15.3 "VMCB Clean Field").
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[repr(transparent)]
    pub(super) struct Clean: u32 {
        /// Intercepts, TSC offset, pause filter.
        const I = 1 << 0;
        /// Bases of the permission maps.
        const IOPM = 1 << 1;
        const ASID = 1 << 2;
        /// The word at 060h.
        const TPR = 1 << 3;
        /// Nested CR3, guest PAT.
        const NP = 1 << 4;
        /// CR0, CR3, CR4, EFER.
        const CRX = 1 << 5;
        /// DR6, DR7.
        const DRX = 1 << 6;
        /// GDTR, IDTR.
        const DT = 1 << 7;
        /// CS, DS, SS, ES, CPL.
        const SEG = 1 << 8;
        const CR2 = 1 << 9;
        /// DEBUGCTL and the last-branch MSRs.
        const LBR = 1 << 10;
    }
}

/// Control area, 060h: a virtual interrupt is waiting.
pub(super) const V_IRQ: u64 = 1 << 8;
/// Control area, 060h: deliver it whatever its priority.
pub(super) const V_IGN_TPR: u64 = 1 << 20;
/// Control area, 060h: RFLAGS.IF of the guest masks only virtual interrupts.
/// Set in DEBUG only: otherwise physical interrupts are the guest's own.
pub(super) const V_INTR_MASKING: u64 = 1 << 24;
/// Control area, 060h: the AVIC. Never set.
pub(super) const AVIC_ENABLE: u64 = 1 << 31;
/// Control area, 060h: place of the vector of the waiting interrupt.
pub(super) const V_INTR_VECTOR_SHIFT: u32 = 32;

/// Control area, 090h: nested paging.
pub(super) const NP_ENABLE: u64 = 1 << 0;

/// Control area, 05Ch: drop the translations of all ASIDs, the host's too.
pub(super) const TLB_FLUSH_ALL: u8 = 1;
/// Control area, 05Ch: drop those of this guest (needs flush-by-ASID).
pub(super) const TLB_FLUSH_GUEST: u8 = 3;

/// Control area, 000h to 3FFh.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Control {
    pub(super) intercept_cr: u32,
    pub(super) intercept_dr: u32,
    pub(super) intercept_exceptions: u32,
    pub(super) intercept3: Intercept3,
    pub(super) intercept4: Intercept4,
    pub(super) intercept5: u32,
    reserved_018: [u8; 0x28],
    pub(super) iopm_base: u64,
    pub(super) msrpm_base: u64,
    pub(super) tsc_offset: u64,
    pub(super) asid: u32,
    pub(super) tlb_control: u8,
    reserved_05d: [u8; 3],
    pub(super) virtual_interrupt: u64,
    /// Bit 0: the guest is in an interrupt shadow.
    pub(super) interrupt_shadow: u64,
    pub(super) exit_code: u64,
    pub(super) exit_info1: u64,
    pub(super) exit_info2: u64,
    pub(super) exit_int_info: u64,
    pub(super) nested_control: u64,
    pub(super) avic_apic_bar: u64,
    reserved_0a0: u64,
    pub(super) event_injection: u64,
    pub(super) nested_cr3: u64,
    /// Bit 0: last-branch-record virtualisation; bit 1: virtual VMLOAD and
    /// VMSAVE.
    pub(super) virtual_extensions: u64,
    pub(super) clean: Clean,
    reserved_0c4: u32,
    pub(super) next_rip: u64,
    pub(super) bytes_fetched: u8,
    pub(super) instruction_bytes: [u8; 15],
    pub(super) avic_backing_page: u64,
    reserved_0e8: u64,
    pub(super) avic_logical_table: u64,
    pub(super) avic_physical_table: u64,
    reserved_100: [u8; 0x300],
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Segment {
    pub(super) selector: u16,
    /// Bits 55:52 and 47:40 of the descriptor, as 12 bits (AMD APM vol. 2,
    /// 15.5.1).
    pub(super) attributes: u16,
    pub(super) limit: u32,
    pub(super) base: u64,
}

/// Attribute bit of [`Segment`]: 64-bit code.
pub(super) const ATTRIBUTE_LONG: u16 = 1 << 9;
/// Attribute bit of [`Segment`]: 32-bit default.
pub(super) const ATTRIBUTE_DEFAULT: u16 = 1 << 10;

impl Segment {
    /// All zero: not present.
    pub(super) const NULL: Self = Self {
        selector: 0,
        attributes: 0,
        limit: 0,
        base: 0,
    };
}

/// State save area, 400h.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Save {
    pub(super) es: Segment,
    pub(super) cs: Segment,
    pub(super) ss: Segment,
    pub(super) ds: Segment,
    pub(super) fs: Segment,
    pub(super) gs: Segment,
    pub(super) gdtr: Segment,
    pub(super) ldtr: Segment,
    pub(super) idtr: Segment,
    pub(super) tr: Segment,
    reserved_0a0: [u8; 0x2b],
    pub(super) cpl: u8,
    reserved_0cc: u32,
    pub(super) efer: u64,
    reserved_0d8: [u8; 0x70],
    pub(super) cr4: u64,
    pub(super) cr3: u64,
    pub(super) cr0: u64,
    pub(super) dr7: u64,
    pub(super) dr6: u64,
    pub(super) rflags: u64,
    pub(super) rip: u64,
    reserved_180: [u8; 0x58],
    pub(super) rsp: u64,
    reserved_1e0: [u8; 0x18],
    pub(super) rax: u64,
    pub(super) star: u64,
    pub(super) lstar: u64,
    pub(super) cstar: u64,
    pub(super) sfmask: u64,
    pub(super) kernel_gs_base: u64,
    pub(super) sysenter_cs: u64,
    pub(super) sysenter_esp: u64,
    pub(super) sysenter_eip: u64,
    pub(super) cr2: u64,
    reserved_248: [u8; 0x20],
    pub(super) pat: u64,
    pub(super) debug_control: u64,
    reserved_278: [u8; 0x988],
}

/// The whole block. All zero is valid memory for it.
#[derive(Debug)]
#[repr(C, align(4096))]
pub(super) struct Vmcb {
    pub(super) control: Control,
    pub(super) save: Save,
}

macro_rules! at {
    ($type:ident: $($field:ident = $offset:literal),* $(,)?) => {
        $(const _: () = assert!(offset_of!($type, $field) == $offset);)*
    };
}

at!(Control: intercept_cr = 0x000, intercept_dr = 0x004, intercept_exceptions = 0x008,
    intercept3 = 0x00c, intercept4 = 0x010, intercept5 = 0x014, iopm_base = 0x040,
    msrpm_base = 0x048, tsc_offset = 0x050, asid = 0x058, tlb_control = 0x05c,
    virtual_interrupt = 0x060, interrupt_shadow = 0x068, exit_code = 0x070,
    exit_info1 = 0x078, exit_info2 = 0x080, exit_int_info = 0x088, nested_control = 0x090,
    avic_apic_bar = 0x098, event_injection = 0x0a8, nested_cr3 = 0x0b0,
    virtual_extensions = 0x0b8, clean = 0x0c0, next_rip = 0x0c8, bytes_fetched = 0x0d0,
    instruction_bytes = 0x0d1, avic_backing_page = 0x0e0, avic_logical_table = 0x0f0,
    avic_physical_table = 0x0f8);
at!(Segment: selector = 0, attributes = 2, limit = 4, base = 8);
at!(Save: es = 0x000, cs = 0x010, ss = 0x020, ds = 0x030, fs = 0x040, gs = 0x050,
    gdtr = 0x060, ldtr = 0x070, idtr = 0x080, tr = 0x090, cpl = 0x0cb, efer = 0x0d0,
    cr4 = 0x148, cr3 = 0x150, cr0 = 0x158, dr7 = 0x160, dr6 = 0x168, rflags = 0x170,
    rip = 0x178, rsp = 0x1d8, rax = 0x1f8, star = 0x200, lstar = 0x208, cstar = 0x210,
    sfmask = 0x218, kernel_gs_base = 0x220, sysenter_cs = 0x228, sysenter_esp = 0x230,
    sysenter_eip = 0x238, cr2 = 0x240, pat = 0x268, debug_control = 0x270);
at!(Vmcb: control = 0, save = 0x400);

const _: () = assert!(size_of::<Control>() == 0x400);
const _: () = assert!(size_of::<Segment>() == 16);
const _: () = assert!(size_of::<Save>() == 0xc00);
const _: () = assert!(size_of::<Vmcb>() == 4096);
