//! The virtual core: one VMCS, current on its core from its making on.

use cloister_core::policy::cpuid::Regs;

use super::control_registers::{Cr0, Cr4};
use super::controls::{Controls, EXTERNAL_INTERRUPT_EXITING, INTERRUPT_WINDOW, NMI_WINDOW};
use super::entry::{self, Context};
use super::event::{Events, blocked};
use super::vmcs::Vmcs;
use super::{Vmx, ept, exit, fields as f, host, state};
use crate::arch::memory::FramePool;
use crate::arch::{cpu, percpu};
use crate::virt::{
    Event, Exit, Exited, LongEntry, Mode, Registers, Server, Unsupported, Vcpu, VcpuConfig,
    reg::{self, GPRS},
};

/// #DB and #AC exit, so that a guest whose handler for them faults again the
/// same way cannot keep the core in microcode (CVE-2015-5307, CVE-2015-8104).
/// Machine checks go straight to the guest's own handler.
const EXCEPTION_BITMAP: u32 = 1 << 1 | 1 << 17;

/// Interruptibility: no interrupt between STI or MOV SS and the next
/// instruction.
const SHADOW: u32 = blocked::BY_STI | blocked::BY_MOV_SS;

/// RFLAGS.RF.
const RESUME_FLAG: u64 = 1 << 16;
/// EFER.LMA.
const EFER_LMA: u64 = 1 << 10;

// Access rights of a segment (SDM vol. 3, table "Format of Access Rights").
const RIGHTS_DPL_SHIFT: u32 = 5;
const RIGHTS_LONG: u32 = 1 << 13;
const RIGHTS_DEFAULT_BIG: u32 = 1 << 14;

/// A virtual core on VMX. It never leaves the core that made it.
pub(crate) struct VmxVcpu {
    pub(super) vmcs: Vmcs,
    pub(super) context: &'static mut Context,
    /// RIP at the last exit.
    pub(super) rip: u64,
    watched: bool,
    /// VMLAUNCH has succeeded: VMRESUME from now on.
    launched: bool,
    pub(super) events: Events,
    pub(super) cr0: Cr0,
    cr4: Cr4,
    /// Control words as the VMCS holds them.
    controls: Controls,
    eptp: u64,
    vpid: u16,
}

impl VmxVcpu {
    /// Enters the guest after seeing to what waits for it: events to inject,
    /// windows to open or close, the first launch.
    #[cold]
    #[inline(never)]
    pub(super) fn enter_with_events(&mut self) -> u64 {
        if self.events.take_shutdown() {
            return exit::reason::TRIPLE_FAULT;
        }
        let interruptibility = self.vmcs.read(f::INTERRUPTIBILITY);
        let selection = self
            .events
            .select(interruptibility, self.vmcs.read(f::RFLAGS));
        self.open_windows(selection.interrupt_window, selection.nmi_window);
        if let Some(event) = selection.inject {
            self.vmcs.write(f::ENTRY_EVENT, event.info);
            self.vmcs.write(f::ENTRY_ERROR, event.error);
            self.vmcs.write(f::ENTRY_LENGTH, event.length);
        }
        // SAFETY: the VMCS is current and complete (`new`).
        let outcome = unsafe {
            if self.launched {
                entry::resume_with_attention(self.context)
            } else {
                entry::launch_with_attention(self.context)
            }
        };
        if outcome >= exit::ENTRY_FAILED {
            self.vmcs.write(f::ENTRY_EVENT, 0);
        } else {
            self.launched = true;
            if let Some(event) = selection.inject {
                self.events.delivered(event);
            }
        }
        let attention = self.events.any() || !self.launched || self.watched;
        percpu::this().set_attention(attention);
        if outcome == entry::ABANDONED {
            return entry::NMI_NOTED;
        }
        outcome
    }

    fn open_windows(&mut self, interrupt: bool, nmi: bool) {
        let mut primary = self.controls.primary & !(INTERRUPT_WINDOW | NMI_WINDOW);
        if interrupt {
            primary |= INTERRUPT_WINDOW;
        }
        if nmi {
            primary |= NMI_WINDOW;
        }
        if primary != self.controls.primary {
            self.controls.primary = primary;
            // SAFETY: the windows only add exits; `Controls` allows them.
            unsafe { self.vmcs.write_critical(f::PRIMARY, primary) };
        }
    }

    /// Ends an interrupt shadow.
    #[cold]
    fn end_shadow(&self) {
        let state = self.vmcs.read(f::INTERRUPTIBILITY);
        self.vmcs.write(f::INTERRUPTIBILITY, state & !SHADOW);
    }

    /// Whether the guest runs 64-bit code.
    pub(super) fn is_64_bit(&self) -> bool {
        self.vmcs.read(f::EFER) & EFER_LMA != 0
            && self.vmcs.read(f::CS.access_rights) & RIGHTS_LONG != 0
    }

    /// Fills the control fields. All of them are written: VMCLEAR does not
    /// say what the others hold.
    fn write_controls(&self, config: &VcpuConfig<'_, Vmx>) {
        let [io_a, io_b] = config.permissions.io_bitmaps();
        let words = &self.controls;
        // SAFETY: the words keep the guest inside of its nested page table and
        // its permission maps, all of which live as long as the hypervisor.
        unsafe {
            self.vmcs.write_critical(f::PIN_BASED, words.pin_based);
            self.vmcs.write_critical(f::PRIMARY, words.primary);
            self.vmcs.write_critical(f::SECONDARY, words.secondary);
            self.vmcs.write_critical(f::EXIT_CONTROLS, words.exit);
            self.vmcs.write_critical(f::ENTRY_CONTROLS, words.entry);
            self.vmcs
                .write_critical(f::EXCEPTION_BITMAP, EXCEPTION_BITMAP);
            self.vmcs.write_critical(f::PAGE_FAULT_MASK, 0);
            self.vmcs.write_critical(f::PAGE_FAULT_MATCH, 0);
            self.vmcs.write_critical(f::CR3_TARGET_COUNT, 0);
            self.vmcs.write_critical(f::EXIT_MSR_STORE_COUNT, 0);
            self.vmcs.write_critical(f::EXIT_MSR_LOAD_COUNT, 0);
            self.vmcs.write_critical(f::ENTRY_MSR_LOAD_COUNT, 0);
            self.vmcs
                .write_critical(f::MSR_BITMAP, config.permissions.msr_bitmap());
            self.vmcs.write_critical(f::IO_BITMAP_A, io_a);
            self.vmcs.write_critical(f::IO_BITMAP_B, io_b);
            self.vmcs.write_critical(f::EPT_POINTER, self.eptp);
            self.vmcs.write_critical(f::VPID, self.vpid);
            if words.has_xss_bitmap() {
                self.vmcs.write_critical(f::XSS_EXITING_BITMAP, 0);
            }
        }
    }

    /// What every reset does besides the guest state.
    fn start_over(&mut self) {
        self.events = Events::default();
        percpu::this().set_attention(true);
        self.rip = self.vmcs.read(f::RIP);
        self.context.registers = Registers::default();
        // SAFETY: VMX root operation; the types were checked (`ept::check`).
        unsafe { ept::flush_vpid(self.vpid) };
    }
}

impl Vcpu for VmxVcpu {
    type Vendor = Vmx;

    fn new(config: &VcpuConfig<'_, Vmx>, pool: &FramePool) -> Result<Self, Unsupported> {
        // SAFETY: a vCPU is made on a core that has been checked and enabled.
        let (vmcs, controls, cr0, cr4) = unsafe {
            (
                Vmcs::load(pool, super::vmcs_revision())?,
                Controls::new(config.kind)?,
                Cr0::new(),
                Cr4::new(),
            )
        };
        let page = pool.page().ok_or(Unsupported {
            what: "no memory left for a virtual core: raise [hypervisor] memory",
            value: 0,
        })?;
        let mut vcpu = Self {
            vmcs,
            // SAFETY: zeros are valid integers.
            context: unsafe { page.leak() },
            rip: 0,
            watched: false,
            launched: false,
            events: Events::default(),
            cr0,
            cr4,
            controls,
            eptp: ept::pointer(config.nested_root),
            vpid: config.asid,
        };
        vcpu.write_controls(config);
        // SAFETY: this core has its own tables, and `context` is the one that
        // the VMCS is entered with.
        unsafe { host::save(&vcpu.vmcs, vcpu.context) };
        state::initial(&vcpu.vmcs);
        vcpu.reset_sipi(0);
        Ok(vcpu)
    }

    fn reset_long(&mut self, entry: &LongEntry) {
        state::reset_long(&self.vmcs, &self.cr0, &self.cr4, entry);
        self.start_over();
        self.context.registers.gpr[reg::RDI] = entry.rdi;
        self.context.registers.gpr[reg::RSI] = entry.rsi;
    }

    fn reset_sipi(&mut self, vector: u8) {
        state::reset_sipi(&self.vmcs, &self.cr0, &self.cr4, vector);
        self.start_over();
        // After INIT, EDX holds the processor's signature.
        let signature = super::controls::leaf(1, 0).eax;
        self.context.registers.gpr[reg::RDX] = signature.into();
    }

    #[inline(always)]
    fn run(&mut self) -> Exited {
        // SAFETY: the VMCS is current and complete; before it is launched,
        // there is something to be done.
        let code = unsafe { entry::resume(self.context) };
        let tsc = cpu::tsc();
        self.rip = self.vmcs.read_again(f::RIP);
        Exited { code, tsc }
    }

    fn run_with_attention(&mut self) -> Exited {
        let code = self.enter_with_events();
        let tsc = cpu::tsc();
        self.rip = self.vmcs.read(f::RIP);
        Exited { code, tsc }
    }

    const ATTENTION: u64 = entry::ABANDONED;

    fn set_watched(&mut self, on: bool) {
        self.watched = on;
        percpu::this().set_attention(true);
    }

    #[inline(always)]
    fn serve_frequent<S: Server<Self>>(server: &mut S, code: u64) -> Result<S::Output, u64> {
        exit::serve_frequent(server, code)
    }

    #[cold]
    #[inline(never)]
    fn exit(&mut self, code: u64) -> Option<Exit> {
        self.decode(code)
    }

    /// RSP is in the VMCS.
    #[inline(always)]
    fn register(&self, index: usize) -> u64 {
        match index {
            reg::RSP => self.vmcs.read(f::RSP),
            _ => self.context.registers.gpr[index % GPRS],
        }
    }

    #[inline(always)]
    fn set_register(&mut self, index: usize, value: u64) {
        match index {
            reg::RSP => self.vmcs.write(f::RSP, value),
            _ => self.context.registers.gpr[index % GPRS] = value,
        }
    }

    #[inline(always)]
    fn set_edx_eax(&mut self, value: u64) {
        let gpr = &mut self.context.registers.gpr;
        gpr[reg::RAX] = value & 0xffff_ffff;
        gpr[reg::RDX] = value >> 32;
    }

    #[inline(always)]
    fn set_cpuid(&mut self, result: &Regs) {
        let gpr = &mut self.context.registers.gpr;
        gpr[reg::RAX] = result.eax.into();
        gpr[reg::RBX] = result.ebx.into();
        gpr[reg::RCX] = result.ecx.into();
        gpr[reg::RDX] = result.edx.into();
    }

    #[inline(always)]
    fn registers(&mut self) -> &Registers {
        self.context.registers.gpr[reg::RSP] = self.vmcs.read(f::RSP);
        &self.context.registers
    }

    #[inline(always)]
    fn rip(&self) -> u64 {
        self.rip
    }

    fn rflags(&self) -> u64 {
        self.vmcs.read(f::RFLAGS)
    }

    fn mode(&self) -> Mode {
        let code = self.vmcs.read(f::CS.access_rights);
        let efer = self.vmcs.read(f::EFER);
        Mode {
            cr0: self.cr0.guest_value(&self.vmcs),
            cr3: self.cr3(),
            cr4: self.cr4.guest_value(&self.vmcs),
            efer,
            cs_base: self.vmcs.read(f::CS.base),
            cs_long: code & RIGHTS_LONG != 0 && efer & EFER_LMA != 0,
            cs_default: code & RIGHTS_DEFAULT_BIG != 0,
            cpl: self.cpl(),
        }
    }

    /// SDM vol. 3, "Guest Register State": the CPL is SS.DPL.
    #[inline(always)]
    fn cpl(&self) -> u8 {
        let stack = self.vmcs.read_again(f::SS.access_rights);
        (stack >> RIGHTS_DPL_SHIFT).to_le_bytes()[0] & 3
    }

    fn cr3(&self) -> u64 {
        self.vmcs.read(f::CR3)
    }

    /// A guest that single-steps (RFLAGS.TF) gets the #DB for the skipped
    /// instruction behind the one after it: finding out would cost every exit
    /// a VMREAD.
    #[inline(always)]
    fn skip(&mut self, _: u8) {
        let length = self.vmcs.read_again(f::INSTRUCTION_LENGTH);
        self.vmcs.write_again(f::RIP, self.rip.wrapping_add(length));
        if self.vmcs.read_again(f::INTERRUPTIBILITY) & u64::from(SHADOW) != 0 {
            self.end_shadow();
        }
    }

    #[inline(always)]
    fn skip_port(&mut self) {
        self.skip(0);
    }

    fn skip_by(&mut self, length: u8) {
        self.vmcs
            .write(f::RIP, self.rip.wrapping_add(length.into()));
        self.end_shadow();
    }

    /// VMX does not hand out the instruction's bytes.
    fn instruction_bytes(&self) -> &[u8] {
        &[]
    }

    fn inject(&mut self, event: Event) {
        if let Event::Exception {
            vector: 0 | 5..=7 | 10..=14 | 16 | 17 | 19..=21,
            ..
        } = event
        {
            // A fault saves RFLAGS with RF set (SDM vol. 3, "Masking
            // Instruction Breakpoints"); an injected one saves them as they
            // stand.
            let rflags = self.vmcs.read(f::RFLAGS);
            self.vmcs.write(f::RFLAGS, rflags | RESUME_FLAG);
        }
        self.events.add(event);
        percpu::this().set_attention(true);
    }

    fn efer(&self) -> u64 {
        self.vmcs.read(f::EFER)
    }

    /// LMA is the processor's own: it follows CR0.PG and LME.
    fn set_efer(&mut self, value: u64) {
        let lma = self.vmcs.read(f::EFER) & EFER_LMA;
        self.vmcs.write(f::EFER, value & !EFER_LMA | lma);
    }

    fn pat(&self) -> u64 {
        self.vmcs.read(f::PAT)
    }

    fn set_pat(&mut self, value: u64) {
        self.vmcs.write(f::PAT, value);
    }

    /// The interrupt stays pending in the local APIC at the exit.
    fn set_interrupt_exiting(&mut self, on: bool) {
        let word = self.controls.pin_based & !EXTERNAL_INTERRUPT_EXITING;
        self.controls.pin_based = if on {
            word | EXTERNAL_INTERRUPT_EXITING
        } else {
            word
        };
        // SAFETY: interrupts that exit stay in the hypervisor's hands.
        unsafe {
            self.vmcs
                .write_critical(f::PIN_BASED, self.controls.pin_based);
        }
    }

    fn flush_nested(&mut self) {
        // SAFETY: VMX root operation; the types were checked (`ept::check`).
        unsafe { ept::flush_ept(self.eptp) };
    }

    fn control_words(&self, sink: &mut dyn FnMut(&'static str, u64)) {
        sink("pin-based", self.vmcs.read(f::PIN_BASED).into());
        sink("primary processor-based", self.vmcs.read(f::PRIMARY).into());
        sink(
            "secondary processor-based",
            self.vmcs.read(f::SECONDARY).into(),
        );
        sink("exit", self.vmcs.read(f::EXIT_CONTROLS).into());
        sink("entry", self.vmcs.read(f::ENTRY_CONTROLS).into());
    }
}
