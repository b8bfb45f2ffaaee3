//! What a partition finds in its guest-physical address space, and the state
//! in which its program is entered.
//!
//! | guest-physical | what |
//! |---|---|
//! | `0 .. memory` | RAM. `0 .. 0x10_0000` is the loader's: initial page tables, GDT, boot stacks |
//! | `shared = align_up(memory, 1 GiB)` | [`PartitionInfo`], read-only |
//! | `shared + 0x1000` | one [`crate::CoreCounters`] per core of the partition, read-only, live |
//! | `console_gpa` | [`ConsoleRing`], read-write |
//! | `channels_gpa` | [`crate::channel::ChannelTable`], read-only; the blocks are where it says, read-write |
//!
//! Every core enters at the ELF entry point in 64-bit mode, ring 0, interrupts
//! off, with RDI = address of [`PartitionInfo`], RSI = index of this core in
//! the partition (0-based), RSP = top of a 16 KiB stack of its own (16-byte
//! aligned, minus 8 as after a CALL), SSE enabled (CR4.OSFXSR), all RAM and
//! the shared pages identity-mapped, page 0 not mapped, and a flat GDT (code
//! 0x08, data 0x10). No IDT: an exception ends the partition unless the
//! program loads one. A local APIC that is the partition's is switched on, with
//! every LVT entry masked and nothing pending.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

/// Lowest address at which a program may have a segment.
pub const PROGRAM_BASE: u64 = 0x10_0000;
/// Bytes of stack given to each core.
pub const STACK_SIZE: u64 = 16 * 1024;
/// Value of [`PartitionInfo::magic`].
pub const INFO_MAGIC: u64 = u64::from_le_bytes(*b"cloister");
/// Longest argument string, bytes.
pub const MAX_ARGS: usize = 512;

/// What the hypervisor tells a program. One page.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct PartitionInfo {
    /// [`INFO_MAGIC`].
    pub magic: u64,
    /// [`crate::VERSION`].
    pub version: u32,
    /// Cores of this partition.
    pub cores: u32,
    /// Bytes of RAM, from guest-physical 0.
    pub memory: u64,
    /// Address of the first [`crate::CoreCounters`]; the next cores' follow.
    pub counters_gpa: u64,
    /// Address of the [`ConsoleRing`].
    pub console_gpa: u64,
    /// [`crate::Dataplane`] bits that this partition may ask for.
    pub allowed: u64,
    /// TSC frequency in Hz where CPUID or calibration tells, else 0.
    pub tsc_hz: u64,
    /// 0: hypercalls by VMCALL (Intel). 1: by VMMCALL (AMD). 2: there is no
    /// hypervisor (see `partitions/bare`); a near CALL of `call` stands for it.
    pub vendor: u32,
    /// How often this partition was restarted.
    pub restarts: AtomicU32,
    /// Length of `name`, bytes.
    pub name_len: u32,
    /// Length of `args`, bytes.
    pub args_len: u32,
    /// The local APIC: 0 not the partition's, 1 in xAPIC mode (its page is
    /// mapped at 0xfee0_0000), 2 in x2APIC mode (MSRs).
    pub apic: u32,
    /// Unused, 0.
    pub reserved: u32,
    /// Address of the [`crate::device::DeviceTable`], read-only; 0: the
    /// partition has no device.
    pub devices_gpa: u64,
    /// Address of the [`crate::channel::ChannelTable`], read-only; 0: it has
    /// none.
    pub channels_gpa: u64,
    /// The partition's name, UTF-8.
    pub name: [u8; 32],
    /// The argument string of the manifest, UTF-8.
    pub args: [u8; MAX_ARGS],
    /// Where there is no hypervisor: address of a function of the System V
    /// ABI that takes number and arguments of a hypercall (RDI, RSI, RDX, RCX)
    /// and returns what RAX would have. Else 0.
    pub call: u64,
}

const _: () = assert!(size_of::<PartitionInfo>() == 4096);

/// Bytes of console text that a ring holds.
pub const CONSOLE_BYTES: usize = 16384 - 64;

/// Console output of a partition, overwrite-oldest: the program writes bytes
/// and moves `written`, which costs no exit; the hypervisor prints.
///
/// Several cores may write: each reserves its bytes by an atomic add to
/// `written` first. The hypervisor trusts nothing in it.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct ConsoleRing {
    /// Bytes ever written (reserved). Byte `n` is at `bytes[n % CONSOLE_BYTES]`.
    pub written: AtomicU64,
    /// Unused, 0.
    pub reserved: [AtomicU64; 7],
    /// The text.
    pub bytes: [AtomicU8; CONSOLE_BYTES],
}

const _: () = assert!(size_of::<ConsoleRing>() == 16384);
