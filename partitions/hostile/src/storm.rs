//! Storms, and loops without an end: the core must stay stoppable.

use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicBool, Ordering};

use cloister_runtime::{Apic, Partition, cpu, interrupts, println, provoke};

use crate::raw::{self, attempt};
use crate::{Counts, Outcome, apic};

/// A storm of faults and traps.
pub(crate) fn exceptions() -> Outcome {
    const ROUNDS: u64 = 20_000;
    let mut counts = Counts::default();
    for _ in 0..ROUNDS {
        // SAFETY: each raises an exception, and nothing else.
        let results = unsafe {
            [
                attempt!("ud2"),
                attempt!("int3"),
                attempt!("mov rax, [rdx]", in("rdx") 0x8000_0000_0000_0000u64, inout("rax") 0u64 => _),
                attempt!("mov rax, [rdx]", in("rdx") 1u64 << 46, inout("rax") 0u64 => _),
                attempt!("div ecx", in("ecx") 0u32, inout("eax") 1u32 => _, inout("edx") 0u32 => _),
            ]
        };
        for (result, vector) in results.into_iter().zip([6, 3, 13, 14, 0]) {
            if result != Err(vector) {
                println!("{result:?}, expected {vector}");
                return Err("an exception was lost or became another");
            }
            counts.refused += 1;
        }
    }
    Ok(counts)
}

/// A storm of NMIs from this core to itself.
pub(crate) fn nmis(partition: &Partition) -> Outcome {
    const ROUNDS: u64 = 5_000;
    const NMI: u8 = 2;
    let controller = partition.apic().ok_or("apic = true is missing")?;
    let own = apic::id(controller);
    let mut counts = Counts::default();
    for _ in 0..ROUNDS {
        counts.add(apic::send_nmi(controller, own));
    }
    cpu::wait(100_000);
    let taken = interrupts::count(NMI);
    println!("sent {} taken {taken}", counts.done);
    if taken == 0 || taken > ROUNDS {
        return Err("NMIs were lost, or came from nowhere");
    }
    Ok(counts)
}

/// Gates of two words each (Intel SDM vol. 3, "64-Bit IDT Gate Descriptors").
#[repr(C, align(16))]
struct Gates([[u64; 2]; 32]);

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

static mut GATES: Gates = Gates([[0; 2]; 32]);

/// All exceptions lead to `plain`, those with an error code to `with_error`.
///
/// # Safety
/// One core calls it, and nothing needs the runtime's handlers any more.
unsafe fn own_gates(plain: unsafe extern "C" fn(), with_error: unsafe extern "C" fn()) {
    const WITH_ERROR: u32 = 0x6022_7d00;
    for vector in 0..32 {
        let handler = if WITH_ERROR >> vector & 1 == 0 {
            plain
        } else {
            with_error
        };
        let address = handler as *const () as u64;
        let low = address & 0xffff | 0x08 << 16 | 0x8e00 << 32 | (address & 0xffff_0000) << 32;
        // SAFETY: one core, and inside the table.
        unsafe { (&raw mut GATES.0[vector]).write_volatile([low, address >> 32]) };
    }
    let pointer = Pointer {
        limit: 511,
        base: (&raw const GATES).addr() as u64,
    };
    // SAFETY: every gate leads to one of the caller's handlers.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, readonly)) }
}

/// Back to where the exception came from.
#[unsafe(naked)]
unsafe extern "C" fn again() {
    naked_asm!("iretq")
}

#[unsafe(naked)]
unsafe extern "C" fn again_with_error() {
    naked_asm!("add rsp, 8", "iretq")
}

/// Back, one instruction at a time.
#[unsafe(naked)]
unsafe extern "C" fn step() {
    naked_asm!("or dword ptr [rsp + 16], 0x100", "iretq")
}

/// Never back.
#[unsafe(naked)]
unsafe extern "C" fn stay() {
    naked_asm!("2:", "jmp 2b")
}

macro_rules! forever {
    ($($code:literal),+ $(; $($operand:tt)*)?) => {
        asm!("2:", $($code,)+ "jmp 2b", $($($operand)*,)? options(noreturn))
    };
}

/// Core 0 is about to enter its loop.
static INSIDE: AtomicBool = AtomicBool::new(false);

/// Core 0 goes into the loop, core 1 ends the partition.
pub(crate) fn endless(partition: &Partition) -> Outcome {
    let wait = partition.number("wait", 50_000_000).unwrap_or(50_000_000);
    if partition.core() != 0 {
        while !INSIDE.load(Ordering::Acquire) {
            cpu::pause();
        }
        cpu::wait(wait);
        provoke::triple_fault();
    }
    let kind = partition.arg("kind").unwrap_or_default();
    println!("into {kind}");
    INSIDE.store(true, Ordering::Release);
    // SAFETY: the program never comes back from here, and the gates suit the
    // loops.
    unsafe {
        match kind {
            "spin" => forever!("nop"),
            "pause" => forever!("pause"),
            "halt" => forever!("cli", "hlt"),
            "halt-open" => forever!("sti", "hlt"),
            "cpuid" => forever!("xor eax, eax", "cpuid"),
            "rdmsr" => forever!("mov ecx, 0x10", "rdmsr"),
            "out" => forever!("out 0x80, al"),
            "wbinvd" => forever!("wbinvd"),
            // Without paging the rest is nonsense of some sort.
            "paging" => {
                let _ = raw::write_cr0(0x11);
                forever!("nop")
            }
            "real" => {
                let _ = raw::write_cr0(0x10);
                forever!("nop")
            }
            "cr3" => forever!("mov rax, cr3", "mov cr3, rax"),
            "string" => forever!(
                "xor esi, esi",
                "mov esi, 0x1000",
                "mov edi, 0x200000",
                "mov ecx, 0x100000",
                "rep movsb"
            ),
            "int3" => {
                own_gates(again, again_with_error);
                forever!("int3")
            }
            "icebp" => {
                own_gates(again, again_with_error);
                forever!(".byte 0xf1")
            }
            "ud" => {
                own_gates(again, again_with_error);
                forever!("ud2")
            }
            "gp" => {
                own_gates(again, again_with_error);
                forever!("mov rax, [rdx]"; in("rdx") 1u64 << 63)
            }
            "msr-gp" => {
                own_gates(again, again_with_error);
                forever!("rdmsr"; in("ecx") 0x480)
            }
            "step" => {
                own_gates(step, again_with_error);
                forever!("pushfq", "or dword ptr [rsp], 0x100", "popfq", "nop")
            }
            "alignment" => crate::align::check_forever(),
            "hypercall" | "flush" => flood(kind),
            _ => {}
        }
    }
    let controller = partition
        .apic()
        .ok_or("no such kind of loop, or apic = true is missing")?;
    with_apic(controller, kind)
}

fn flood(kind: &str) -> ! {
    let number = if kind == "flush" { 2 } else { 0 };
    loop {
        if kind == "flush" {
            cloister_runtime::print!("{kind} ");
        }
        cloister_runtime::hypercall::hypercall(number, 0, 0, 0);
    }
}

/// Loops that need the local APIC.
fn with_apic(controller: Apic, kind: &str) -> Outcome {
    let own = apic::id(controller);
    match kind {
        "nmi" => loop {
            let _ = apic::send_nmi(controller, own);
        },
        // The NMI's handler never returns: NMIs stay blocked.
        "nmi-blocked" => {
            // SAFETY: ends here.
            unsafe { own_gates(stay, stay) };
            loop {
                let _ = apic::send_nmi(controller, own);
            }
        }
        // Takes another identity, so that a kick would miss it.
        "identity" => {
            match controller {
                Apic::Xapic => {
                    // SAFETY: the loader mapped the page.
                    let _ = unsafe {
                        attempt!("mov [rdx], eax", in("rdx") 0xfee0_0020u64, in("eax") 0x7f00_0000u32)
                    };
                }
                Apic::X2apic => {
                    let _ = raw::wrmsr(0x802, 0x7f);
                }
            }
            println!("id is {:#x}, was {own:#x}", apic::id(controller));
            // SAFETY: ends here.
            unsafe { forever!("pause") }
        }
        // A timer that fires all the time, with interrupts on.
        "timer" => {
            const PERIODIC: u64 = 1 << 17;
            match controller {
                Apic::Xapic => {
                    for (offset, value) in [
                        (0xf0, 0x1ff),
                        (0x3e0, 0xb),
                        (0x320, PERIODIC | 0x40),
                        (0x380, 50_000),
                    ] {
                        // SAFETY: as above.
                        let _ = unsafe {
                            attempt!("mov [rdx], eax", in("rdx") 0xfee0_0000u64 + offset, in("rax") value)
                        };
                    }
                }
                Apic::X2apic => {
                    for (index, value) in [
                        (0x80f, 0x1ff),
                        (0x83e, 0xb),
                        (0x832, PERIODIC | 0x40),
                        (0x838, 50_000),
                    ] {
                        let _ = raw::wrmsr(index, value);
                    }
                }
            }
            cpu::sti();
            // SAFETY: ends here.
            unsafe { forever!("pause") }
        }
        _ => Err("no such kind of loop"),
    }
}
