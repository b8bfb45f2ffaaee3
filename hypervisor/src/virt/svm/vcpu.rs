//! A virtual core: one VMCB and the registers that it has no place for.

use cloister_core::policy::cpuid::Regs;

use super::entry::{self, Area};
use super::event::VALID;
use super::interrupts::Interrupts;
use super::nmi::{DR6_SINGLE_STEP, Nmi, TRAP_FLAG};
use super::vmcb::{
    ATTRIBUTE_DEFAULT, ATTRIBUTE_LONG, AVIC_ENABLE, Clean, Intercept3, Intercept4, NP_ENABLE,
    TLB_FLUSH_ALL, TLB_FLUSH_GUEST, V_INTR_MASKING, V_IRQ,
};
use super::{EFER_LMA, EFER_SVME, Features, NO_MEMORY, Svm, exit, state};
use crate::arch::cpu;
use crate::arch::memory::FramePool;
use crate::virt::{
    Event, Exit, Exited, GuestKind, LongEntry, Mode, Registers, Server, Teller, Unsupported, Vcpu,
    VcpuConfig,
    reg::{self, GPRS},
};

/// RFLAGS.IF.
const INTERRUPT_FLAG: u64 = 1 << 9;
/// CR0.PE.
const PROTECTION_ENABLE: u64 = 1 << 0;
/// #DB and #AC, each of which could strike for ever while it is delivered.
const EXCEPTIONS: u32 = 1 << 1 | 1 << 17;

/// A virtual core, bound to the physical core it was made on.
pub(crate) struct SvmVcpu {
    pub(super) area: &'static mut Area,
    features: Features,
    /// [`Self::before_entry`] has something to do.
    pub(super) attention: bool,
    watched: bool,
    /// What was changed in the VMCB since the last entry.
    dirty: Clean,
    /// Drop the guest's translations at the next entry.
    flush: bool,
    /// The guest's next entry is its end.
    shutdown: bool,
    pub(super) nmi: Nmi,
    pub(super) interrupts: Interrupts,
}

impl Vcpu for SvmVcpu {
    type Vendor = Svm;

    fn new(config: &VcpuConfig<'_, Svm>, pool: &FramePool) -> Result<Self, Unsupported> {
        let features = Features::read();
        let asid = u32::from(config.asid);
        if asid == 0 || asid >= features.asids {
            return Err(Unsupported {
                what: "more guests than the processor has ASIDs (CPUID Fn8000_000A EBX): declare \
                       fewer partitions",
                value: asid.into(),
            });
        }
        let pages = size_of::<Area>().div_ceil(4096) as u64;
        let frame = pool.pages(pages, 4096).ok_or(NO_MEMORY)?;
        // SAFETY: integers and arrays of integers: all zero is a valid `Area`.
        let area = unsafe { frame.leak::<Area>() };
        // SAFETY: a vCPU is made on its own core, after `Vendor::enable` and
        // with this core's tables loaded.
        unsafe { entry::save_host(area) };

        let control = &mut area.vmcb.control;
        control.intercept_exceptions = EXCEPTIONS;
        control.intercept3 = Intercept3::NMI
            | Intercept3::INIT
            | Intercept3::CPUID
            | Intercept3::INVD
            | Intercept3::INVLPGA
            | Intercept3::IOIO_PROT
            | Intercept3::MSR_PROT
            | Intercept3::SHUTDOWN;
        control.intercept4 = Intercept4::VMRUN
            | Intercept4::VMMCALL
            | Intercept4::VMLOAD
            | Intercept4::VMSAVE
            | Intercept4::STGI
            | Intercept4::CLGI
            | Intercept4::SKINIT
            | Intercept4::XSETBV;
        if config.kind == GuestKind::Partition {
            control.intercept4 |= Intercept4::WBINVD | Intercept4::MONITOR | Intercept4::MWAIT;
            // Reads and writes of DR0 to DR15.
            control.intercept_dr = u32::MAX;
        }
        control.msrpm_base = config.permissions.msrpm();
        control.iopm_base = config.permissions.iopm();
        control.asid = asid;
        control.nested_control = NP_ENABLE;
        control.nested_cr3 = config.nested_root;
        area.vmcb.save.pat = state::PAT_RESET;

        let mut vcpu = Self {
            area,
            features,
            attention: true,
            watched: false,
            dirty: Clean::all(),
            flush: true,
            shutdown: false,
            nmi: Nmi::default(),
            interrupts: Interrupts::default(),
        };
        vcpu.reset_sipi(0);
        Ok(vcpu)
    }

    fn reset_long(&mut self, entry: &LongEntry) {
        let area = &mut *self.area;
        state::reset_long(&mut area.vmcb.save, &mut area.registers, entry);
        self.reset_control();
    }

    fn reset_sipi(&mut self, vector: u8) {
        let area = &mut *self.area;
        state::reset_sipi(&mut area.vmcb.save, &mut area.registers, vector);
        self.reset_control();
    }

    #[inline(always)]
    fn run(&mut self) -> Exited {
        if self.attention {
            return Exited {
                code: Self::ATTENTION,
                tsc: 0,
            };
        }
        self.enter()
    }

    fn run_with_attention(&mut self) -> Exited {
        if self.before_entry() {
            return Exited {
                code: exit::SHUTDOWN,
                tsc: cpu::tsc(),
            };
        }
        self.enter()
    }

    /// Exit codes end at 0x403, but for those with all upper bits set.
    const ATTENTION: u64 = 1 << 32;

    fn set_watched(&mut self, on: bool) {
        self.watched = on;
        self.attention = true;
    }

    #[inline(always)]
    fn serve_frequent<S: Server<Self>>(server: &mut S, code: u64) -> Result<S::Output, u64> {
        exit::serve_frequent(server, code)
    }

    #[cold]
    #[inline(never)]
    fn exit(&mut self, code: u64) -> Option<Exit> {
        match code {
            exit::NMI | exit::INIT => entry::take_pending(),
            exit::VINTR => {
                self.window_reached();
                return None;
            }
            exit::IRET => {
                self.iret_reached();
                return None;
            }
            exit::DEBUG_EXCEPTION if self.step_done() => return None,
            _ => {}
        }
        Some(match exit::serve_frequent(&mut Teller(self), code) {
            Ok(exit) => Exit::Frequent(exit),
            Err(code) => exit::rare(code, &self.area.vmcb),
        })
    }

    /// RAX and RSP are in the VMCB.
    #[inline(always)]
    fn register(&self, index: usize) -> u64 {
        match index {
            reg::RAX => self.area.vmcb.save.rax,
            reg::RSP => self.area.vmcb.save.rsp,
            _ => self.area.registers.gpr[index % GPRS],
        }
    }

    #[inline(always)]
    fn set_register(&mut self, index: usize, value: u64) {
        match index {
            reg::RAX => self.area.vmcb.save.rax = value,
            reg::RSP => self.area.vmcb.save.rsp = value,
            _ => self.area.registers.gpr[index % GPRS] = value,
        }
    }

    #[inline(always)]
    fn set_edx_eax(&mut self, value: u64) {
        let area = &mut *self.area;
        area.vmcb.save.rax = value & 0xffff_ffff;
        area.registers.gpr[reg::RDX] = value >> 32;
    }

    #[inline(always)]
    fn set_cpuid(&mut self, result: &Regs) {
        let area = &mut *self.area;
        area.vmcb.save.rax = result.eax.into();
        area.registers.gpr[reg::RBX] = result.ebx.into();
        area.registers.gpr[reg::RCX] = result.ecx.into();
        area.registers.gpr[reg::RDX] = result.edx.into();
    }

    fn registers(&mut self) -> &Registers {
        let area = &mut *self.area;
        area.registers.gpr[reg::RAX] = area.vmcb.save.rax;
        area.registers.gpr[reg::RSP] = area.vmcb.save.rsp;
        &area.registers
    }

    #[inline]
    fn rip(&self) -> u64 {
        self.area.vmcb.save.rip
    }

    #[inline]
    fn rflags(&self) -> u64 {
        self.area.vmcb.save.rflags
    }

    fn mode(&self) -> Mode {
        let save = &self.area.vmcb.save;
        let cs_long = save.efer & EFER_LMA != 0 && save.cs.attributes & ATTRIBUTE_LONG != 0;
        Mode {
            cr0: save.cr0,
            cr3: save.cr3,
            cr4: save.cr4,
            efer: self.efer(),
            cs_base: if cs_long { 0 } else { save.cs.base },
            cs_long,
            cs_default: save.cs.attributes & ATTRIBUTE_DEFAULT != 0,
            cpl: self.cpl(),
        }
    }

    #[inline(always)]
    fn cpl(&self) -> u8 {
        self.area.vmcb.save.cpl & 3
    }

    #[inline]
    fn cr3(&self) -> u64 {
        self.area.vmcb.save.cr3
    }

    #[inline(always)]
    fn skip(&mut self, length: u8) {
        let vmcb = &mut self.area.vmcb;
        if self.features.next_rip {
            vmcb.save.rip = vmcb.control.next_rip;
        } else {
            vmcb.save.rip = vmcb.save.rip.wrapping_add(length.into());
        }
        self.retire();
    }

    /// EXITINFO2 is the next RIP (AMD APM vol. 2, 15.10.2).
    #[inline(always)]
    fn skip_port(&mut self) {
        self.area.vmcb.save.rip = self.area.vmcb.control.exit_info2;
        self.retire();
    }

    #[inline]
    fn skip_by(&mut self, length: u8) {
        let save = &mut self.area.vmcb.save;
        save.rip = save.rip.wrapping_add(length.into());
        self.retire();
    }

    fn instruction_bytes(&self) -> &[u8] {
        if !self.features.decode_assists {
            return &[];
        }
        let control = &self.area.vmcb.control;
        let bytes = &control.instruction_bytes;
        bytes.get(..control.bytes_fetched.into()).unwrap_or(bytes)
    }

    fn inject(&mut self, event: Event) {
        self.inject_event(event);
    }

    fn efer(&self) -> u64 {
        self.area.vmcb.save.efer & !EFER_SVME
    }

    /// LMA follows LME and CR0.PG by hardware, and stays as it is here.
    fn set_efer(&mut self, value: u64) {
        let save = &mut self.area.vmcb.save;
        save.efer = (value & !EFER_LMA) | (save.efer & EFER_LMA) | EFER_SVME;
        self.touch(Clean::CRX);
    }

    fn pat(&self) -> u64 {
        self.area.vmcb.save.pat
    }

    fn set_pat(&mut self, value: u64) {
        self.area.vmcb.save.pat = value;
        self.touch(Clean::NP);
    }

    fn set_interrupt_exiting(&mut self, on: bool) {
        self.expose_interrupts(on);
    }

    fn flush_nested(&mut self) {
        self.flush = true;
        self.attention = true;
    }

    fn control_words(&self, sink: &mut dyn FnMut(&'static str, u64)) {
        let control = &self.area.vmcb.control;
        let bit = |mask| u64::from(control.virtual_interrupt & mask != 0);
        sink("INTERCEPT_CR", control.intercept_cr.into());
        sink("INTERCEPT_DR", control.intercept_dr.into());
        sink("INTERCEPT_EXCEPTIONS", control.intercept_exceptions.into());
        sink("INTERCEPT_VECTOR_3", control.intercept3.bits().into());
        sink("INTERCEPT_VECTOR_4", control.intercept4.bits().into());
        sink("INTERCEPT_VECTOR_5", control.intercept5.into());
        sink(
            "INTERCEPT_INTR",
            u64::from(control.intercept3.contains(Intercept3::INTR)),
        );
        sink("VINTR_CONTROL", control.virtual_interrupt);
        sink("V_IRQ", bit(V_IRQ));
        sink("V_INTR_MASKING", bit(V_INTR_MASKING));
        sink("AVIC_ENABLE", bit(AVIC_ENABLE));
        sink("NP_ENABLE", control.nested_control);
        sink("VIRTUAL_EXTENSIONS", control.virtual_extensions);
        sink("GUEST_ASID", control.asid.into());
        sink("TSC_OFFSET", control.tsc_offset);
    }
}

impl SvmVcpu {
    #[inline(always)]
    fn enter(&mut self) -> Exited {
        // SAFETY: the area is ours, `new` saved the host state, and the
        // nested page table holds no memory of the hypervisor.
        unsafe { entry::enter(&raw mut *self.area) };
        let tsc = cpu::tsc();
        if self.interrupted_event() & VALID != 0 {
            self.deliver_again();
        }
        let code = self.area.vmcb.control.exit_code;
        Exited { code, tsc }
    }

    /// Says that the parts `clean` of the VMCB have changed.
    pub(super) fn touch(&mut self, clean: Clean) {
        self.dirty |= clean;
        self.attention = true;
    }

    /// Turns an intercept on or off.
    pub(super) fn intercept(&mut self, which: Intercept3, on: bool) {
        self.area.vmcb.control.intercept3.set(which, on);
        self.touch(Clean::I);
    }

    /// The word that the next entry injects.
    pub(super) fn injection(&self) -> u64 {
        self.area.vmcb.control.event_injection
    }

    /// Sets it.
    pub(super) fn set_injection(&mut self, word: u64) {
        self.area.vmcb.control.event_injection = word;
    }

    /// Whether the next entry injects something.
    pub(super) fn event_waiting(&self) -> bool {
        self.injection() & VALID != 0
    }

    /// EXITINTINFO.
    pub(super) fn interrupted_event(&self) -> u64 {
        self.area.vmcb.control.exit_int_info
    }

    /// Whether CR0.PE is set: exceptions have error codes.
    pub(super) fn protected_mode(&self) -> bool {
        self.area.vmcb.save.cr0 & PROTECTION_ENABLE != 0
    }

    /// Whether the guest stands behind STI or MOV SS.
    pub(super) fn in_interrupt_shadow(&self) -> bool {
        self.area.vmcb.control.interrupt_shadow & 1 != 0
    }

    /// Whether the guest would take an external interrupt now.
    pub(super) fn interruptible(&self) -> bool {
        self.area.vmcb.save.rflags & INTERRUPT_FLAG != 0 && !self.in_interrupt_shadow()
    }

    /// The guest ends in place of its next entry.
    pub(super) fn shut_down(&mut self) {
        self.shutdown = true;
        self.attention = true;
    }

    /// What is rarely to be done before an entry. Returns whether there is no
    /// entry: the guest has shut down.
    #[cold]
    #[inline(never)]
    fn before_entry(&mut self) -> bool {
        if core::mem::take(&mut self.shutdown) {
            return true;
        }
        let nmi_waits = self.place_nmi();
        self.place_interrupt();
        let control = &mut self.area.vmcb.control;
        control.clean = if self.features.clean_bits {
            self.dirty.complement()
        } else {
            Clean::empty()
        };
        control.tlb_control = match (self.flush, self.features.flush_by_asid) {
            (false, _) => 0,
            (true, false) => TLB_FLUSH_ALL,
            (true, true) => TLB_FLUSH_GUEST,
        };
        // Once more before the entry after this one, to undo both.
        self.attention = nmi_waits || self.flush || !self.dirty.is_empty() || self.watched;
        self.flush = false;
        self.dirty = Clean::empty();
        false
    }

    /// An instruction has been emulated: its interrupt shadow is over, and a
    /// guest that steps itself gets its #DB.
    #[inline(always)]
    fn retire(&mut self) {
        self.area.vmcb.control.interrupt_shadow = 0;
        if self.area.vmcb.save.rflags & TRAP_FLAG != 0 {
            self.single_step();
        }
    }

    #[cold]
    #[inline(never)]
    fn single_step(&mut self) {
        self.area.vmcb.save.dr6 |= DR6_SINGLE_STEP;
        self.touch(Clean::DRX);
        self.inject_event(Event::Exception {
            vector: 1,
            error: None,
        });
    }

    /// What both resets do beside the guest's registers.
    fn reset_control(&mut self) {
        let control = &mut self.area.vmcb.control;
        control.interrupt_shadow = 0;
        control.event_injection = 0;
        self.shutdown = false;
        self.flush = true;
        self.reset_nmi();
        self.reset_interrupts();
        self.touch(Clean::all());
    }
}
