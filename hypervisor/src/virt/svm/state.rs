//! Reset states (AMD APM vol. 2, 14.1.3 "Processor Initialization State", and
//! the seam's [`LongEntry`]).

use super::vmcb::{ATTRIBUTE_DEFAULT, ATTRIBUTE_LONG, Save, Segment};
use super::{EFER_LMA, EFER_LME, EFER_NXE, EFER_SVME};
use crate::virt::{LongEntry, Registers, reg};

/// PAT at reset (AMD APM vol. 2, 7.8.2 "PAT Indexing").
pub(super) const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// Present, a code or data segment.
const PRESENT: u16 = 1 << 7 | 1 << 4;
const GRANULARITY: u16 = 1 << 11;
/// Code: execute, read, accessed.
const CODE: u16 = PRESENT | 0xb;
/// Data: read, write, accessed.
const DATA: u16 = PRESENT | 0x3;
/// Present LDT.
const LDT: u16 = 1 << 7 | 0x2;
/// Present, busy TSS of 64 (or 32) bits. QEMU's check of the I/O bitmap wants
/// it not busy: there port I/O from ring 3 faults until the guest has loaded a
/// TR of its own, as it does anyway where it has a TSS that allows any.
const BUSY_TSS: u16 = 1 << 7 | 0xb;

const CR0_PE: u64 = 1 << 0;
const CR0_MP: u64 = 1 << 1;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
/// RFLAGS bit 1 reads as one.
const RFLAGS_RESET: u64 = 1 << 1;
const DR6_RESET: u64 = 0xffff_0ff0;
const DR7_RESET: u64 = 0x400;

fn flat(selector: u16, attributes: u16) -> Segment {
    Segment {
        selector,
        attributes: attributes | GRANULARITY,
        limit: u32::MAX,
        base: 0,
    }
}

fn table(base: u64, limit: u16) -> Segment {
    Segment {
        limit: limit.into(),
        base,
        ..Segment::NULL
    }
}

fn real(selector: u16, attributes: u16) -> Segment {
    Segment {
        selector,
        attributes,
        limit: 0xffff,
        base: u64::from(selector) << 4,
    }
}

/// See [`crate::virt::Vcpu::reset_long`].
pub(super) fn reset_long(save: &mut Save, registers: &mut Registers, entry: &LongEntry) {
    // SAFETY: integers and arrays of integers: all zero is a valid `Save`.
    unsafe { core::ptr::write_bytes(save, 0, 1) };
    let data = flat(entry.data_selector, DATA | ATTRIBUTE_DEFAULT);
    save.cs = flat(entry.code_selector, CODE | ATTRIBUTE_LONG);
    save.ss = data;
    save.ds = data;
    save.es = data;
    save.fs = data;
    save.gs = data;
    save.gdtr = table(entry.gdt, entry.gdt_limit);
    save.idtr = table(0, 0);
    save.ldtr = Segment {
        attributes: LDT,
        ..Segment::NULL
    };
    save.tr = Segment {
        attributes: BUSY_TSS,
        ..Segment::NULL
    };
    save.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    save.cr3 = entry.cr3;
    save.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    save.efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SVME;
    save.pat = PAT_RESET;
    save.dr6 = DR6_RESET;
    save.dr7 = DR7_RESET;
    save.rflags = RFLAGS_RESET;
    save.rip = entry.rip;
    *registers = Registers::default();
    save.rsp = entry.rsp;
    registers.gpr[reg::RDI] = entry.rdi;
    registers.gpr[reg::RSI] = entry.rsi;
}

/// See [`crate::virt::Vcpu::reset_sipi`]. What INIT leaves alone stays: the
/// PAT, the system-call MSRs, KERNEL_GS_BASE, and the cache bits of CR0, which
/// are clear on every core that Cloister runs.
pub(super) fn reset_sipi(save: &mut Save, registers: &mut Registers, vector: u8) {
    let data = real(0, DATA);
    save.cs = real(u16::from(vector) << 8, CODE);
    save.ss = data;
    save.ds = data;
    save.es = data;
    save.fs = data;
    save.gs = data;
    save.gdtr = table(0, 0xffff);
    save.idtr = table(0, 0xffff);
    save.ldtr = real(0, LDT);
    save.tr = real(0, BUSY_TSS);
    save.cpl = 0;
    save.cr0 = CR0_ET;
    save.cr2 = 0;
    save.cr3 = 0;
    save.cr4 = 0;
    save.efer = EFER_SVME;
    save.dr6 = DR6_RESET;
    save.dr7 = DR7_RESET;
    save.rflags = RFLAGS_RESET;
    save.rip = 0;
    save.rax = 0;
    save.rsp = 0;
    *registers = Registers::default();
    // EDX holds family, model and stepping: CPUID Fn0000_0001 EAX.
    registers.gpr[reg::RDX] = raw_cpuid::cpuid!(1).eax.into();
}
