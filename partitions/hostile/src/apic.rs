//! A partition that has the local APIC, and asks it for all that it can do.

use cloister_runtime::{Apic, Partition};

use crate::raw::{self, attempt};
use crate::{Counts, Outcome};

const BASE: u64 = 0xfee0_0000;
const ICR: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const X2APIC_FIRST: u32 = 0x800;
const X2APIC_ICR: u32 = 0x830;

/// Delivery modes that end the sender if they reach it are sent to it as well:
/// no partition may be reset by an IPI.
const MODES: u64 = 8;

/// Every delivery mode, shorthand, level and logical mode, to every APIC ID.
pub(crate) fn ipis(partition: &Partition) -> Outcome {
    let apic = partition.apic().ok_or("apic = true is missing")?;
    let mut counts = Counts::default();
    let highest = partition.number("ids", 0xff).unwrap_or(0xff);
    for low in (0..MODES).flat_map(|mode| (0..4).map(move |shorthand| mode << 8 | shorthand << 18))
    {
        for (vector, flags) in [
            (0, 0),
            (0x31, 1 << 14),
            (0x12, 1 << 11),
            (0xff, 1 << 15),
            (0x02, 3 << 14),
        ] {
            let low = low | vector | flags;
            let many = low & 3 << 18 == 0;
            let ids = (0..=if many { highest } else { 0 }).chain([
                0xff,
                0xffff_ffff,
                0x0001_0001,
                0x8000_0000,
            ]);
            for id in ids {
                counts.add(send(apic, id, low));
            }
        }
    }
    Ok(counts)
}

fn send(apic: Apic, id: u64, low: u64) -> Result<(), u8> {
    match apic {
        Apic::Xapic => {
            store32(BASE + ICR_HIGH, id << 24)?;
            store32(BASE + ICR, low)
        }
        Apic::X2apic => raw::wrmsr(X2APIC_ICR, id << 32 | low),
    }
}

/// Sends an NMI to the core with APIC ID `id`.
pub(crate) fn send_nmi(apic: Apic, id: u64) -> Result<(), u8> {
    send(apic, id, 0x4400)
}

/// This core's APIC ID.
pub(crate) fn id(apic: Apic) -> u64 {
    match apic {
        Apic::Xapic => {
            let mut value = 0u64;
            // SAFETY: the loader mapped the page.
            let _ =
                unsafe { attempt!("mov eax, [rdx]", in("rdx") BASE + 0x20, inout("rax") value) };
            value >> 24
        }
        Apic::X2apic => raw::rdmsr(0x802).unwrap_or(0),
    }
}

fn store32(address: u64, value: u64) -> Result<(), u8> {
    // SAFETY: the loader mapped the page.
    unsafe { attempt!("mov [rdx], eax", in("rdx") address, in("rax") value) }
}

/// Writes to every register, of every width, by every instruction.
pub(crate) fn registers(partition: &Partition) -> Outcome {
    let mut counts = Counts::default();
    match partition.apic().ok_or("apic = true is missing")? {
        Apic::Xapic => {
            for offset in (0..0x1000).step_by(16) {
                for value in [0, u64::MAX, 0x0003_0420, 0x0001_00ff] {
                    counts.add(store32(BASE + offset, value));
                }
                other_stores(BASE + offset, &mut counts);
            }
            whole_page(&mut counts);
        }
        Apic::X2apic => {
            for index in (0..0x100).map(|n| X2APIC_FIRST + n) {
                for value in [0, u64::MAX, 0x0003_0420, 0x0001_00ff] {
                    counts.add(raw::wrmsr(index, value));
                }
            }
        }
    }
    disarm(partition);
    Ok(counts)
}

/// Masks the timer, which the values above may have armed.
fn disarm(partition: &Partition) {
    const MASKED: u64 = 1 << 16;
    match partition.apic() {
        Some(Apic::Xapic) => {
            let _ = store32(BASE + 0x320, MASKED);
            let _ = store32(BASE + 0x380, 0);
        }
        Some(Apic::X2apic) => {
            let _ = raw::wrmsr(0x832, MASKED);
            let _ = raw::wrmsr(0x838, 0);
        }
        None => {}
    }
}

/// Stores that no driver uses.
fn other_stores(at: u64, counts: &mut Counts) {
    let value = 0x0001_0000_0001_0000u64;
    // SAFETY: the loader mapped the page, and nothing else is written.
    unsafe {
        counts.add(attempt!("mov [rdx], al", in("rdx") at, in("rax") value));
        counts.add(attempt!("mov [rdx], ax", in("rdx") at, in("rax") value));
        counts.add(attempt!("mov [rdx], rax", in("rdx") at, in("rax") value));
        counts.add(attempt!("mov [rdx], eax", in("rdx") at + 1, in("rax") value));
        counts.add(attempt!("mov dword ptr [rdx], 0x10000", in("rdx") at));
        counts.add(attempt!("xchg [rdx], eax", in("rdx") at, inout("rax") value => _));
        counts.add(attempt!("lock or dword ptr [rdx], eax", in("rdx") at, in("rax") value));
        counts.add(attempt!("lock xadd [rdx], eax", in("rdx") at, inout("rax") value => _));
        counts.add(attempt!("add dword ptr [rdx], eax", in("rdx") at, in("rax") value));
        counts
            .add(attempt!("push qword ptr [rdx]\npop rax", in("rdx") at, inout("rax") value => _));
        counts.add(attempt!("movnti [rdx], eax", in("rdx") at, in("rax") value));
        counts.add(
            attempt!("cmpxchg8b [rdx]", in("rdx") at & !7, inout("rax") value => _, in("rcx") 0u64),
        );
        counts.add(attempt!("sgdt [rdx]", in("rdx") at));
        counts.add(attempt!("bts dword ptr [rdx], 16", in("rdx") at));
    }
}

/// Strings of all widths over the whole page.
fn whole_page(counts: &mut Counts) {
    // SAFETY: as above.
    unsafe {
        counts.add(
            attempt!("rep stosb", inout("rdi") BASE => _, inout("rcx") 16u64 => _, in("al") 0u8),
        );
        counts.add(attempt!("rep stosd", inout("rdi") BASE => _, inout("rcx") 1024u64 => _, in("eax") 0x1_0000u32));
        counts.add(
            attempt!("rep stosq", inout("rdi") BASE => _, inout("rcx") 512u64 => _, in("rax") 0u64),
        );
        counts.add(attempt!("rep movsd", inout("rdi") BASE => _, inout("rsi") BASE => _, inout("rcx") 1024u64 => _));
    }
}
