//! The local APIC, through its page in /dev/mem (`iomem=relaxed`).

use std::arch::asm;

use anyhow::{Context, Result};

use crate::memory;

const PAGE: u64 = 0xfee0_0000;
/// Offsets of the interrupt command register's halves (Intel SDM vol. 3,
/// "Local APIC Register Address Map").
const ICR_LOW: usize = 0x300;
const ICR_HIGH: usize = 0x310;
const ASSERT: u32 = 1 << 14;

pub(crate) fn send(id: u64, vector: u64) -> Result<()> {
    let page = memory::map(&memory::open()?, PAGE).context("the kernel keeps the APIC's page")?;
    let page = page.cast::<u8>();
    let (id, vector) = (u32::try_from(id)?, u32::try_from(vector)?);
    // SAFETY: registers in the page that has just been mapped.
    unsafe {
        store(page.add(ICR_HIGH), id << 24);
        store(page.add(ICR_LOW), ASSERT | vector);
    }
    println!("ipi: sent=1");
    Ok(())
}

/// A store in a function with a frame, as a backtrace wants it.
unsafe fn store(register: *mut u8, value: u32) {
    // SAFETY: the caller's; the stack is left as it was found.
    unsafe {
        asm!(
            "call 2f", "jmp 3f",
            "2:", "push rbp", "mov rbp, rsp", "mov [rdx], eax", "pop rbp", "ret",
            "3:",
            in("rdx") register, in("eax") value,
        );
    }
}
