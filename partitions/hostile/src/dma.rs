//! DMA to where the partition has no memory, by a function that copies
//! whatever it is told to: QEMU's `edu` (QEMU, docs/specs/edu).

use cloister_runtime::device::{Registers, wait};
use cloister_runtime::dma::Dma;
use cloister_runtime::{Partition, println};

use crate::{Counts, Outcome};

/// The device's own buffer, as its DMA engine addresses it.
const BUFFER: u64 = 0x4_0000;
/// Numbers of one transfer, and what they hold.
const COUNT: usize = 1;
const OURS: u32 = 0x5a5a_a5a5;
/// How long a transfer may take, TSC cycles.
const PATIENCE: u64 = 1 << 38;

/// Registers (docs/specs/edu, "DMA controller").
const SOURCE: usize = 0x80;
const DESTINATION: usize = 0x88;
const LENGTH: usize = 0x90;
const COMMAND: usize = 0x98;
const START: u64 = 1;
const TO_MEMORY: u64 = 2;

struct Edu(Registers);

impl Edu {
    fn transfer(&self, from: u64, to: u64, direction: u64) -> Result<(), &'static str> {
        self.0.write::<u64>(SOURCE, from);
        self.0.write::<u64>(DESTINATION, to);
        self.0.write::<u64>(LENGTH, (COUNT * 4) as u64);
        self.0.write::<u64>(COMMAND, START | direction);
        let done = wait(PATIENCE, || self.0.read::<u64>(COMMAND) & START == 0);
        done.then_some(()).ok_or("the device does not finish")
    }

    /// Reads memory at `address` into the buffer.
    fn load(&self, address: u64) -> Result<(), &'static str> {
        self.transfer(address, BUFFER, 0)
    }

    /// Writes the buffer to memory at `address`.
    fn store(&self, address: u64) -> Result<(), &'static str> {
        self.transfer(BUFFER, address, TO_MEMORY)
    }
}

/// Copies within its own memory, which must work; then writes to each place
/// that is not its own and reads it back, which must not; then goes on writing
/// to the first of them, `storm=N` times.
pub(crate) fn aim(partition: &Partition) -> Outcome {
    let memory = partition.info().memory;
    let places = [
        // Behind its own memory; where kernels, partitions and the hypervisor
        // are on a machine of 1 GiB; registers of VT-d, of AMD-Vi, of the
        // I/O APIC; where nothing is.
        memory,
        0x1800_0000,
        0x3000_0000,
        0x3e00_0000,
        0xfed9_0000,
        0xfed8_0000,
        0xfec0_0000,
        1 << 36,
    ];
    let device = partition.devices().next().ok_or("no function")?;
    // SAFETY: it was reset, and knows no address of this program.
    unsafe { device.enable() };
    // SAFETY: all addresses are of memory for devices, or not our own.
    let registers = unsafe { device.map(0) }.map_err(|_| "its registers cannot be mapped")?;
    let edu = Edu(registers);
    let no_memory = "no memory for DMA";
    let mut source = Dma::<u32>::allocate(COUNT).ok_or(no_memory)?;
    let target = Dma::<u32>::allocate(COUNT).ok_or(no_memory)?;
    source.set(0, OURS);
    let mut counts = Counts::default();
    edu.load(device.dma_address(source.address()))?;
    edu.store(device.dma_address(target.address()))?;
    if target.get(0) != OURS {
        return Err("DMA within its own memory does not work");
    }
    counts.done += 1;
    for place in places {
        edu.load(device.dma_address(source.address()))?;
        edu.store(place)?;
        edu.load(place)?;
        edu.store(device.dma_address(target.address()))?;
        if target.get(0) == OURS {
            println!("hostile: dma: reached {place:#x}");
            return Err("DMA went through");
        }
        counts.refused += 1;
    }
    for _ in 0..partition.number("storm", 0).unwrap_or(0) {
        edu.store(memory)?;
    }
    Ok(counts)
}
