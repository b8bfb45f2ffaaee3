//! The closed set of VM exit reasons, the same for both vendors.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a core left its guest. Neutral between VMX and SVM.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason, in value order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Name in reports and traces, kebab-case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The reason called `name`.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    /// CPUID was executed.
    Cpuid = "cpuid",
    /// An intercepted MSR was read.
    Rdmsr = "rdmsr",
    /// An intercepted MSR was written.
    Wrmsr = "wrmsr",
    /// An intercepted port was read.
    PortIn = "port-in",
    /// An intercepted port was written.
    PortOut = "port-out",
    /// XSETBV was executed.
    Xsetbv = "xsetbv",
    /// VMCALL or VMMCALL, other than a kick.
    Hypercall = "hypercall",
    /// An access that the nested page table does not allow.
    NestedPageFault = "nested-page-fault",
    /// A write to the xAPIC page, or to the x2APIC ICR.
    ApicWrite = "apic-write",
    /// An exception that is intercepted.
    Exception = "exception",
    /// An external interrupt reached the hypervisor (DEBUG only).
    Interrupt = "interrupt",
    /// A non-maskable interrupt that is no kick.
    Nmi = "nmi",
    /// A physical INIT signal.
    Init = "init",
    /// A start-up IPI.
    Sipi = "sipi",
    /// The guest shut down: a triple fault.
    TripleFault = "triple-fault",
    /// HLT, MWAIT or MONITOR, where intercepted.
    Halt = "halt",
    /// INVD or WBINVD, where intercepted.
    CacheControl = "cache-control",
    /// A control-register access that is intercepted.
    ControlRegister = "control-register",
    /// A VMX or SVM instruction that the guest may not have.
    Virtualization = "virtualization",
    /// A task switch.
    TaskSwitch = "task-switch",
    /// A machine check.
    MachineCheck = "machine-check",
    /// The processor refused the guest state at entry.
    EntryFailure = "entry-failure",
    /// A management kick: stop, restart, INIT emulation.
    Kick = "kick",
    /// Anything else; the raw code is in the record's detail.
    Other = "other",
}

/// Number of reasons: the length of per-reason tables.
pub const COUNT: usize = Reason::ALL.len();
