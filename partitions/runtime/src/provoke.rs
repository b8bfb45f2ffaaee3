//! Single instructions that leave to the hypervisor or raise an exception, each
//! with a recovery: for programs that test the hypervisor.
//!
//! All are safe functions: what they reach for is either nothing that Rust
//! relies on, or they refuse it. They are never inlined, so that a backtrace
//! names them.

use core::arch::asm;
use core::fmt;

use crate::fault::Fault;
use crate::paging::{self, MapError};
use crate::{cpu, idt, start};

/// Address of the local APIC's registers after reset (Intel SDM vol. 3, 10.4.1).
pub const APIC_BASE: u64 = 0xfee0_0000;
/// Offset of the EOI register (Intel SDM vol. 3, table 10-1).
const APIC_EOI: u64 = 0xb0;

/// Runs an instruction; if it faults, goes on behind it. `$label` is where a
/// handler would return to: `2b` (at the instruction) for faults, `3f` (behind
/// it) for traps.
macro_rules! recover {
    ($instruction:literal, $label:literal $(, $operand:ident($($kind:tt)*) $value:expr $(=> $out:tt)?)*) => {{
        let mut r10 = 0u64;
        asm!(
            "2:", $instruction, "3:",
            ".pushsection .recovery, \"a\"",
            concat!(".quad ", $label, ", 3b"),
            ".popsection",
            $($operand($($kind)*) $value $(=> $out)?,)*
            inout("r10") r10,
            options(nostack),
        );
        match Fault::decode(r10) {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }};
}
pub(crate) use recover;

/// RDMSR.
///
/// # Errors
/// The exception: #GP for an MSR that is denied or does not exist.
#[inline(never)]
pub fn read_msr(index: u32) -> Result<u64, Fault> {
    let (mut low, mut high) = (0u64, 0u64);
    // SAFETY: reading an MSR changes nothing that Rust relies on.
    unsafe { recover!("rdmsr", "2b", in("ecx") index, inout("rax") low, inout("rdx") high) }?;
    Ok((high << 32) | low)
}

/// Whether [`write_msr`] writes MSR `index`: not those that hold addresses or
/// modes of this program.
#[must_use]
pub const fn may_write_msr(index: u32) -> bool {
    matches!(index,
        0x10 | 0x3a | 0x8b | 0xe7 | 0xe8 | 0x199      // TSC, feature control, microcode, *PERF, P-state
        | 0x480..=0x491                               // VMX capabilities: read-only
        | 0x800..=0x8ff                               // x2APIC
        | 0xc000_0103                                 // TSC_AUX
        | 0xc001_0114..=0xc001_0118) // SVM: VM_CR, IGNNE, SMM_CTL, VM_HSAVE_PA, SVM_KEY
}

/// Why [`write_msr`] did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// [`may_write_msr`] says no. Nothing was executed.
    Refused,
    /// WRMSR raised this.
    Fault(Fault),
}

/// WRMSR of 0.
///
/// # Errors
/// See [`WriteError`]; #GP for an MSR that is denied or does not exist.
#[inline(never)]
pub fn write_msr(index: u32) -> Result<(), WriteError> {
    if !may_write_msr(index) {
        return Err(WriteError::Refused);
    }
    // SAFETY: none of these MSRs changes how this program's memory is reached.
    unsafe { recover!("wrmsr", "2b", in("ecx") index, in("rax") 0u64, in("rdx") 0u64) }
        .map_err(WriteError::Fault)
}

/// IN of one byte.
///
/// # Errors
/// The exception it raised.
#[inline(never)]
pub fn read_port(port: u16) -> Result<u8, Fault> {
    let mut value = 0u8;
    // SAFETY: no device writes memory because a port is read.
    unsafe { recover!("in al, dx", "2b", in("dx") port, inout("al") value) }?;
    Ok(value)
}

/// OUT of one byte, 0.
///
/// # Errors
/// The exception it raised.
#[inline(never)]
pub fn write_port(port: u16) -> Result<(), Fault> {
    // SAFETY: a port that the partition was not given drops the write, and no
    // driver runs in a program that calls this.
    unsafe { recover!("out dx, al", "2b", in("dx") port, in("al") 0u8) }
}

/// Sets CR4.OSXSAVE, without which [`xsetbv`] is #UD and no exit.
///
/// # Errors
/// #GP on a processor without XSAVE.
pub fn enable_xsave() -> Result<(), Fault> {
    let cr4: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags)) }
    // SAFETY: allows XGETBV, XSETBV and the XSAVE family, nothing else.
    unsafe { recover!("mov cr4, rax", "2b", in("rax") cr4 | 1 << 18) }
}

/// XSETBV of what XCR0 holds.
///
/// # Errors
/// #UD before [`enable_xsave`].
#[inline(never)]
pub fn xsetbv() -> Result<(), Fault> {
    let (mut low, mut high) = (0u64, 0u64);
    // SAFETY: reads a register.
    unsafe { recover!("xgetbv", "2b", in("ecx") 0u32, inout("rax") low, inout("rdx") high) }?;
    // SAFETY: writes back what was read.
    unsafe { recover!("xsetbv", "2b", in("ecx") 0u32, in("rax") low, in("rdx") high) }
}

/// An instruction of the other world: VMRUN on AMD, VMXON on Intel.
///
/// # Errors
/// #UD, which is what a guest gets.
#[inline(never)]
pub fn virtualization() -> Result<(), Fault> {
    if start::hypercall_is_vmmcall() {
        // SAFETY: a guest without SVM gets #UD (vmrun rax).
        unsafe { recover!(".byte 0x0f, 0x01, 0xd8", "2b", in("rax") 0u64) }
    } else {
        // SAFETY: a guest without VMX gets #UD (vmxon [rsp]).
        unsafe { recover!(".byte 0xf3, 0x0f, 0xc7, 0x34, 0x24", "2b") }
    }
}

/// WBINVD.
///
/// # Errors
/// The exception it raised.
#[inline(never)]
pub fn wbinvd() -> Result<(), Fault> {
    // SAFETY: writes caches back.
    unsafe { recover!("wbinvd", "2b") }
}

/// INVD.
///
/// # Errors
/// The exception it raised.
#[inline(never)]
pub fn invd() -> Result<(), Fault> {
    // SAFETY: the hypervisor never lets a partition throw caches away.
    unsafe { recover!("invd", "2b") }
}

/// MOV from DR7.
///
/// # Errors
/// The exception it raised.
#[inline(never)]
pub fn read_dr7() -> Result<(), Fault> {
    // SAFETY: reads a register.
    unsafe { recover!("mov rax, dr7", "2b", inout("rax") 0u64 => _) }
}

/// MONITOR of a byte on the stack.
///
/// # Errors
/// #UD on a processor without it.
#[inline(never)]
pub fn monitor() -> Result<(), Fault> {
    let byte = 0u8;
    // SAFETY: arms the monitor; nothing waits for it.
    unsafe { recover!("monitor", "2b", in("rax") &raw const byte, in("ecx") 0u32, in("edx") 0u32) }
}

/// Reads the byte at guest-physical `address`, which is mapped for it first.
///
/// # Errors
/// Why it was not mapped, or the exception. Memory that is not the
/// partition's ends the partition instead.
#[inline(never)]
pub fn read_physical(address: u64) -> Result<u8, ReadError> {
    paging::map_device_page(address).map_err(ReadError::Map)?;
    let mut value = 0u8;
    // SAFETY: only loads a byte, which Rust code elsewhere may be changing:
    // the value means nothing to anybody.
    unsafe { recover!("mov al, [rdx]", "2b", in("rdx") address, inout("al") value) }
        .map_err(ReadError::Fault)?;
    Ok(value)
}

/// Why [`read_physical`] read nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The page was not mapped.
    Map(MapError),
    /// The read raised this.
    Fault(Fault),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => error.fmt(f),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

/// Writes 0 to the EOI register of the local APIC at [`APIC_BASE`], which
/// [`paging::map_device_page`] must have mapped.
///
/// # Errors
/// #PF when it is not mapped.
#[inline(never)]
pub fn write_apic_eoi() -> Result<(), Fault> {
    // SAFETY: the page is the local APIC's; without one the partition ends.
    unsafe {
        recover!("mov dword ptr [rdx], eax", "2b", in("rdx") APIC_BASE + APIC_EOI, in("eax") 0u32)
    }
}

/// INT3. The #BP is what it returns as an error.
///
/// # Errors
/// Always, unless the processor or the hypervisor swallowed the exception.
#[inline(never)]
pub fn breakpoint() -> Result<(), Fault> {
    // SAFETY: a trap, which resumes behind the instruction.
    unsafe { recover!("int3", "3b") }
}

/// A single step by RFLAGS.TF, which is set for one instruction. The #DB is
/// what it returns as an error.
///
/// # Errors
/// Always, unless the processor or the hypervisor swallowed the exception.
#[inline(never)]
pub fn single_step() -> Result<(), Fault> {
    let mut r10 = 0u64;
    // SAFETY: the second POPFQ restores the flags; the trap comes behind it.
    unsafe {
        asm!(
            "pushfq",
            "pushfq",
            "or qword ptr [rsp], 0x100",
            "popfq",
            "popfq",
            "3:",
            ".pushsection .recovery, \"a\"",
            ".quad 3b, 3b",
            ".popsection",
            inout("r10") r10,
        );
    }
    match Fault::decode(r10) {
        Some(fault) => Err(fault),
        None => Ok(()),
    }
}

/// A division by 0. The #DE is what it returns as an error.
///
/// # Errors
/// Always, unless the processor or the hypervisor swallowed the exception.
#[inline(never)]
pub fn divide_by_zero() -> Result<(), Fault> {
    // SAFETY: faults before it changes anything.
    unsafe {
        recover!("div ecx", "2b", in("ecx") 0u32, inout("eax") 1u32 => _, inout("edx") 0u32 => _)
    }
}

/// UD2 without a recovery: an exception that the program did not foresee.
#[inline(never)]
pub fn crash() -> ! {
    // SAFETY: raises #UD, and does not come back.
    unsafe { asm!("ud2", options(noreturn)) }
}

/// An exception without a table of handlers.
#[inline(never)]
pub fn triple_fault() -> ! {
    idt::load_empty();
    crash()
}

/// HLT with interrupts off: nothing but an NMI wakes this core.
#[inline(never)]
pub fn halt() -> ! {
    cpu::cli();
    loop {
        // SAFETY: waits.
        unsafe { asm!("hlt", options(nomem, nostack, preserves_flags)) }
    }
}

/// First address behind the program's image.
#[must_use]
pub fn image_end() -> u64 {
    start::image().end
}

/// Reads a byte of each page from 4 KiB to the end of the image and of each
/// page that the partition shares with the hypervisor, so that no later
/// access to them is a first one.
///
/// # Errors
/// The first page that could not be read.
pub fn touch_own_pages(partition: &crate::Partition) -> Result<(), ReadError> {
    let info = partition.info();
    let page = |address: u64| read_physical(address).map(|_| ());
    for address in (0x1000..image_end()).step_by(0x1000) {
        page(address)?;
    }
    page((&raw const *info).addr() as u64)?;
    let counters = size_of::<cloister_abi::CoreCounters>() as u64 * u64::from(info.cores);
    let console = size_of::<cloister_abi::shared::ConsoleRing>() as u64;
    for (start, length) in [(info.counters_gpa, counters), (info.console_gpa, console)] {
        for address in (start..start.saturating_add(length)).step_by(0x1000) {
            page(address)?;
        }
    }
    Ok(())
}
