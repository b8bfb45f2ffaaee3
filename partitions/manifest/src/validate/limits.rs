//! Sizes and ports that are possible, and why.

use cloister_abi::shared::{PROGRAM_BASE, STACK_SIZE};
use cloister_abi::{MAX_CORES, channel};

use crate::hardware::PortRange;
use crate::size::{GIB, KIB, MIB};

/// Memory of the hypervisor and of partitions is a multiple of this: it is
/// mapped with large pages.
pub const MEMORY_GRANULE: u64 = 2 * MIB;
/// Least memory of a partition: 1 MiB is the loader's, see
/// [`cloister_abi::shared`].
pub const MIN_PARTITION_MEMORY: u64 = 4 * MIB;
/// Most memory of a partition: what the hypervisor's loader maps, a page
/// directory for each GiB.
pub const MAX_PARTITION_MEMORY: u64 = 128 * GIB;
/// Least memory of the hypervisor.
pub const MIN_HYPERVISOR_MEMORY: u64 = 8 * MIB;
/// Most memory of the hypervisor: more is a slip of the pen.
pub const MAX_HYPERVISOR_MEMORY: u64 = 4 * GIB;
/// Memory that must be left for Linux. (A distribution kernel and its initrd
/// do not unpack in less.)
pub const MIN_LINUX_MEMORY: u64 = 128 * MIB;
/// Least shared memory of a channel. Its size is a power of two: Linux finds it
/// in a BAR.
pub const MIN_CHANNEL_SIZE: u64 = channel::MIN_SIZE;
/// Most shared memory of a channel.
pub const MAX_CHANNEL_SIZE: u64 = channel::MAX_SIZE;
/// Most shared memory of all channels.
pub const MAX_CHANNELS_SIZE: u64 = channel::MAX_ALL;

/// Bytes below [`PROGRAM_BASE`] that the loader needs: 8 pages for page 0
/// (never mapped), the GDT and the upper levels of the initial page tables, a
/// page directory for each GiB of memory, and a stack for each core.
#[must_use]
pub fn loader_bytes(cores: usize, memory: u64) -> u64 {
    let cores = u64::try_from(cores.min(MAX_CORES)).unwrap_or(u64::MAX);
    let directories = memory.div_ceil(GIB).saturating_mul(4 * KIB);
    cores
        .saturating_mul(STACK_SIZE)
        .saturating_add(8 * 4 * KIB)
        .saturating_add(directories)
}

/// What [`loader_bytes`] may be at most.
pub const LOADER_AREA: u64 = PROGRAM_BASE;

/// Ports of the whole machine, with what they are: nobody may own them.
///
/// Sources: Intel I/O Controller Hub 9 datasheet, "Fixed I/O Decode Ranges"
/// (the same on every PC chipset since); PCI Local Bus Specification 3.0,
/// 3.2.2.3.2; QEMU's `docs/specs/fw_cfg`. Those whose place the firmware chose
/// (ACPI power management, reset) come from [`crate::Machine`].
pub const MACHINE_PORTS: [(PortRange, &str); 16] = [
    (
        PortRange {
            base: 0x00,
            count: 0x20,
        },
        "the ISA DMA controller",
    ),
    (
        PortRange {
            base: 0x20,
            count: 2,
        },
        "the interrupt controller (PIC)",
    ),
    (
        PortRange {
            base: 0x2e,
            count: 2,
        },
        "the super I/O's configuration",
    ),
    (
        PortRange {
            base: 0x40,
            count: 4,
        },
        "the interval timer (PIT)",
    ),
    (
        PortRange {
            base: 0x4e,
            count: 2,
        },
        "the super I/O's configuration",
    ),
    (
        PortRange {
            base: 0x60,
            count: 5,
        },
        "the keyboard controller, NMI status and reset line",
    ),
    (
        PortRange {
            base: 0x70,
            count: 8,
        },
        "the real-time clock and NMI mask",
    ),
    (
        PortRange {
            base: 0x80,
            count: 0x10,
        },
        "the DMA page registers and POST code",
    ),
    (
        PortRange {
            base: 0x92,
            count: 1,
        },
        "A20 and fast reset",
    ),
    (
        PortRange {
            base: 0xa0,
            count: 2,
        },
        "the interrupt controller (PIC)",
    ),
    (
        PortRange {
            base: 0xb2,
            count: 2,
        },
        "the SMI trigger",
    ),
    (
        PortRange {
            base: 0xc0,
            count: 0x20,
        },
        "the ISA DMA controller",
    ),
    (
        PortRange {
            base: 0xf0,
            count: 2,
        },
        "the FPU error latch",
    ),
    (
        PortRange {
            base: 0x4d0,
            count: 2,
        },
        "the interrupt controller's trigger modes",
    ),
    (
        PortRange {
            base: 0x510,
            count: 12,
        },
        "the firmware configuration device (it does DMA)",
    ),
    (
        PortRange {
            base: 0xcf8,
            count: 8,
        },
        "PCI configuration and reset (0xcf9)",
    ),
];
