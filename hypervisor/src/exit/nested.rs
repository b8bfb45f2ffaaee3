//! Guest-physical accesses that the nested page table does not allow.

use cloister_abi::Reason;
use cloister_core::decode;
use cloister_core::nested::{MemoryType, Rights};

use crate::control;
use crate::exit::{Next, Served, apic};
use crate::partition::{Partition, life};
use crate::pci;
use crate::report;
use crate::run::Core;
use crate::virt::{Access, Event, Vcpu, Vendor};

/// What a first touch maps: the page size of the tables' second level.
const LARGE: u64 = 2 << 20;

/// Serves a nested page fault.
#[inline(never)]
pub(crate) fn serve<V: Vendor>(
    core: &mut Core<V>,
    gpa: u64,
    access: Access,
    during_walk: bool,
) -> Served {
    if apic::is_write(core, gpa, access) {
        return apic::write(core, gpa);
    }
    let next = match core.partition {
        Some(partition) => in_partition(core, partition, gpa, access),
        None => in_linux(core, gpa, access, during_walk),
    };
    Served::new(Reason::NestedPageFault, next)
}

/// A partition touches its RAM for the first time, or what it does not own:
/// there is nothing true to return then, so it ends.
fn in_partition<V: Vendor>(
    core: &mut Core<V>,
    partition: &'static Partition<V>,
    gpa: u64,
    access: Access,
) -> Next {
    if gpa >= partition.block.len() {
        if access == Access::Write
            && !partition.devices.is_empty()
            && let Some(next) = pci::memory_write(core, gpa)
        {
            return next;
        }
        let verb = match access {
            Access::Read => "read",
            Access::Write => "wrote",
            Access::Execute => "executed",
        };
        let rip = core.vcpu.rip();
        return life::fail(
            core,
            format_args!("{verb} guest-physical {gpa:#x}, which it does not own, at rip {rip:#x}"),
        );
    }
    let start = gpa & !(LARGE - 1);
    let length = LARGE.min(partition.block.len() - start);
    let mapped = partition.guest.with_nested(|nested, tables| {
        // Another core of the partition may have been faster.
        nested.lookup(tables, gpa).is_some()
            || nested
                .map(
                    tables,
                    start,
                    partition.block.range().start + start,
                    length,
                    Rights::RWX,
                    MemoryType::WriteBack,
                )
                .is_ok()
    });
    if mapped {
        return Next::Resume;
    }
    life::fail(
        core,
        format_args!("hypervisor.memory is used up: no table for {gpa:#x}"),
    )
}

/// Linux reaches for what is not its own, or for device memory above what was
/// mapped at boot.
fn in_linux<V: Vendor>(core: &mut Core<V>, gpa: u64, access: Access, during_walk: bool) -> Next {
    let Some(linux) = &core.system.linux else {
        return Next::Park;
    };
    let translation = core.guest.lookup(gpa);
    if translation.is_none() && !linux.is_foreign(gpa) && linux.map_device(gpa) {
        return Next::Resume;
    }
    if access == Access::Write
        && !during_walk
        && let Some(next) =
            control::memory_write(core, gpa).or_else(|| pci::memory_write(core, gpa))
    {
        return next;
    }
    report::refused(
        core,
        Reason::NestedPageFault,
        format_args!("{access:?} of foreign memory at {gpa:#x}"),
    );
    // Foreign memory reads as ones without an exit. What comes here is a write,
    // which is dropped, or a fetch.
    let length = match access {
        Access::Write if !during_walk => {
            apic::fetch(core).and_then(|code| decode::length(code.bytes(), code.mode))
        }
        _ => None,
    };
    match length {
        Some(length) => core.vcpu.skip_by(length),
        None => core.vcpu.inject(Event::GP),
    }
    Next::Resume
}
