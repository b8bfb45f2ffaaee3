//! Physical memory, through /dev/mem, as far as Linux lets root have it: what
//! is no RAM of Linux's.

use std::fs::File;
use std::io::Error;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

const PAGE: usize = 4096;

pub(crate) fn open() -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/mem")
        .context("cannot open /dev/mem")
}

/// Maps the page at physical `address`; `None` where Linux refuses.
pub(crate) fn map(file: &File, address: u64) -> Option<*mut u64> {
    let offset = i64::try_from(address).ok()?;
    // SAFETY: a new mapping.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            offset,
        )
    };
    (page != libc::MAP_FAILED).then_some(page.cast())
}

fn unmap(page: *mut u64) {
    // SAFETY: `map` made it, and nobody uses it any more.
    unsafe { libc::munmap(page.cast(), PAGE) };
}

/// A page of device registers.
pub(crate) struct Page(*mut u64);

impl Page {
    /// The page at physical `address`.
    pub(crate) fn map(address: u64) -> Result<Self> {
        let page = map(&open()?, address);
        page.map(Self)
            .with_context(|| format!("mmap of {address:#x}: {}", Error::last_os_error()))
    }

    /// Reads the 32 bits at `offset` of the page, a multiple of four.
    pub(crate) fn read(&self, offset: usize) -> u32 {
        // SAFETY: mapped, and inside the page.
        unsafe { self.0.cast::<u32>().add(offset % PAGE / 4).read_volatile() }
    }

    /// Writes them.
    pub(crate) fn write(&self, offset: usize, value: u32) {
        // SAFETY: as above; what the device does is what is tested here.
        unsafe {
            self.0
                .cast::<u32>()
                .add(offset % PAGE / 4)
                .write_volatile(value);
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        unmap(self.0);
    }
}

pub(crate) fn sweep(start: u64, length: u64) -> Result<()> {
    let file = open()?;
    let (mut ones, mut other, mut denied) = (0u64, 0u64, 0u64);
    for address in (start..start + length).step_by(PAGE) {
        let Some(page) = map(&file, address) else {
            denied += 1;
            continue;
        };
        // SAFETY: mapped; somebody else's memory, if it is.
        let value = unsafe {
            page.add(7).write_volatile(0);
            page.cast::<u8>().write_volatile(0);
            page.add(7).read_volatile()
        };
        if value == u64::MAX {
            ones += 1;
        } else {
            other += 1;
        }
        unmap(page);
    }
    println!("memory: ones={ones} other={other} denied={denied}");
    Ok(())
}

pub(crate) fn flood(address: u64, value: u64, count: u64, pause: u64) -> Result<()> {
    let page = map(&open()?, address & !0xfff).context("Linux keeps that page")?;
    let offset = usize::try_from(address & 0xfff)? / size_of::<u64>();
    for _ in 0..count {
        // SAFETY: inside the page that has just been mapped.
        unsafe { page.add(offset).write_volatile(value) };
        if pause > 0 {
            thread::sleep(Duration::from_micros(pause));
        }
    }
    Ok(())
}

/// A read may end the process that makes it, so children do, each from where
/// the last one ended.
pub(crate) fn beyond() -> Result<()> {
    let file = open()?;
    // SAFETY: a new mapping.
    let shared = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if shared == libc::MAP_FAILED {
        bail!("mmap: {}", Error::last_os_error());
    }
    // SAFETY: a page of zeros that stays.
    let next = unsafe { &*shared.cast::<AtomicU64>() };
    let mut killed = 0u64;
    const LAST: u64 = 8192;
    while next.load(Ordering::SeqCst) < LAST {
        // SAFETY: one thread; the child uses no lock.
        match unsafe { libc::fork() } {
            -1 => bail!("fork: {}", Error::last_os_error()),
            0 => {
                loop {
                    let index = next.fetch_add(1, Ordering::SeqCst);
                    if index >= LAST {
                        break;
                    }
                    // Above all memory and devices, far apart.
                    let address = (64 << 30) + (index << 26);
                    if let Some(page) = map(&file, address) {
                        // SAFETY: mapped.
                        unsafe { page.read_volatile() };
                        unmap(page);
                    }
                }
                // SAFETY: ends the child.
                unsafe { libc::_exit(0) };
            }
            child => {
                let mut status = 0;
                // SAFETY: waits for that child.
                unsafe { libc::waitpid(child, &raw mut status, 0) };
                killed += u64::from(libc::WIFSIGNALED(status));
            }
        }
    }
    println!("beyond: reads={LAST} killed={killed}");
    Ok(())
}
