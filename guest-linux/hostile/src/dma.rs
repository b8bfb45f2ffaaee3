//! DMA wherever one likes, by QEMU's `edu` device (QEMU, docs/specs/edu), whose
//! registers root in Linux may map.

use std::fs::File;
use std::io::Error;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

const PAGE: usize = 4096;
/// The device's own buffer, as its DMA engine addresses it.
const BUFFER: u64 = 0x4_0000;
/// Bytes of one transfer.
const COUNT: u64 = 4;

/// The device.
struct Edu {
    registers: *mut u8,
}

impl Edu {
    /// Maps BAR 0 of the function `name` (`0000:00:03.0`), and lets it master
    /// the bus.
    fn open(name: &str) -> Result<Self> {
        const BYTES: usize = 1 << 20;
        const COMMAND: u64 = 4;
        const MEMORY_AND_MASTER: u8 = 6;
        let folder = PathBuf::from("/sys/bus/pci/devices").join(name);
        let open = |file: &str| {
            File::options()
                .read(true)
                .write(true)
                .open(folder.join(file))
                .with_context(|| format!("cannot open {file} of {name}"))
        };
        open("config")?.write_all_at(&[MEMORY_AND_MASTER, 0], COMMAND)?;
        let bar = open("resource0")?;
        // SAFETY: a new mapping of the device's registers.
        let registers = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                bar.as_raw_fd(),
                0,
            )
        };
        if registers == libc::MAP_FAILED {
            bail!("mmap: {}", Error::last_os_error());
        }
        Ok(Self {
            registers: registers.cast(),
        })
    }

    fn write(&self, offset: usize, value: u64) {
        // SAFETY: a register of the device; it takes 64 bits from 0x80 on.
        unsafe {
            self.registers
                .add(offset)
                .cast::<u64>()
                .write_volatile(value);
        }
    }

    fn busy(&self) -> bool {
        // SAFETY: as above.
        unsafe { self.registers.add(0x98).cast::<u64>().read_volatile() & 1 != 0 }
    }

    fn transfer(&self, from: u64, to: u64, command: u64) -> Result<()> {
        self.write(0x80, from);
        self.write(0x88, to);
        self.write(0x90, COUNT);
        self.write(0x98, command);
        for _ in 0..600 {
            if !self.busy() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        bail!("the device does not finish");
    }

    /// Reads memory at `address` into the buffer.
    fn load(&self, address: u64) -> Result<()> {
        self.transfer(address, BUFFER, 1)
    }

    /// Writes the buffer to memory at `address`.
    fn store(&self, address: u64) -> Result<()> {
        self.transfer(BUFFER, address, 3)
    }
}

/// A page of this process, and where it is in memory.
struct Own {
    page: *mut u8,
    address: u64,
}

impl Own {
    fn new() -> Result<Self> {
        // SAFETY: a new mapping.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_LOCKED | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            bail!("mmap: {}", Error::last_os_error());
        }
        let page = page.cast::<u8>();
        let own = Self { page, address: 0 };
        own.fill(0);
        // Documentation/admin-guide/mm/pagemap.rst: bits 54:0 are the frame.
        let mut entry = [0; 8];
        let index = page as u64 / PAGE as u64;
        File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, index * 8)?;
        let frame = u64::from_le_bytes(entry) & ((1 << 55) - 1);
        if frame == 0 {
            bail!("Linux does not tell where the page is");
        }
        Ok(Self {
            page,
            address: frame * PAGE as u64,
        })
    }

    fn fill(&self, byte: u8) {
        for index in 0..PAGE {
            // SAFETY: our page, which the device may write too.
            unsafe { self.page.add(index).write_volatile(byte) };
        }
    }

    /// How many of the bytes that a transfer concerns are `byte`.
    fn count(&self, byte: u8) -> usize {
        let bytes = 0..usize::try_from(COUNT).unwrap_or(PAGE);
        // SAFETY: as above.
        bytes
            .filter(|&index| unsafe { self.page.add(index).read_volatile() } == byte)
            .count()
    }
}

/// From this process's memory to this process's memory; then, for each of
/// `addresses`, a write there, and a read from there into our memory.
pub(crate) fn aim(device: &str, addresses: &[u64]) -> Result<()> {
    const OURS: u8 = 0x5a;
    let edu = Edu::open(device)?;
    let (source, target) = (Own::new()?, Own::new()?);
    source.fill(OURS);
    edu.load(source.address)?;
    edu.store(target.address)?;
    println!("dma: own={}", target.count(OURS));
    for address in addresses {
        edu.load(source.address)?;
        edu.store(*address)?;
        edu.load(*address)?;
        edu.store(target.address)?;
        // What was written is read back where nothing blocks it.
        println!("dma-{address:#x}: through={}", target.count(OURS));
    }
    Ok(())
}
