//! DMA to where the partition has no memory, by a function that copies
//! whatever it is told to: QEMU's `edu` (QEMU, docs/specs/edu), or a network
//! card that sends to itself.

use cloister_runtime::device::{Device, Registers, wait};
use cloister_runtime::dma::Dma;
use cloister_runtime::{Partition, println};

use crate::nic::Card;
use crate::{Counts, Outcome};

/// Bytes of one transfer: what the shortest frame has.
pub(crate) const BYTES: usize = 64;
/// How long a transfer may take, TSC cycles.
pub(crate) const PATIENCE: u64 = 1 << 38;
/// Between two attempts, TSC cycles.
const PAUSE: u64 = 1 << 28;
/// What is copied, from the 14th byte on: before it a frame has its header.
const OURS: u32 = 0x5a5a_a5a5;
const FIRST: usize = 4;

/// A function that copies [`BYTES`] bytes of memory, at addresses of its own
/// view.
pub(crate) trait Copier {
    /// # Errors
    /// It does not finish.
    fn copy(&mut self, from: u64, to: u64) -> Result<(), &'static str>;
}

/// The device's own buffer, as its DMA engine addresses it.
const BUFFER: u64 = 0x4_0000;
/// Registers (docs/specs/edu, "DMA controller").
const SOURCE: usize = 0x80;
const DESTINATION: usize = 0x88;
const LENGTH: usize = 0x90;
const COMMAND: usize = 0x98;
const START: u64 = 1;
const TO_MEMORY: u64 = 2;

struct Edu(Registers);

impl Edu {
    fn open(device: &Device) -> Result<Self, &'static str> {
        // SAFETY: it was reset, and knows no address of this program.
        unsafe { device.enable() };
        // SAFETY: all addresses are of memory for devices, or not our own.
        let registers = unsafe { device.map(0) };
        registers
            .map(Self)
            .map_err(|_| "its registers cannot be mapped")
    }

    fn transfer(&self, from: u64, to: u64, bytes: u64, direction: u64) -> Result<(), &'static str> {
        self.0.write::<u64>(SOURCE, from);
        self.0.write::<u64>(DESTINATION, to);
        self.0.write::<u64>(LENGTH, bytes);
        self.0.write::<u64>(COMMAND, START | direction);
        let done = wait(PATIENCE, || self.0.read::<u64>(COMMAND) & START == 0);
        done.then_some(()).ok_or("the device does not finish")
    }
}

impl Copier for Edu {
    fn copy(&mut self, from: u64, to: u64) -> Result<(), &'static str> {
        self.transfer(from, BUFFER, BYTES as u64, 0)?;
        self.transfer(BUFFER, to, BYTES as u64, TO_MEMORY)
    }
}

/// Copies within its own memory, which must work; then to each place that is
/// not its own and back from there, which must not; then goes on writing to
/// the first of them, `storm=N` times.
pub(crate) fn aim(partition: &Partition) -> Outcome {
    let device = partition.devices().next().ok_or("no function")?;
    if Card::is(&device) {
        aim_with(partition, &device, &mut Card::open(device)?)
    } else {
        aim_with(partition, &device, &mut Edu::open(&device)?)
    }
}

/// Has `edu` write `data=` to `address=`: an interrupt message, which it was
/// never set up to send.
pub(crate) fn forge(partition: &Partition) -> Outcome {
    const WORD: u64 = 4;
    let device = partition.devices().next().ok_or("no function")?;
    let edu = Edu::open(&device)?;
    let number = |key| partition.number(key, 0).map_err(|_| "a number is wrong");
    let data = u32::try_from(number("data")?).map_err(|_| "data is too large")?;
    let mut source = Dma::<u32>::allocate(1).ok_or("no memory for DMA")?;
    source.set(0, data);
    edu.transfer(device.dma_address(source.address()), BUFFER, WORD, 0)?;
    edu.transfer(BUFFER, number("address")?, WORD, TO_MEMORY)?;
    Ok(Counts {
        done: 1,
        ..Counts::default()
    })
}

/// An IOMMU holds few faults (QEMU's VT-d one): lets the hypervisor read each
/// before the next comes.
fn pause() {
    wait(PAUSE, || false);
}

fn aim_with(partition: &Partition, device: &Device, copier: &mut impl Copier) -> Outcome {
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
    let no_memory = "no memory for DMA";
    let mut source = Dma::<u32>::allocate(BYTES / 4).ok_or(no_memory)?;
    let mut target = Dma::<u32>::allocate(BYTES / 4).ok_or(no_memory)?;
    for index in 0..source.len() {
        source.set(index, OURS);
    }
    let [from, to] = [source.address(), target.address()].map(|at| device.dma_address(at));
    let mut counts = Counts::default();
    copier.copy(from, to)?;
    if target.get(FIRST) != OURS {
        return Err("DMA within its own memory does not work");
    }
    counts.done += 1;
    for place in places {
        copier.copy(from, place)?;
        pause();
        target.set(FIRST, 0);
        copier.copy(place, to)?;
        pause();
        if target.get(FIRST) == OURS {
            println!("hostile: dma: reached {place:#x}");
            return Err("DMA went through");
        }
        counts.refused += 1;
    }
    for _ in 0..partition.number("storm", 0).unwrap_or(0) {
        copier.copy(from, memory)?;
    }
    Ok(counts)
}
