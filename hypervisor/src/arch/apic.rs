//! This core's local APIC, in whichever mode it is (Intel SDM vol. 3,
//! "Advanced Programmable Interrupt Controller"; AMD APM vol. 2, ch. 16).

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cloister_abi::trace::InterruptKind;
use cloister_core::lvt;
use raw_cpuid::CpuId;
use x86::msr::IA32_APIC_BASE;

use crate::arch::{cpu, msr, percpu};

/// IA32_APIC_BASE: x2APIC mode.
pub(crate) const BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE: enabled.
const BASE_ENABLE: u64 = 1 << 11;
/// IA32_APIC_BASE: address bits.
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Registers, as xAPIC offsets; in x2APIC mode the MSR is
/// `0x800 + offset / 16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Register {
    Id = 0x20,
    TaskPriority = 0x80,
    Eoi = 0xb0,
    LogicalDestination = 0xd0,
    DestinationFormat = 0xe0,
    SpuriousVector = 0xf0,
    InService = 0x100,
    Request = 0x200,
    LvtCmci = 0x2f0,
    Icr = 0x300,
    IcrHigh = 0x310,
    LvtTimer = 0x320,
    LvtThermal = 0x330,
    LvtPerformance = 0x340,
    LvtLint0 = 0x350,
    LvtLint1 = 0x360,
    LvtError = 0x370,
    TimerInitialCount = 0x380,
    TimerCurrentCount = 0x390,
}

/// LVT entry: masked.
pub(crate) const LVT_MASKED: u32 = 1 << 16;
/// ICR: delivery mode NMI, level assert.
const ICR_NMI: u32 = 0x4400;
/// ICR: delivery mode INIT, level assert.
const ICR_INIT: u32 = 0x4500;
/// ICR: delivery mode start-up, level assert.
const ICR_STARTUP: u32 = 0x4600;
/// ICR: whom it is for, if that is not the destination.
const SHORTHAND: u32 = 3 << 18;
/// ICR: delivery status, send pending (xAPIC only).
const ICR_PENDING: u32 = 1 << 12;

/// The machine's APICs were switched to x2APIC mode at boot, and stay there:
/// no guest can switch back.
static X2APIC: AtomicBool = AtomicBool::new(false);
/// Address of the xAPIC's registers, the same on all cores; no guest can move
/// them.
static REGISTERS: AtomicU64 = AtomicU64::new(0xfee0_0000);

/// Chooses the mode of the machine's local APICs, and switches the boot core to
/// it: x2APIC where the processor has it, so that only the ICR has to exit. The
/// word `apic=xapic` on the hypervisor's command line leaves them in xAPIC mode,
/// to compare, unless firmware has left it already.
pub(crate) fn choose_mode(command_line: &str) {
    let features = CpuId::new().get_feature_info();
    let has_x2apic = features.is_some_and(|features| features.has_x2apic());
    let unwanted = command_line
        .split_whitespace()
        .any(|word| word == "apic=xapic");
    let stay = unwanted && base() & BASE_X2APIC == 0;
    X2APIC.store(has_x2apic && !stay, Ordering::Relaxed);
    REGISTERS.store(base() & BASE_ADDRESS, Ordering::Relaxed);
    enter_mode();
}

/// Switches this core to the mode that [`choose_mode`] chose (Intel SDM vol.
/// 3, "x2APIC State Transitions"). Called on every core before it sends or
/// expects an IPI.
pub(crate) fn enter_mode() {
    if is_x2apic_machine() {
        // SAFETY: xAPIC to x2APIC mode is a legal transition, and a second
        // write changes nothing.
        unsafe { msr::write(IA32_APIC_BASE, base() | BASE_X2APIC | BASE_ENABLE) };
    }
}

/// Whether the local APICs are in x2APIC mode.
#[inline]
pub(crate) fn is_x2apic_machine() -> bool {
    X2APIC.load(Ordering::Relaxed)
}

/// This core's IA32_APIC_BASE.
pub(crate) fn base() -> u64 {
    // SAFETY: every processor with long mode has this MSR.
    unsafe { msr::read(IA32_APIC_BASE) }
}

const fn x2apic_msr(offset: u16) -> u32 {
    0x800 + (offset as u32 >> 4)
}

fn mmio(offset: u16) -> *mut u32 {
    (REGISTERS.load(Ordering::Relaxed) + u64::from(offset)) as *mut u32
}

fn read_at(offset: u16) -> u32 {
    if is_x2apic_machine() {
        #[expect(clippy::cast_possible_truncation, reason = "32-bit register")]
        // SAFETY: in x2APIC mode the register's MSR exists.
        return unsafe { msr::read(x2apic_msr(offset)) as u32 };
    }
    // SAFETY: the APIC page is mapped uncached at its own address.
    unsafe { mmio(offset).read_volatile() }
}

/// Reads `register`.
pub(crate) fn read(register: Register) -> u32 {
    read_at(register as u16)
}

/// Writes `register`.
///
/// # Safety
/// What it causes (an interrupt, an IPI) is what the machine's owner wants.
unsafe fn write(register: Register, value: u32) {
    // SAFETY: see `write_at`.
    unsafe { write_at(register as u16, value) }
}

/// Writes the register at xAPIC offset `offset` (a multiple of 16 below
/// 0x400).
///
/// # Safety
/// As [`write`].
unsafe fn write_at(offset: u16, value: u32) {
    // SAFETY: mapped, or the MSR exists; the caller vouches for the effect.
    unsafe {
        if is_x2apic_machine() {
            msr::write(x2apic_msr(offset), u64::from(value));
        } else {
            mmio(offset).write_volatile(value);
        }
    }
}

/// Runs `open`, which lets a waiting interrupt in, while vectors below 32 wait:
/// the handlers take those for exceptions (Intel SDM vol. 3, "Task and
/// Processor Priorities").
pub(crate) fn hold_exception_vectors(open: impl FnOnce()) {
    const LAST_EXCEPTION: u32 = 31;
    let priority = read(Register::TaskPriority);
    // SAFETY: the register is put back as it was.
    unsafe {
        write(Register::TaskPriority, priority.max(LAST_EXCEPTION));
        open();
        write(Register::TaskPriority, priority);
    }
}

/// Writes, for the guest, the register at xAPIC offset `offset` of this core's
/// own APIC; not the ICR, which reaches other cores: see [`send_ipi`].
pub(crate) fn write_for_guest(offset: u16, value: u32) {
    if offset != Register::Icr as u16 {
        // SAFETY: all other registers concern this core alone, where every
        // vector has a handler.
        unsafe { write_at(offset, value) };
    }
}

/// This core's APIC ID.
pub(crate) fn id() -> u32 {
    let raw = read(Register::Id);
    if is_x2apic_machine() { raw } else { raw >> 24 }
}

/// Sends a vector or an NMI: ICR low word `low`, to `destination` (physical
/// mode) or to this core itself (shorthand). Other delivery modes and
/// shorthands are not sent: they would take a core away from the hypervisor.
pub(crate) fn send_ipi(destination: u32, low: u32) {
    const TO_SELF: u32 = 1 << 18;
    let harmless = matches!(low >> 8 & 7, 0 | 4) && matches!(low & SHORTHAND, 0 | TO_SELF);
    if harmless {
        // SAFETY: every core that runs has handlers for every vector and for
        // NMI, in the hypervisor or in its guest.
        unsafe { send(destination, low) };
    }
}

/// Sends an IPI with ICR low word `low` to `destination` (physical mode), or
/// to whom the shorthand in `low` names. The xAPIC's destination register is
/// left as it was found: it is a guest's.
///
/// # Safety
/// The receiver expects it.
unsafe fn send(destination: u32, low: u32) {
    // SAFETY: registers exist as above; the caller vouches for the receiver.
    unsafe {
        if is_x2apic_machine() {
            msr::write(
                x2apic_msr(Register::Icr as u16),
                u64::from(destination) << 32 | u64::from(low),
            );
            return;
        }
        let high = mmio(Register::IcrHigh as u16);
        let icr = mmio(Register::Icr as u16);
        wait_until_sent(icr);
        if low & SHORTHAND != 0 {
            icr.write_volatile(low);
            return;
        }
        let guest = high.read_volatile();
        high.write_volatile(destination << 24);
        icr.write_volatile(low);
        wait_until_sent(icr);
        high.write_volatile(guest);
    }
}

/// # Safety
/// `icr` is the mapped ICR.
unsafe fn wait_until_sent(icr: *mut u32) {
    for _ in 0..100_000 {
        // SAFETY: the caller's.
        if unsafe { icr.read_volatile() } & ICR_PENDING == 0 {
            return;
        }
        cpu::pause();
    }
}

/// Kicks the core with APIC ID `destination` by an NMI.
pub(crate) fn send_nmi(destination: u32) {
    send_ipi(destination, ICR_NMI);
}

/// Sends INIT to a core.
///
/// # Safety
/// The core is not running anything.
pub(crate) unsafe fn send_init(destination: u32) {
    // SAFETY: the caller vouches for the receiver.
    unsafe { send(destination, ICR_INIT) };
}

/// Sends a start-up IPI: the core begins at `page`, a page below 1 MiB.
///
/// # Safety
/// Code that may run in real mode is at `page`.
pub(crate) unsafe fn send_startup(destination: u32, page: u64) {
    let vector = u32::try_from(page >> 12).unwrap_or(0) & 0xff;
    // SAFETY: the caller vouches for the receiver.
    unsafe { send(destination, ICR_STARTUP | vector) };
}

/// The lowest vector that is set in the 256 bits from `register` on.
fn lowest(register: Register) -> Option<u8> {
    (0..8_u16).find_map(|word| {
        let bits = read_at(register as u16 + word * 16);
        u8::try_from(u32::from(word) * 32 + bits.trailing_zeros())
            .ok()
            .filter(|_| bits != 0)
    })
}

/// How many bits are set in the 256 bits from `register` on.
fn count(register: Register) -> u32 {
    (0..8_u16)
        .map(|word| read_at(register as u16 + word * 16).count_ones())
        .sum()
}

/// A vector that is in service.
pub(crate) fn in_service() -> Option<u8> {
    lowest(Register::InService)
}

/// A vector that waits for delivery.
pub(crate) fn pending() -> Option<u8> {
    lowest(Register::Request)
}

/// The vector that is delivered next.
pub(crate) fn highest_pending() -> Option<u8> {
    (0..8_u16).rev().find_map(|word| {
        let bits = read_at(Register::Request as u16 + word * 16);
        let highest = u32::from(word) * 32 + 31_u32.checked_sub(bits.leading_zeros())?;
        u8::try_from(highest).ok()
    })
}

/// Vectors that wait or are in service.
pub(crate) fn interrupts_seen() -> u32 {
    count(Register::Request) + count(Register::InService)
}

/// Ends the interrupt in service that has the highest priority.
pub(crate) fn end_of_interrupt() {
    // SAFETY: nobody waits for the end of an interrupt but who took it.
    unsafe { write(Register::Eoi, 0) };
}

/// Handler of all external interrupts: a core has let one in.
pub(crate) fn note_taken(vector: u64) {
    let vector = vector.to_le_bytes()[0];
    if !percpu::this().note_interrupt(vector) {
        // SAFETY: the interrupt in service is the one being handled.
        unsafe { write(Register::Eoi, 0) };
    }
}

/// The LVT entries that this APIC has, from its version register.
fn lvts() -> impl Iterator<Item = Register> {
    let highest = read_at(0x30) >> 16 & 0xff;
    [
        (0, Register::LvtTimer),
        (1, Register::LvtLint0),
        (2, Register::LvtLint1),
        (3, Register::LvtError),
        (4, Register::LvtPerformance),
        (5, Register::LvtThermal),
        (6, Register::LvtCmci),
    ]
    .into_iter()
    .filter(move |&(index, _)| index <= highest)
    .map(|(_, register)| register)
}

/// An LVT entry other than the timer that is not masked.
pub(crate) fn live_lvt() -> Option<Register> {
    lvts().find(|&lvt| lvt != Register::LvtTimer && read(lvt) & LVT_MASKED == 0)
}

/// The LVT entry that delivers `vector`, which the processor has just taken.
pub(crate) fn lvt_with(vector: u8) -> Option<InterruptKind> {
    let word = Register::InService as u16 + u16::from(vector / 32) * 16;
    let in_service = read_at(word) >> (vector % 32) & 1 != 0;
    let entries = lvts().map(|lvt| (kind_of(lvt), read(lvt)));
    lvt::source(entries, vector, in_service)
}

const fn kind_of(lvt: Register) -> InterruptKind {
    match lvt {
        Register::LvtTimer => InterruptKind::Timer,
        Register::LvtPerformance => InterruptKind::Performance,
        Register::LvtThermal => InterruptKind::Thermal,
        Register::LvtError => InterruptKind::Error,
        Register::LvtCmci => InterruptKind::Cmci,
        _ => InterruptKind::Lint,
    }
}

/// Whether the timer can fire: not masked, and armed.
pub(crate) fn timer_armed() -> bool {
    const ONE_SHOT_MODE: u32 = 0;
    const DEADLINE_MODE: u32 = 2 << 17;
    let lvt = read(Register::LvtTimer);
    if lvt & LVT_MASKED != 0 {
        return false;
    }
    match lvt & (3 << 17) {
        DEADLINE_MODE => {
            // SAFETY: the mode exists only where the MSR does.
            let deadline = unsafe { msr::read(x86::msr::IA32_TSC_DEADLINE) };
            deadline != 0
        }
        // The initial count stays when the timer has fired.
        ONE_SHOT_MODE => read(Register::TimerCurrentCount) != 0,
        _ => read(Register::TimerInitialCount) != 0,
    }
}

/// Masks both legacy interrupt controllers (8259A data sheet, "Operation
/// Command Words": OCW1). The firmware left the PIT ticking and its vectors
/// where the exceptions are; Linux sets the controllers up by itself.
pub(crate) fn mask_legacy_pics() {
    for data_port in [0x21, 0xa1] {
        // SAFETY: the mask registers only hold interrupts back.
        unsafe { cpu::outb(data_port, 0xff) };
    }
}

/// Masks every LVT entry and disarms the timer. `accept`: whether the APIC
/// still takes vectors from others; switched off by software it takes only
/// NMI, INIT and start-up IPIs (Intel SDM vol. 3, "Local APIC State After It
/// Has Been Software Disabled").
///
/// Only for a core whose guest has no APIC, or loses it by INIT: nothing but
/// interrupts depends on it.
pub(crate) fn silence(accept: bool) {
    const SOFTWARE_ENABLE: u32 = 1 << 8;
    const SPURIOUS_VECTOR: u32 = 0xff;
    // SAFETY: masking and switching off sends nothing to anybody.
    unsafe {
        for lvt in lvts() {
            write(lvt, read(lvt) | LVT_MASKED);
        }
        write(Register::TimerInitialCount, 0);
        write(Register::TaskPriority, 0);
        let enable = if accept { SOFTWARE_ENABLE } else { 0 };
        write(Register::SpuriousVector, enable | SPURIOUS_VECTOR);
    }
}
