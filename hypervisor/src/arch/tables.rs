//! GDT, TSS and IDT (Intel SDM vol. 3, "Protected-Mode Memory Management" and
//! "Task Management in 64-bit Mode"; AMD APM vol. 2, ch. 4 and 12).

use core::arch::asm;
use core::cell::UnsafeCell;

use spin::Once;

use crate::arch::cpu::TablePointer;
use crate::arch::fault;

/// 64-bit ring-0 code.
pub(crate) const CODE: u16 = 0x08;
/// Flat ring-0 data.
pub(crate) const DATA: u16 = 0x10;
/// This core's TSS; its descriptor fills two slots.
pub(crate) const TSS: u16 = 0x18;

/// Bytes of each stack that the TSS names.
const IST_STACK: usize = 8 * 1024;

/// IST slots: an exception that may strike with a broken stack has its own.
#[derive(Clone, Copy)]
pub(crate) enum Ist {
    /// On the stack in use.
    None = 0,
    /// #DF.
    DoubleFault = 1,
    /// NMI.
    Nmi = 2,
    /// #MC.
    MachineCheck = 3,
}

/// 64-bit TSS (Intel SDM vol. 3, figure "64-Bit TSS Format").
#[repr(C, packed(4))]
struct TaskState {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    iomap_base: u16,
}

const _: () = assert!(size_of::<TaskState>() == 104);

#[repr(C, align(16))]
struct Stack([u8; IST_STACK]);

/// One core's descriptor tables and exception stacks.
#[repr(C, align(16))]
pub(crate) struct CoreTables {
    gdt: UnsafeCell<[u64; 5]>,
    tss: UnsafeCell<TaskState>,
    stacks: [UnsafeCell<Stack>; 3],
}

// SAFETY: written only by `load`, on the core that owns it; afterwards the
// processor alone uses it.
unsafe impl Sync for CoreTables {}

impl CoreTables {
    /// Tables that `load` fills.
    pub(crate) const fn new() -> Self {
        Self {
            gdt: UnsafeCell::new([0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0, 0]),
            tss: UnsafeCell::new(TaskState {
                reserved0: 0,
                rsp: [0; 3],
                reserved1: 0,
                ist: [0; 7],
                reserved2: 0,
                reserved3: 0,
                iomap_base: 104,
            }),
            stacks: [const { UnsafeCell::new(Stack([0; IST_STACK])) }; 3],
        }
    }
}

/// Loads GDT, segments, TSS and IDT.
///
/// # Safety
/// `tables` belongs to this core and has not been loaded before. The GS base
/// is lost.
pub(crate) unsafe fn load(tables: &'static CoreTables) {
    // SAFETY: nobody else uses `tables` (the caller's promise).
    let (gdt, tss) = unsafe { (&mut *tables.gdt.get(), &mut *tables.tss.get()) };
    for (slot, stack) in tables.stacks.iter().enumerate() {
        tss.ist[slot] = stack.get() as u64 + IST_STACK as u64;
    }
    let base = core::ptr::from_mut(tss) as u64;
    // Type 9: available 64-bit TSS, present, limit 103.
    gdt[3] = 103 | (base & 0x00ff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    gdt[4] = base >> 32;
    let gdtr = TablePointer {
        limit: 39,
        base: gdt.as_ptr() as u64,
    };
    let idt = IDT.call_once(build_idt);
    let idtr = TablePointer {
        limit: 4095,
        base: core::ptr::from_ref(idt) as u64,
    };
    // SAFETY: both tables are complete and live for ever; the far return loads
    // CS from the new GDT and continues at the next line.
    unsafe {
        asm!(
            "lgdt [{gdtr}]",
            "lidt [{idtr}]",
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov ss, {data:e}",
            "mov fs, {zero:e}",
            "mov gs, {zero:e}",
            "lldt {zero:x}",
            "ltr {tss:x}",
            gdtr = in(reg) &raw const gdtr,
            idtr = in(reg) &raw const idtr,
            code = const CODE as u64,
            scratch = out(reg) _,
            data = in(reg) u32::from(DATA),
            zero = in(reg) 0_u32,
            tss = in(reg) u32::from(TSS),
        );
    }
}

/// One IDT gate, 64-bit interrupt gate.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Gate {
    low: u64,
    high: u64,
}

#[repr(C, align(4096))]
struct Idt([Gate; 256]);

static IDT: Once<Idt> = Once::new();

fn build_idt() -> Idt {
    let mut idt = Idt([Gate { low: 0, high: 0 }; 256]);
    for (vector, gate) in idt.0.iter_mut().enumerate() {
        let ist = match vector {
            2 => Ist::Nmi,
            8 => Ist::DoubleFault,
            18 => Ist::MachineCheck,
            _ => Ist::None,
        };
        let handler = fault::stub(vector);
        gate.low = (handler & 0xffff)
            | u64::from(CODE) << 16
            | (ist as u64) << 32
            | 0x8e << 40
            | (handler >> 16 & 0xffff) << 48;
        gate.high = handler >> 32;
    }
    idt
}
