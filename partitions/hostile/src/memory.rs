//! Memory that is somebody else's, and nonsense where the hypervisor reads the
//! partition's own: one kind for each restart, because each is a violation.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use cloister_runtime::paging::map_device_page;
use cloister_runtime::{Partition, println};

use crate::{Counts, Outcome, raw, strict};

#[derive(Clone, Copy, Debug)]
enum How {
    Read,
    Write,
    Change,
    Execute,
}

/// All of `count` attempts ended the program, and none came back.
fn refused(count: usize) -> Counts {
    Counts {
        refused: count as u64,
        ..Counts::default()
    }
}

/// Goes through the places, one a restart. Coming back from one is an error.
pub(crate) fn foreign(partition: &Partition) -> Outcome {
    use How::{Change, Execute, Read, Write};
    let info = partition.info();
    let memory = info.memory;
    let info_page = (&raw const *info).addr() as u64;
    let console_end = info.console_gpa + 0x4000;
    let places = [
        (Read, memory),
        (Write, memory),
        (Execute, memory),
        (Change, memory + 0x3f_f000),
        (Write, info_page),
        (Change, info_page),
        (Write, info.counters_gpa),
        (Read, console_end),
        (Write, console_end),
        (Read, 0xa_0000_0000),
        // PCI, MMCONFIG, IO-APIC, HPET, local APIC, firmware.
        (Read, 0xb000_0000),
        (Write, 0xe000_0000),
        (Write, 0xfec0_0000),
        (Write, 0xfed0_0000),
        (Write, 0xfee0_0300),
        (Read, 0xfee0_0020),
        (Execute, 0xfee0_0000),
        (Read, 0xffff_fff0),
        (Execute, 0xffff_fff0),
        (Read, 1 << 32),
        (Write, 1 << 38),
        (Change, (1 << 39) - 0x1000),
    ];
    let index = usize::try_from(partition.restarts()).unwrap_or(usize::MAX);
    let Some(&(how, address)) = places.get(index) else {
        return Ok(refused(places.len()));
    };
    println!("{how:?} {address:#x}");
    map_device_page(address).map_err(|_| "a page could not be mapped")?;
    strict()?;
    // SAFETY: somebody else's memory, which does not exist for this program:
    // it ends here.
    let result = unsafe {
        match how {
            Read => raw::attempt!("mov rax, [rdx]", in("rdx") address, inout("rax") 0u64 => _),
            Write => raw::attempt!("mov [rdx], rax", in("rdx") address, in("rax") u64::MAX),
            Change => {
                raw::attempt!("lock xadd [rdx], rax", in("rdx") address, inout("rax") 1u64 => _)
            }
            Execute => raw::attempt!("call rdx", in("rdx") address, inout("rax") 0u64 => _),
        }
    };
    println!("it came back: {result:?}");
    Err("foreign memory was reached")
}

/// A page of the program, of which each is used for one thing.
#[repr(C, align(4096))]
struct Page([AtomicU64; 512]);

impl Page {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    fn address(&self) -> u64 {
        (&raw const *self).addr() as u64
    }

    fn set(&self, index: usize, value: u64) {
        if let Some(entry) = self.0.get(index) {
            entry.store(value, Ordering::Release);
        }
    }
}

/// CPUID with these stack and frame pointers: a violation, whose backtrace
/// reads through the second.
#[inline(never)]
fn cpuid_with(rsp: u64, rbp: u64) {
    // SAFETY: the stack and frame pointers are put back behind the CPUID,
    // which does not use them; RBX is put back as well.
    unsafe {
        asm!(
            "mov r12, rsp",
            "mov r13, rbp",
            "mov r14, rbx",
            "mov rsp, {rsp}",
            "mov rbp, {rbp}",
            "xor eax, eax",
            "cpuid",
            "mov rsp, r12",
            "mov rbp, r13",
            "mov rbx, r14",
            rsp = in(reg) rsp,
            rbp = in(reg) rbp,
            out("rax") _, out("rcx") _, out("rdx") _,
            out("r12") _, out("r13") _, out("r14") _,
            options(nostack)
        );
    }
}

/// Goes through nonsense for RSP and RBP, one a restart.
pub(crate) fn frames(partition: &Partition) -> Outcome {
    static FRAMES: Page = Page::new();
    let memory = partition.info().memory;
    let own = FRAMES.address();
    // A frame that is its own caller, and a chain that does not end.
    FRAMES.set(0, own);
    FRAMES.set(1, 0xdead);
    for index in (2..510).step_by(2) {
        FRAMES.set(index, own + (index as u64 + 2) * 8);
        FRAMES.set(index + 1, 0xffff_8000_0000_0000 + index as u64);
    }
    let pointers = [
        (0, 0),
        (1, 1),
        (u64::MAX, u64::MAX),
        (7, u64::MAX - 7),
        (1 << 47, 1 << 47),
        (0xffff_8000_0000_0000, 0xffff_8000_0000_0000),
        (memory, memory - 8),
        (memory, memory),
        (memory - 4, memory - 4),
        (0xfee0_0000, 0xfee0_0000),
        (0x1000, 0xff8),
        (0x8000_0000_0000_0000, 0x7fff_ffff_ffff_fff8),
        (own, own),
        (own, own + 16),
        (own + 3, own + 19),
        (partition.info().console_gpa, partition.info().counters_gpa),
        (
            partition.info().console_gpa + 0x4000 - 8,
            partition.info().console_gpa + 0x4000 - 8,
        ),
    ];
    each(partition, &pointers, |&(rsp, rbp)| cpuid_with(rsp, rbp))
}

const PRESENT: u64 = 3;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Goes through page tables that loop or lie outside memory, one a restart.
pub(crate) fn tables(partition: &Partition) -> Outcome {
    static LOOP: Page = Page::new();
    let memory = partition.info().memory;
    let root = raw::read_cr3().map_err(|_| "CR3 cannot be read")? & ADDRESS;
    let root_index = |address: u64| usize::try_from(address >> 39 & 0x1ff).unwrap_or(0);
    let pml4 = core::ptr::with_exposed_provenance::<Page>(usize::try_from(root).unwrap_or(0));
    // SAFETY: the loader put the table there, in memory that is mapped at its
    // own address.
    let pml4 = unsafe { &*pml4 };
    let itself = LOOP.address();
    for index in 0..512 {
        LOOP.set(index, itself | PRESENT);
    }
    // A table for all of the second 512 GiB that is every level at once; the
    // root as its own entry; tables beyond memory, in the shared pages, at the
    // local APIC, and beyond what a processor addresses.
    let above = 1u64 << 39;
    let kinds = [
        itself | PRESENT,
        root | PRESENT,
        memory | PRESENT,
        (memory - 0x1000) | PRESENT,
        partition.info().counters_gpa | PRESENT,
        0xfee0_0000 | PRESENT,
        0x000f_ffff_ffff_f000 | PRESENT,
        u64::MAX,
        itself | PRESENT | 1 << 7,
        0,
    ];
    each(partition, &kinds, |&entry| {
        pml4.set(root_index(above), entry);
        let frame = if entry == root | PRESENT {
            // Twice through the root: the table itself as a frame.
            above | above >> 9 | above >> 18 | above >> 27
        } else {
            above + 0x1230
        };
        cpuid_with(frame, frame);
    })
}

/// Under STRICT, what `act` does with the one of `kinds` whose turn it is.
fn each<T: core::fmt::Debug>(partition: &Partition, kinds: &[T], act: impl Fn(&T)) -> Outcome {
    let index = usize::try_from(partition.restarts()).unwrap_or(usize::MAX);
    let Some(kind) = kinds.get(index) else {
        return Ok(refused(kinds.len()));
    };
    println!("{kind:x?}");
    strict()?;
    act(kind);
    Err("a violation was lived through")
}
