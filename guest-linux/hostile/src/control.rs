//! The hypervisor's control function, wrongly used: stores that are no calls,
//! calls that mean nothing, and hypercalls from user mode.

use std::arch::asm;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use cloister_abi::control::{
    CONTROL_BYTES, Call, ControlPage, DOORBELL, Operation, PCI_DEVICE, STATISTICS_BYTES,
};

/// The function's folder in sysfs.
fn folder() -> Result<PathBuf> {
    let identity = format!("{PCI_DEVICE:#06x}");
    std::fs::read_dir("/sys/bus/pci/devices")?
        .flatten()
        .map(|entry| entry.path())
        .find(|folder| {
            let device = std::fs::read_to_string(folder.join("device"));
            device.is_ok_and(|text| text.trim() == identity)
        })
        .context("there is no control function")
}

/// Maps a BAR, writable.
fn map(folder: &Path, bar: u8, bytes: u32) -> Result<*mut u8> {
    let path = folder.join(format!("resource{bar}"));
    let file = File::options().read(true).write(true).open(&path)?;
    // SAFETY: a new mapping.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes as usize,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if page == libc::MAP_FAILED {
        bail!("{}: {}", path.display(), std::io::Error::last_os_error());
    }
    Ok(page.cast())
}

/// Stores the low `width` bytes of `value` at `to`, however aligned.
///
/// # Safety
/// That memory is the control function's.
unsafe fn store(to: *mut u8, width: usize, value: u64) {
    // SAFETY: the caller vouches for the memory.
    unsafe {
        match width {
            1 => {
                let [low, ..] = value.to_le_bytes();
                asm!("mov [{}], {}", in(reg) to, in(reg_byte) low);
            }
            2 => asm!("mov [{}], {:x}", in(reg) to, in(reg) value),
            4 => asm!("mov [{}], {:e}", in(reg) to, in(reg) value),
            _ => asm!("mov [{}], {}", in(reg) to, in(reg) value),
        }
    }
}

/// Every width at every offset (of each `step`) but a call's, and every call
/// that means nothing; then instructions that are no plain stores.
pub(crate) fn stores(step: u64) -> Result<()> {
    let folder = folder()?;
    let start = map(&folder, 0, CONTROL_BYTES)?;
    // SAFETY: the page, which is made of atomics, and stays mapped.
    let page = unsafe { &*start.cast::<ControlPage>() };
    let refused = || page.refused.load(Ordering::SeqCst);
    let (before, served) = (refused(), page.served.load(Ordering::SeqCst));
    let mut made = 0u64;
    let doorbell = usize::from(DOORBELL);
    for width in [1, 2, 4, 8] {
        let last = CONTROL_BYTES as usize - width;
        for offset in (0..=last).step_by(usize::try_from(step)?) {
            if (offset, width) != (doorbell, 8) {
                // SAFETY: inside the page.
                unsafe { store(start.add(offset), width, 0x0101_0101_0101_0101) };
                made += 1;
            }
        }
    }
    let calls = meaningless();
    let rung = calls.len() as u64;
    for value in calls {
        // SAFETY: inside the page.
        unsafe { store(start.add(doorbell), 8, value) };
        made += 1;
    }
    let odd = odd_instructions(start)?;
    made += odd;
    let after = refused() - before;
    let served = page.served.load(Ordering::SeqCst) - served;
    println!("control: stores={made} refused={after} rung={rung} served={served} odd={odd}");
    statistics(&folder)
}

/// Calls that mean nothing: operations, partitions, arguments, cores.
fn meaningless() -> Vec<u64> {
    let call = |operation, partition, argument| {
        Call {
            operation,
            partition,
            tag: 0,
            argument,
        }
        .encode()
    };
    let unknown = (0..=u64::from(u8::MAX)).filter(|value| Call::decode(*value).is_none());
    let mut calls: Vec<u64> = unknown.collect();
    for operation in [
        Operation::Start,
        Operation::Stop,
        Operation::Restart,
        Operation::Load,
        Operation::Debug,
        Operation::Watch,
    ] {
        calls.extend([64, 200, 255].map(|partition| call(operation, partition, 1)));
    }
    for operation in [Operation::Start, Operation::Stop, Operation::Restart] {
        calls.extend([1, u32::MAX].map(|argument| call(operation, 0, argument)));
    }
    calls.push(call(Operation::Debug, 0, 2));
    calls
}

/// Instructions that store otherwise than by MOV end the process that uses
/// them, so children do. Returns how many there were.
fn odd_instructions(start: *mut u8) -> Result<u64> {
    const KINDS: u64 = 3;
    let mut ended = 0;
    for kind in 0..KINDS {
        let child = || {
            // SAFETY: the doorbell, which is mapped; in a child of its own.
            unsafe {
                let to = start.add(usize::from(DOORBELL));
                match kind {
                    0 => asm!("lock add qword ptr [{}], 1", in(reg) to),
                    1 => asm!("xchg [{}], {}", in(reg) to, inout(reg) 1u64 => _),
                    _ => asm!("movq xmm0, {1}", "movdqu [{0}], xmm0",
                        in(reg) to, in(reg) 1u64, out("xmm0") _),
                }
            }
        };
        match in_child(child)? {
            Some(libc::SIGSEGV | libc::SIGBUS) => ended += 1,
            other => bail!("odd store {kind} ended with {other:?}"),
        }
    }
    Ok(ended)
}

/// Stores to the statistics change nothing.
fn statistics(folder: &Path) -> Result<()> {
    let start = map(folder, 2, STATISTICS_BYTES)?;
    let (mut made, mut changed) = (0u64, 0u64);
    for offset in (0..STATISTICS_BYTES as usize).step_by(0x8008) {
        // SAFETY: inside the area; aligned to 8.
        unsafe {
            let place = start.add(offset).cast::<u64>();
            store(start.add(offset), 8, 0x5a5a_5a5a_5a5a_5a5a);
            changed += u64::from(place.read_volatile() == 0x5a5a_5a5a_5a5a_5a5a);
        }
        made += 1;
    }
    println!("statistics: stores={made} changed={changed}");
    Ok(())
}

/// VMCALL and VMMCALL from ring 3, with every number there is and more.
pub(crate) fn hypercalls() -> Result<()> {
    let (mut made, mut illegal) = (0u64, 0u64);
    for number in 0..8u64 {
        let vmcall = || {
            // SAFETY: at worst it ends the child.
            unsafe { asm!("vmcall", inout("rax") number => _, in("rdi") 0u64) }
        };
        let vmmcall = || {
            // SAFETY: as above.
            unsafe { asm!("vmmcall", inout("rax") number => _, in("rdi") 0u64) }
        };
        for signal in [in_child(vmcall)?, in_child(vmmcall)?] {
            made += 1;
            illegal += u64::from(signal == Some(libc::SIGILL));
        }
    }
    println!("hypercalls: made={made} illegal={illegal}");
    Ok(())
}

/// Does `work` in a child, and says which signal ended it.
fn in_child(work: impl FnOnce()) -> Result<Option<i32>> {
    // SAFETY: one thread; the child uses no lock.
    match unsafe { libc::fork() } {
        -1 => bail!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            // Rust's own handlers have the instruction done once more.
            for number in [libc::SIGSEGV, libc::SIGBUS] {
                // SAFETY: the default action needs no code of ours.
                unsafe { libc::signal(number, libc::SIG_DFL) };
            }
            work();
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) }
        }
        child => {
            let mut status = 0;
            // SAFETY: waits for that child.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            Ok(libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)))
        }
    }
}
