//! The vendor seam: all that the rest of the hypervisor knows of VMX and SVM.
//!
//! [`Vendor`] is chosen once at boot by CPUID and monomorphised. A [`Vcpu`] is
//! used only on the core it was made on; `run()` enters the guest and returns
//! one neutral [`Exit`].

pub(crate) mod guest;
pub(crate) mod svm;
pub(crate) mod vmx;

use core::fmt;

use cloister_core::mtrr::Mtrrs;
use cloister_core::nested::Format;
use cloister_core::policy::cpuid::Regs;

use crate::arch::memory::FramePool;
use crate::arch::percpu;

/// One of the two virtualisation extensions.
pub(crate) trait Vendor: Copy + Sync + 'static {
    /// `amd` or `intel`, as in reports.
    const NAME: &'static str;
    /// The maker, as the policies of the core crate name it.
    const POLICY: cloister_core::policy::Vendor;
    /// Value of `PartitionInfo::vendor`: which hypercall instruction to use.
    const HYPERCALL: u32;
    /// Whether guests may read and write the PAT MSR itself.
    const PAT_DIRECT: bool;
    /// Entry format of the nested page table.
    type Format: Format + Send + Sync;
    /// MSR and I/O permission maps of one guest.
    type Permissions: Permissions + Send + Sync;
    /// A virtual core.
    type Vcpu: Vcpu<Vendor = Self>;

    /// Whether this core can do what Cloister needs.
    ///
    /// # Errors
    /// Names the missing feature, its CPUID or MSR bit, and what to do.
    fn check() -> Result<(), Unsupported>;

    /// Turns virtualisation on for this core (VMXON, or EFER.SVME and
    /// VM_HSAVE_PA). Once per core, before any vCPU of it is made.
    ///
    /// # Errors
    /// When the pool is empty or the processor refuses.
    ///
    /// # Safety
    /// [`Vendor::check`] returned `Ok` on this core; no vCPU exists on it yet.
    unsafe fn enable(pool: &FramePool) -> Result<(), Unsupported>;

    /// Whether the nested page table maps 1 GiB pages, given whether the
    /// processor's own page tables do.
    fn nested_gib_pages(host: bool) -> bool {
        host
    }

    /// The types that firmware gave to memory, where the nested page table has
    /// to repeat them; `None` where the processor applies them to guests by
    /// itself, or where there are none.
    fn memory_types() -> Option<Mtrrs>;

    /// Waits in the hypervisor for an NMI, on a core that has been enabled
    /// (`arch::cpu::wait_for_nmi`; on AMD with GIF set around it). Returns at
    /// once if one has been noted and not taken.
    fn wait_for_nmi();

    /// Lets one pending external interrupt into the hypervisor, on a core that
    /// has been enabled (`arch::cpu::open_interrupt_window`); `percpu` notes
    /// its vector. RFLAGS.IF, and GIF on AMD, are off again afterwards.
    fn drain_interrupt();
}

/// Turns virtualisation on for the running core, and makes its one vCPU.
///
/// # Errors
/// As [`Vendor::check`], [`Vendor::enable`] and [`Vcpu::new`]; and when it was
/// called before on this core.
pub(crate) fn make_vcpu<V: Vendor>(
    config: &VcpuConfig<'_, V>,
    pool: &FramePool,
) -> Result<V::Vcpu, Unsupported> {
    if !percpu::this().begin_virtualisation() {
        return Err(Unsupported {
            what: "this core has a vCPU already",
            value: 0,
        });
    }
    V::check()?;
    // SAFETY: checked just now, and nobody has made a vCPU on this core.
    unsafe { V::enable(pool)? };
    V::Vcpu::new(config, pool)
}

/// Why this machine cannot run Cloister.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unsupported {
    /// What is missing, with the bit that says so.
    pub(crate) what: &'static str,
    /// The offending value (an MSR, a CPUID register), or 0.
    pub(crate) value: u64,
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (value {:#x})", self.what, self.value)
    }
}

/// MSR and I/O permission maps of one guest: which accesses exit.
/// A fresh map lets nothing through.
pub(crate) trait Permissions: Sized {
    /// A map in which every MSR and every port exits.
    fn new(pool: &FramePool) -> Option<Self>;
    /// Lets reads of MSR `index` through, or makes them exit. MSRs outside the
    /// vendor's bitmap ranges always exit; asking for one is ignored.
    fn set_msr_read(&mut self, index: u32, exits: bool);
    /// The same for writes.
    fn set_msr_write(&mut self, index: u32, exits: bool);
    /// Lets accesses to `port` through, or makes them exit.
    fn set_port(&mut self, port: u16, exits: bool);
}

/// What a vCPU is made from.
pub(crate) struct VcpuConfig<'a, V: Vendor> {
    /// Host-physical address of the nested page table's root.
    pub(crate) nested_root: u64,
    /// ASID or VPID, at least 1, unique to the guest.
    pub(crate) asid: u16,
    /// Shared by all cores of the guest. Lives as long as the hypervisor.
    pub(crate) permissions: &'a V::Permissions,
    /// Intercept what only a partition may not do: HLT is never intercepted;
    /// INVD/WBINVD, MOV DR and MONITOR/MWAIT follow this.
    pub(crate) kind: GuestKind,
}

/// Who runs on a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuestKind {
    /// The housekeeping guest.
    Linux,
    /// A dataplane partition.
    Partition,
}

/// General-purpose registers of a guest, in encoding order. `entry.rs` of both
/// vendors reads it by offset.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Registers {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 … R15.
    pub(crate) gpr: [u64; 16],
}

/// Indices into [`Registers::gpr`]: the encoding of the instruction set.
pub(crate) mod reg {
    /// How many there are.
    pub(crate) const GPRS: usize = 16;
    pub(crate) const RAX: usize = 0;
    pub(crate) const RCX: usize = 1;
    pub(crate) const RDX: usize = 2;
    pub(crate) const RBX: usize = 3;
    pub(crate) const RSP: usize = 4;
    pub(crate) const RBP: usize = 5;
    pub(crate) const RSI: usize = 6;
    pub(crate) const RDI: usize = 7;
}

/// Control registers and segment facts of a guest, read once where needed:
/// enough to walk its page tables and decode its instructions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode {
    pub(crate) cr0: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) efer: u64,
    /// Base of CS; 0 in 64-bit mode.
    pub(crate) cs_base: u64,
    /// CS.L: 64-bit code.
    pub(crate) cs_long: bool,
    /// CS.D: 32-bit code when not long.
    pub(crate) cs_default: bool,
    /// Current privilege level, 0 to 3.
    pub(crate) cpl: u8,
}

/// One virtual core, bound to one physical core.
pub(crate) trait Vcpu: Sized {
    /// Its vendor.
    type Vendor: Vendor<Vcpu = Self>;

    /// Makes a vCPU on this core, in the wait-for-start state.
    ///
    /// # Errors
    /// When the pool is empty or the processor refuses.
    fn new(config: &VcpuConfig<'_, Self::Vendor>, pool: &FramePool) -> Result<Self, Unsupported>;

    /// Resets the architectural state to that of ring-0 64-bit code with
    /// interrupts off: `entry.rip`, `rsp`, `cr3`, GPRs from `entry`. Segments
    /// flat (the hidden parts; GDTR at `entry.gdt`). What is pending to inject
    /// is dropped.
    fn reset_long(&mut self, entry: &LongEntry);

    /// Resets the architectural state to that after INIT and a SIPI with
    /// `vector` (Intel SDM vol. 3, table "IA-32 and Intel 64 Processor States
    /// Following Power-up, Reset, or INIT"): real mode at `vector << 12`.
    fn reset_sipi(&mut self, vector: u8);

    /// Enters the guest; returns at the next exit. Where something is to be
    /// done before that, it does nothing and returns [`Self::ATTENTION`]:
    /// [`Self::run_with_attention`] is to be called then.
    fn run(&mut self) -> Exited;
    /// Sees to what there is (events, flushes, the first entry), enters the
    /// guest, and returns at the next exit.
    fn run_with_attention(&mut self) -> Exited;
    /// The code that says so; no exit has it.
    const ATTENTION: u64;
    /// Makes every entry one with attention: for a core that is watched.
    fn set_watched(&mut self, on: bool);

    /// If the reason is one of [`Frequent`], has `server` serve the exit.
    /// `code` is what [`Self::run`] has just returned. In the hot path all of
    /// it is inlined: what serves an exit stands where it is decoded.
    ///
    /// # Errors
    /// `code` again, if it is none of them; then [`Self::exit`] knows.
    fn serve_frequent<S: Server<Self>>(server: &mut S, code: u64) -> Result<S::Output, u64>;
    /// Why, whatever it was; `None` if the vCPU has seen to it and there is
    /// nothing to tell.
    fn exit(&mut self, code: u64) -> Option<Exit>;

    /// The GPR with this encoding at the last exit, or what it was set to since.
    fn register(&self, index: usize) -> u64;
    /// Sets the GPR with this encoding for the next entry.
    fn set_register(&mut self, index: usize, value: u64);
    /// All GPRs: for where an instruction decides which one is meant. Where
    /// the index is known, [`Self::register`] is cheaper.
    fn registers(&mut self) -> &Registers;
    /// EDX:EAX as one value (WRMSR, XSETBV).
    #[inline]
    fn edx_eax(&self) -> u64 {
        self.register(reg::RDX) << 32 | (self.register(reg::RAX) & 0xffff_ffff)
    }

    /// Splits `value` over EDX:EAX (RDMSR); the upper halves become 0.
    fn set_edx_eax(&mut self, value: u64);
    /// Sets EAX, EBX, ECX and EDX (CPUID); the upper halves become 0.
    fn set_cpuid(&mut self, result: &Regs);

    /// Instruction pointer at the last exit. To be asked before it is moved.
    fn rip(&self) -> u64;
    /// RFLAGS at the last exit.
    fn rflags(&self) -> u64;
    /// The mode at the last exit.
    fn mode(&self) -> Mode;
    /// Current privilege level at the last exit, 0 to 3.
    fn cpl(&self) -> u8;
    /// Guest CR3 alone: cheaper than [`Self::mode`].
    fn cr3(&self) -> u64;

    /// Moves RIP past the instruction that exited: by the length that hardware
    /// reports, or, on a processor that reports none, by `length`, that of the
    /// opcode. Ends an interrupt shadow (STI, MOV SS).
    fn skip(&mut self, length: u8);
    /// The same for IN, OUT, INS and OUTS, whose length hardware always
    /// reports.
    fn skip_port(&mut self);
    /// Moves RIP by `length` bytes: for exits whose instruction was decoded.
    fn skip_by(&mut self, length: u8);
    /// Bytes of the exiting instruction that hardware fetched (AMD decode
    /// assists); empty when it did not.
    fn instruction_bytes(&self) -> &[u8];

    /// Injects `event` at the next entry. An event that is already waiting to
    /// be injected again (it was interrupted by the exit) is not overwritten
    /// by an NMI: the NMI then waits for the next entry that can take it.
    fn inject(&mut self, event: Event);

    /// EFER as the guest sees it (SVME hidden on AMD).
    fn efer(&self) -> u64;
    /// Writes EFER for the guest. The caller has checked reserved bits.
    fn set_efer(&mut self, value: u64);
    /// Guest PAT, where it is not passed through.
    fn pat(&self) -> u64;
    /// Sets the guest's PAT.
    fn set_pat(&mut self, value: u64);

    /// DEBUG: external interrupts exit (`true`) or go to the guest (`false`).
    fn set_interrupt_exiting(&mut self, on: bool);
    /// Drops this core's cached nested translations of its guest at the next
    /// entry.
    fn flush_nested(&mut self);

    /// The control words that prove what is off, by the manual's name: for the
    /// report.
    fn control_words(&self, sink: &mut dyn FnMut(&'static str, u64));
}

/// What serves everyday exits.
pub(crate) trait Server<C: Vcpu> {
    /// What it has to say.
    type Output;
    /// The vCPU that has exited.
    fn vcpu(&mut self) -> &mut C;
    /// Serves an exit of [`Self::vcpu`].
    fn serve(&mut self, exit: Frequent) -> Self::Output;
}

/// Serves nothing: says what the exit was.
pub(crate) struct Teller<'a, C>(pub(crate) &'a mut C);

impl<C: Vcpu> Server<C> for Teller<'_, C> {
    type Output = Frequent;

    fn vcpu(&mut self) -> &mut C {
        self.0
    }

    fn serve(&mut self, exit: Frequent) -> Frequent {
        exit
    }
}

/// State for [`Vcpu::reset_long`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LongEntry {
    pub(crate) rip: u64,
    pub(crate) rsp: u64,
    /// Guest-physical address of the top-level page table.
    pub(crate) cr3: u64,
    pub(crate) rdi: u64,
    pub(crate) rsi: u64,
    /// Guest-physical address and limit of a GDT whose selector 0x08 is 64-bit
    /// code, 0x10 data; for Linux (64-bit boot protocol) code is 0x10, data
    /// 0x18.
    pub(crate) gdt: u64,
    pub(crate) gdt_limit: u16,
    pub(crate) code_selector: u16,
    pub(crate) data_selector: u16,
}

/// What to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// An exception with its error code, if that vector has one.
    Exception { vector: u8, error: Option<u32> },
    /// A non-maskable interrupt.
    Nmi,
    /// An external interrupt that was taken from the local APIC (DEBUG).
    Interrupt { vector: u8 },
}

impl Event {
    /// #UD.
    pub(crate) const UD: Self = Self::Exception {
        vector: 6,
        error: None,
    };
    /// #GP(0).
    pub(crate) const GP: Self = Self::Exception {
        vector: 13,
        error: Some(0),
    };
}

/// How memory was accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Execute,
}

/// Why the guest was left, where it is a busy guest's everyday reason. Operands
/// that are in its registers (CPUID leaf, MSR index and value, hypercall
/// arguments) are read from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frequent {
    Cpuid,
    /// RDMSR; ECX = index.
    Rdmsr,
    /// WRMSR; ECX = index, EDX:EAX = value.
    Wrmsr,
    /// IN, OUT, INS, OUTS.
    Port(PortAccess),
    /// VMCALL or VMMCALL.
    Hypercall,
    /// A guest-physical access that the nested page table does not allow.
    /// `during_walk`: the access was made by a guest page-table walk.
    NestedPageFault {
        gpa: u64,
        access: Access,
        during_walk: bool,
    },
}

/// Why the guest was left. Total: whatever the processor reports maps to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Frequent(Frequent),
    /// XSETBV; ECX = index, EDX:EAX = value.
    Xsetbv,
    /// An intercepted exception. `fault_address` is CR2 for #PF, DR6 for #DB.
    Exception {
        vector: u8,
        error: Option<u32>,
        fault_address: u64,
    },
    /// An external interrupt is pending in the local APIC (AMD: not yet
    /// acknowledged) or was acknowledged with this vector (Intel).
    ExternalInterrupt {
        vector: Option<u8>,
    },
    /// An NMI arrived while the guest ran. The hypervisor's own NMI handler
    /// has run, or the vCPU has consumed it: it is no longer pending.
    Nmi,
    Init,
    /// SIPI in wait-for-SIPI state (VMX).
    Sipi {
        vector: u8,
    },
    TripleFault,
    /// HLT, MONITOR, MWAIT, PAUSE where intercepted.
    Halt,
    /// INVD or WBINVD.
    CacheControl,
    /// A control or debug register access that exits. `completed`: the vCPU
    /// has done what it takes and the guest goes on; otherwise the access is
    /// one that the guest may not make.
    ControlRegister {
        qualification: u64,
        completed: bool,
    },
    /// A VMX or SVM instruction other than the hypercall.
    Virtualization,
    TaskSwitch,
    MachineCheck,
    /// The processor refused to enter; `code` is its reason.
    EntryFailure {
        code: u64,
    },
    /// Nothing above; the raw exit code.
    Other {
        code: u64,
        qualification: u64,
    },
}

/// An exit as the processor reports it, and when it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exited {
    /// The vendor's code for the reason.
    pub(crate) code: u64,
    /// The time-stamp counter, as soon as it could be read.
    pub(crate) tsc: u64,
}

/// Operands of a port access, in one word that travels in a register: bits
/// 31:16 port, 6:4 width in bytes (1, 2 or 4), 2 INS or OUTS, 0 input. So does
/// AMD report it (APM vol. 2, 15.10.2 "IN and OUT Behavior").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortAccess(u32);

impl PortAccess {
    const INPUT: u32 = 1 << 0;
    const STRING: u32 = 1 << 2;
    const WIDTH_SHIFT: u32 = 4;

    /// Bits that have another meaning are ignored.
    #[inline]
    pub(crate) const fn from_word(word: u32) -> Self {
        Self(word)
    }

    /// An access to `width` bytes (1, 2 or 4) at `port`.
    #[inline]
    pub(crate) const fn new(port: u16, width: u8, input: bool, string: bool) -> Self {
        let kind = if input { Self::INPUT } else { 0 } | if string { Self::STRING } else { 0 };
        Self((port as u32) << 16 | (width as u32) << Self::WIDTH_SHIFT | kind)
    }

    #[inline]
    pub(crate) const fn port(self) -> u16 {
        let [.., low, high] = self.0.to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// Bytes: 1, 2 or 4.
    #[inline]
    pub(crate) const fn width(self) -> u8 {
        (self.0 >> Self::WIDTH_SHIFT).to_le_bytes()[0] & 7
    }

    #[inline]
    pub(crate) const fn is_input(self) -> bool {
        self.0 & Self::INPUT != 0
    }

    /// INS or OUTS.
    #[inline]
    pub(crate) const fn is_string(self) -> bool {
        self.0 & Self::STRING != 0
    }
}
