//! Single instructions that Rust has no word for.
//!
//! Control registers are read and written whole: the `x86` crate's accessors
//! drop bits that they do not know.

use core::arch::asm;

macro_rules! control_register {
    ($read:ident, $write:ident, $name:literal) => {
        #[doc = concat!("Reads ", $name, ".")]
        #[inline]
        pub(crate) fn $read() -> u64 {
            let value: u64;
            // SAFETY: reading a control register in ring 0 changes nothing.
            unsafe {
                asm!(concat!("mov {}, ", $name), out(reg) value,
                     options(nomem, nostack, preserves_flags));
            }
            value
        }

        #[doc = concat!("Writes ", $name, ".")]
        ///
        /// # Safety
        /// The value keeps the running code mapped, and the compiler's
        /// assumptions (long mode, paging) true.
        #[inline]
        pub(crate) unsafe fn $write(value: u64) {
            // SAFETY: see above; memory may be seen differently afterwards, so
            // no `nomem`.
            unsafe {
                asm!(concat!("mov ", $name, ", {}"), in(reg) value,
                     options(nostack, preserves_flags));
            }
        }
    };
}

control_register!(cr0, set_cr0, "cr0");
control_register!(cr2, set_cr2, "cr2");
control_register!(cr3, set_cr3, "cr3");
control_register!(cr4, set_cr4, "cr4");

/// Reads extended control register `index` (XCR0 is 0).
///
/// # Safety
/// CR4.OSXSAVE is set and the register exists.
pub(crate) unsafe fn xgetbv(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller vouches for the register.
    unsafe {
        asm!("xgetbv", in("ecx") index, out("eax") low, out("edx") high,
             options(nomem, nostack, preserves_flags));
    }
    (u64::from(high) << 32) | u64::from(low)
}

/// Writes extended control register `index`.
///
/// # Safety
/// CR4.OSXSAVE is set, and the value is one that the processor accepts
/// (Intel SDM vol. 1, "Enabling the XSAVE feature set").
pub(crate) unsafe fn xsetbv(index: u32, value: u64) {
    #[expect(clippy::cast_possible_truncation, reason = "split in halves")]
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: the caller vouches for the value.
    unsafe {
        asm!("xsetbv", in("ecx") index, in("eax") low, in("edx") high,
             options(nomem, nostack, preserves_flags));
    }
}

/// The time stamp counter.
#[inline]
pub(crate) fn tsc() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: RDTSC in ring 0 has no effect on memory; it clears the upper
    // halves of RAX and RDX.
    unsafe {
        asm!("rdtsc", out("rax") low, out("rdx") high, options(nomem, nostack, preserves_flags));
    }
    high << 32 | low
}

/// A hint that this is a spin loop.
#[inline]
pub(crate) fn pause() {
    core::hint::spin_loop();
}

/// Switches on what the hypervisor itself uses or lets guests use: CR4.OSXSAVE
/// for XGETBV and XSETBV (Intel SDM vol. 1, "Enabling the XSAVE Feature Set"),
/// and CR4.OSFXSR, without which FXSAVE areas would be cut short.
pub(crate) fn enable_features() {
    const OSFXSR: u64 = 1 << 9;
    const OSXSAVE: u64 = 1 << 18;
    let has_xsave = raw_cpuid::CpuId::new()
        .get_feature_info()
        .is_some_and(|features| features.has_xsave());
    let bits = if has_xsave { OSFXSR | OSXSAVE } else { OSFXSR };
    // SAFETY: adds features that change nothing for code that does not use
    // them.
    unsafe { set_cr4(cr4() | bits) };
}

/// Stops this core for good.
pub(crate) fn halt_forever() -> ! {
    loop {
        // SAFETY: with interrupts off HLT only waits.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Reads a byte from `port`.
///
/// # Safety
/// Reading the port does not disturb a device that somebody else drives.
pub(crate) unsafe fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: the caller vouches for the port.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value,
             options(nomem, nostack, preserves_flags));
    }
    value
}

/// Writes a byte to `port`.
///
/// # Safety
/// As [`inb`]; and the device does nothing to memory that Rust relies on.
pub(crate) unsafe fn outb(port: u16, value: u8) {
    // SAFETY: the caller vouches for the port.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value,
             options(nomem, nostack, preserves_flags));
    }
}

/// Reads `width` (1, 2 or 4) bytes from `port`; other widths read all ones.
///
/// # Safety
/// As [`inb`].
pub(crate) unsafe fn port_in(port: u16, width: u8) -> u32 {
    // SAFETY: the caller vouches for the port.
    unsafe {
        match width {
            1 => u32::from(inb(port)),
            2 => {
                let value: u16;
                asm!("in ax, dx", in("dx") port, out("ax") value,
                     options(nomem, nostack, preserves_flags));
                u32::from(value)
            }
            4 => {
                let value: u32;
                asm!("in eax, dx", in("dx") port, out("eax") value,
                     options(nomem, nostack, preserves_flags));
                value
            }
            _ => u32::MAX,
        }
    }
}

/// Writes the low `width` (1, 2 or 4) bytes of `value` to `port`; other widths
/// write nothing.
///
/// # Safety
/// As [`outb`].
#[expect(clippy::cast_possible_truncation, reason = "the width says how much")]
pub(crate) unsafe fn port_out(port: u16, width: u8, value: u32) {
    // SAFETY: the caller vouches for the port.
    unsafe {
        match width {
            1 => outb(port, value as u8),
            2 => asm!("out dx, ax", in("dx") port, in("ax") value as u16,
                      options(nomem, nostack, preserves_flags)),
            4 => asm!("out dx, eax", in("dx") port, in("eax") value,
                      options(nomem, nostack, preserves_flags)),
            _ => {}
        }
    }
}

/// Waits for an NMI; returns at once if one has been noted and not taken.
///
/// The NMI handler moves a core that it finds between the test and HLT past
/// the HLT (`.nmi_restart`), so none is slept through.
pub(crate) fn wait_for_nmi() {
    // SAFETY: GS is the hypervisor's; with interrupts off HLT only waits.
    unsafe {
        asm!(
            "2:",
            "cmp byte ptr gs:[{flag}], 0",
            "jne 3f",
            "hlt",
            "3:",
            ".pushsection .nmi_restart, \"a\"",
            ".quad 2b, 3b, 3b",
            ".popsection",
            flag = const crate::arch::percpu::NMI_OFFSET,
            options(nostack),
        );
    }
}

/// Lets one pending external interrupt in, if there is one.
pub(crate) fn open_interrupt_window() {
    // SAFETY: the IDT has a handler for every vector, which returns with
    // interrupts off; STI takes effect after the next instruction, so the
    // second NOP is where one comes in.
    unsafe { asm!("sti", "nop", "nop", "cli", options(nostack)) };
}

/// Disarms all breakpoints of this core (Intel SDM vol. 3, "Debug Control
/// Register (DR7)").
pub(crate) fn disarm_breakpoints() {
    const RESET: u64 = 0x400;
    // SAFETY: the hypervisor has no breakpoints of its own.
    unsafe { asm!("mov dr7, {}", in(reg) RESET, options(nomem, nostack, preserves_flags)) }
}

/// Base and limit of a descriptor table, as SGDT and SIDT store it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, packed)]
pub(crate) struct TablePointer {
    /// Bytes minus one.
    pub(crate) limit: u16,
    /// Linear address.
    pub(crate) base: u64,
}

/// GDTR.
pub(crate) fn gdtr() -> TablePointer {
    let mut pointer = TablePointer::default();
    // SAFETY: SGDT writes ten bytes to `pointer`, which has ten.
    unsafe {
        asm!("sgdt [{}]", in(reg) &raw mut pointer, options(nostack, preserves_flags));
    }
    pointer
}

/// IDTR.
pub(crate) fn idtr() -> TablePointer {
    let mut pointer = TablePointer::default();
    // SAFETY: SIDT writes ten bytes to `pointer`, which has ten.
    unsafe {
        asm!("sidt [{}]", in(reg) &raw mut pointer, options(nostack, preserves_flags));
    }
    pointer
}

/// The frame pointer of the caller, for backtraces.
#[inline(always)]
pub(crate) fn frame_pointer() -> u64 {
    let value: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}
