//! The virtual PCI function by which Linux's root sees and controls the
//! partitions: identity, BARs, and what lies in them.
//!
//! | BAR | file in sysfs | what | access |
//! |---|---|---|---|
//! | 0 | `resource0` | [`ControlPage`] | reads never exit; a store to the doorbell is a call |
//! | 2 | `resource2` | statistics: [`StatisticsHeader`] and all that it lists | read-only, never exits |
//! | 4 | `resource4` | transfer area: [`TransferHeader`] and a program image | ordinary memory, never exits |
//!
//! All three are 32-bit memory BARs, which every firmware and Linux place.
//! Linux's own permissions guard the files: they are root's alone.
//!
//! The identity is one of those that the owner of vendor 0x1af4 leaves to
//! experiments without registration (QEMU, "PCI IDs for QEMU": 1af4:10f0 to
//! 10ff); Linux's virtio driver leaves devices above 0x107f alone. The class is
//! 0xff0000, "does not fit any defined class" (PCI Code and ID Assignment).

use core::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64};

use crate::interrupts::InterruptTable;
use crate::shared::ConsoleRing;
use crate::trace::TraceRing;
use crate::{BACKTRACE_FRAMES, CoreCounters, MAX_CORES, MAX_PARTITIONS};

/// Vendor ID of the function, and of its subsystem.
pub const PCI_VENDOR: u16 = 0x1af4;
/// Device ID of the function.
pub const PCI_DEVICE: u16 = 0x10f5;
/// Subsystem ID: "CL".
pub const PCI_SUBSYSTEM: u16 = 0x434c;
/// Class, subclass and programming interface.
pub const PCI_CLASS: u32 = 0xff_0000;

/// Bytes of BAR 0.
pub const CONTROL_BYTES: u32 = 4096;
/// Bytes of BAR 4.
pub const TRANSFER_BYTES: u32 = 1 << 20;
/// Bytes of BAR 2.
pub const STATISTICS_BYTES: u32 = 4 << 20;

/// Value of [`ControlPage::magic`].
pub const CONTROL_MAGIC: u64 = u64::from_le_bytes(*b"clstrctl");
/// Value of [`StatisticsHeader::magic`].
pub const STATISTICS_MAGIC: u64 = u64::from_le_bytes(*b"clstrsta");
/// Value of [`TransferHeader::magic`].
pub const TRANSFER_MAGIC: u64 = u64::from_le_bytes(*b"clstrimg");
/// Longest message of a call, bytes.
pub const MAX_MESSAGE: usize = 256;

/// BAR 0. Everything but the doorbell is written by the hypervisor alone;
/// what else is stored is refused and counted.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct ControlPage {
    /// [`CONTROL_MAGIC`].
    pub magic: AtomicU64,
    /// [`crate::VERSION`].
    pub version: AtomicU64,
    /// A store of eight bytes here, a [`Call`] in its coded form, is a call.
    /// One store is the whole call: whoever is killed leaves nothing half
    /// done. It has been served when the store is done.
    pub doorbell: AtomicU64,
    /// Calls served so far.
    pub served: AtomicU64,
    /// The last call, as it was stored.
    pub last: AtomicU64,
    /// What came of it: 0, or a [`CallError`].
    pub result: AtomicI64,
    /// Malformed stores refused so far: not the doorbell, not eight bytes, no
    /// such operation, partition, core or argument.
    pub refused: AtomicU64,
    /// Bytes of `message` in use.
    pub message_length: AtomicU64,
    /// Why the last call failed, for people, UTF-8.
    pub message: [AtomicU8; MAX_MESSAGE],
}

const _: () = assert!(size_of::<ControlPage>() == 4096);
const _: () = assert!(core::mem::offset_of!(ControlPage, doorbell) == 16);

/// Offset of the doorbell in BAR 0.
pub const DOORBELL: u16 = 16;

/// What is done to a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// Starts it from its pristine image. It must not run.
    Start = 1,
    /// Stops it. The cores park soon after; [`PartitionStatus::inside`] says
    /// how many have not.
    Stop = 2,
    /// Stops it if it runs, and starts it from its pristine image.
    Restart = 3,
    /// Replaces its program by the image in the transfer area, whose length in
    /// bytes is the argument. It must not run. A bad image changes nothing.
    Load = 4,
    /// Imposes DEBUG on its cores (argument 1) or no longer (0).
    Debug = 5,
    /// Watches one of Linux's cores, whose number stands in the partition's
    /// place: its interrupts and its other exits are traced for the next
    /// argument << [`WATCH_SHIFT`] TSC cycles, or no longer (0). It ends by
    /// itself, whatever becomes of the caller. A core that the manifest
    /// watches (`linux.debug`) stays watched.
    Watch = 6,
}

/// Unit of the argument of [`Operation::Watch`]: 2^20 TSC cycles.
pub const WATCH_SHIFT: u32 = 20;

/// One call: a single 64-bit store.
///
/// Bits 7:0 the operation, 15:8 the partition's index, 31:16 a tag of the
/// caller's choice, 63:32 the argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// What is to be done.
    pub operation: Operation,
    /// Index of the partition in the status table; of [`Operation::Watch`], the
    /// number of the core.
    pub partition: u8,
    /// Whatever the caller wants: [`ControlPage::last`] shows it.
    pub tag: u16,
    /// See [`Operation`].
    pub argument: u32,
}

impl Call {
    /// The value to store.
    #[must_use]
    pub const fn encode(self) -> u64 {
        self.operation as u64
            | (self.partition as u64) << 8
            | (self.tag as u64) << 16
            | (self.argument as u64) << 32
    }

    /// The call that `value` is; `None` for an operation that does not exist.
    #[must_use]
    pub const fn decode(value: u64) -> Option<Self> {
        let [operation, partition, tag_low, tag_high, a, b, c, d] = value.to_le_bytes();
        let operation = match operation {
            1 => Operation::Start,
            2 => Operation::Stop,
            3 => Operation::Restart,
            4 => Operation::Load,
            5 => Operation::Debug,
            6 => Operation::Watch,
            _ => return None,
        };
        Some(Self {
            operation,
            partition,
            tag: u16::from_le_bytes([tag_low, tag_high]),
            argument: u32::from_le_bytes([a, b, c, d]),
        })
    }
}

/// Why a call was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum CallError {
    /// No such operation.
    UnknownCall = -1,
    /// No partition has that index, or the core is none of Linux's.
    NoPartition = -2,
    /// The argument means nothing for this operation.
    InvalidArgument = -3,
    /// Not in this state: it runs, or it does not, or its cores still park.
    WrongState = -4,
    /// The image in the transfer area is damaged or no program.
    BadImage = -5,
    /// The hypervisor's memory is used up.
    NoMemory = -6,
}

impl CallError {
    /// The error with this value.
    #[must_use]
    pub const fn from_result(result: i64) -> Option<Self> {
        Some(match result {
            -1 => Self::UnknownCall,
            -2 => Self::NoPartition,
            -3 => Self::InvalidArgument,
            -4 => Self::WrongState,
            -5 => Self::BadImage,
            -6 => Self::NoMemory,
            _ => return None,
        })
    }
}

/// Start of BAR 4. The image follows at [`TRANSFER_IMAGE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TransferHeader {
    /// [`TRANSFER_MAGIC`].
    pub magic: u64,
    /// Bytes of the image.
    pub length: u64,
    /// CRC-32 (ISO-HDLC) of the image: of two tools that write at once, none
    /// gets a mixture loaded.
    pub checksum: u64,
}

const _: () = assert!(size_of::<TransferHeader>() == 24);

/// Offset of the image in BAR 4.
pub const TRANSFER_IMAGE: u32 = 4096;
/// Longest image, bytes.
pub const MAX_IMAGE: u32 = TRANSFER_BYTES - TRANSFER_IMAGE;

/// First page of BAR 2. All but `memory_left` is written once, at boot.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct StatisticsHeader {
    /// [`STATISTICS_MAGIC`].
    pub magic: AtomicU64,
    /// [`crate::VERSION`].
    pub version: AtomicU32,
    /// 0: Intel. 1: AMD.
    pub vendor: AtomicU32,
    /// Cores of the machine.
    pub cores: AtomicU32,
    /// Partitions of the manifest.
    pub partitions: AtomicU32,
    /// Linux's cores, one bit each.
    pub linux: AtomicU64,
    /// TSC frequency in Hz, or 0.
    pub tsc_hz: AtomicU64,
    /// Offset in BAR 2 of the first [`PartitionStatus`].
    pub status: AtomicU32,
    /// Offset of the first core's [`CoreCounters`].
    pub counters: AtomicU32,
    /// Offset of the first partition's [`ConsoleRing`].
    pub consoles: AtomicU32,
    /// Offset of the first core's [`TraceRing`].
    pub traces: AtomicU32,
    /// Offset of the first core's [`InterruptTable`].
    pub interrupts: AtomicU32,
    /// Zero.
    pub reserved: AtomicU32,
    /// Bytes of `hypervisor.memory` that have not been handed out. What is
    /// handed out is never given back, so this only falls.
    pub memory_left: AtomicU64,
}

const _: () = assert!(size_of::<StatisticsHeader>() == 4096);

/// Offset of the partitions' status table in BAR 2.
pub const STATUS_OFFSET: u32 = 0x1000;
/// Offset of the cores' counters in BAR 2.
pub const COUNTERS_OFFSET: u32 = STATUS_OFFSET + bytes::<PartitionStatus>(MAX_PARTITIONS);
/// Offset of the partitions' consoles in BAR 2.
pub const CONSOLES_OFFSET: u32 = COUNTERS_OFFSET + bytes::<CoreCounters>(MAX_CORES);
/// Offset of the cores' trace rings in BAR 2.
pub const TRACES_OFFSET: u32 = CONSOLES_OFFSET + bytes::<ConsoleRing>(MAX_PARTITIONS);

/// Offset of the cores' tables of interrupts in BAR 2.
pub const INTERRUPTS_OFFSET: u32 = TRACES_OFFSET + bytes::<TraceRing>(MAX_CORES);

const _: () = assert!(INTERRUPTS_OFFSET + bytes::<InterruptTable>(MAX_CORES) <= STATISTICS_BYTES);
const _: () = assert!(INTERRUPTS_OFFSET.is_multiple_of(4096));

#[expect(
    clippy::cast_possible_truncation,
    reason = "the whole is asserted to fit a BAR"
)]
const fn bytes<T>(count: usize) -> u32 {
    (size_of::<T>() * count) as u32
}

/// Longest text of [`PartitionStatus::detail`], bytes.
pub const MAX_DETAIL: usize = 160;

/// One partition, as it is now: where the hypervisor itself keeps it.
#[derive(Debug)]
#[repr(C, align(512))]
pub struct PartitionStatus {
    /// [`crate::PartitionState`] as a number.
    pub state: AtomicU32,
    /// 1: the operator imposes DEBUG.
    pub debug: AtomicU32,
    /// Highest exit code of its cores, plus one; 0 before the first.
    pub exit_code: AtomicU64,
    /// How often its program was started.
    pub starts: AtomicU64,
    /// How many of those followed a violation.
    pub restarts: AtomicU32,
    /// Its cores that were started and have not parked since. The partition
    /// can be started only when this is 0.
    pub inside: AtomicU32,
    /// Its cores, one bit each.
    pub cpus: AtomicU64,
    /// Bytes of RAM.
    pub memory: AtomicU64,
    /// [`crate::Dataplane`] bits that its program may ask for.
    pub allowed: AtomicU64,
    /// Bytes of `name` in use.
    pub name_length: AtomicU32,
    /// Bytes of `detail` in use.
    pub detail_length: AtomicU32,
    /// Its name, UTF-8.
    pub name: [AtomicU8; 32],
    /// Violations so far. The fields up to `backtrace` describe the last.
    pub violations: AtomicU64,
    /// Core that violated.
    pub violation_core: AtomicU32,
    /// [`crate::Reason`] as a number.
    pub violation_reason: AtomicU32,
    /// Guest RIP at the violation.
    pub violation_rip: AtomicU64,
    /// Guest CR3.
    pub violation_cr3: AtomicU64,
    /// TSC at the exit.
    pub violation_tsc: AtomicU64,
    /// Frames in `backtrace`.
    pub frames: AtomicU64,
    /// Return addresses, innermost first; the first is RIP.
    pub backtrace: [AtomicU64; BACKTRACE_FRAMES],
    /// Why it failed, UTF-8.
    pub detail: [AtomicU8; MAX_DETAIL],
}

const _: () = assert!(size_of::<PartitionStatus>() == 512);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_survives_its_coded_form() {
        for operation in [
            Operation::Start,
            Operation::Stop,
            Operation::Restart,
            Operation::Load,
            Operation::Debug,
            Operation::Watch,
        ] {
            let call = Call {
                operation,
                partition: 0xa5,
                tag: 0xbeef,
                argument: 0xdead_cafe,
            };
            assert_eq!(Call::decode(call.encode()), Some(call));
        }
        assert_eq!(Call::decode(0), None);
        assert_eq!(Call::decode(7), None);
    }
}
