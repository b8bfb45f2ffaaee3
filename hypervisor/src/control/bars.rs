//! Where Linux puts the BARs, the pages behind them appear in its memory.

use cloister_abi::control::{CONTROL_BYTES, STATISTICS_BYTES, TRANSFER_BYTES};
use cloister_core::nested::{MapError, MemoryType, Rights};

use crate::arch::memory::PAGE;
use crate::control::{Control, State};
use crate::cores::{self, Request};
use crate::run::Core;
use crate::virt::{Vcpu, Vendor};

/// BARs in use, and their bytes.
pub(super) const WINDOWS: [(usize, u32); 3] = [
    (0, CONTROL_BYTES),
    (2, STATISTICS_BYTES),
    (4, TRANSFER_BYTES),
];
/// How often windows may be placed: a move can use up pages of the pool, and
/// Linux moves BARs a few times in its life.
const MOVES: u32 = 64;

/// Moves the windows to where the BARs decode now. Only Linux's cores have
/// translations to forget: each drops them before it enters Linux again.
pub(super) fn place<V: Vendor>(control: &Control, core: &mut Core<V>, state: &mut State) {
    let mut changed = false;
    for (index, (bar, bytes)) in WINDOWS.into_iter().enumerate() {
        let wanted = state.function.window(bar).map(u64::from);
        let placed = state.placed.get(index).copied().flatten();
        if wanted == placed {
            continue;
        }
        if let Some(old) = placed {
            remove(core, old, u64::from(bytes));
            changed = true;
        }
        let now = wanted.filter(|&at| state.moves < MOVES && is_free(core, at, u64::from(bytes)));
        if let Some(at) = now {
            state.moves += 1;
            if show(control, core, bar, at).is_err() {
                log::error!("hypervisor.memory is used up: BAR {bar} of the control function");
                remove(core, at, u64::from(bytes));
            }
            changed = true;
        } else if let Some(at) = wanted {
            log::warn!("linux put BAR {bar} of the control function at {at:#x}: not free");
        }
        if let Some(placed) = state.placed.get_mut(index) {
            *placed = now;
        }
    }
    if changed {
        core.vcpu.flush_nested();
        for other in core.guest.cpus.iter().filter(|&other| other != core.number) {
            cores::core(other).ask(Request::Flush);
        }
    }
}

/// Whether nothing is at the range but address space for devices.
fn is_free<V: Vendor>(core: &Core<V>, at: u64, bytes: u64) -> bool {
    core.guest.with_nested(|nested, tables| {
        (0..bytes / PAGE).all(|page| {
            let gpa = at + page * PAGE;
            nested.lookup(tables, gpa).is_none_or(|there| {
                there.hpa == gpa
                    && there.memory_type == MemoryType::Uncacheable
                    && there.rights.write
            })
        })
    })
}

/// Device address space again, as at boot.
fn remove<V: Vendor>(core: &Core<V>, at: u64, bytes: u64) {
    core.guest.with_nested(|nested, tables| {
        let _ = nested
            .unmap(tables, at, bytes)
            .and_then(|()| nested.map(tables, at, at, bytes, Rights::RWX, MemoryType::Uncacheable));
    });
}

/// Maps what is behind `bar` at `at`.
fn show<V: Vendor>(control: &Control, core: &Core<V>, bar: usize, at: u64) -> Result<(), MapError> {
    core.guest.with_nested(|nested, tables| {
        let mut page = |offset: u64, hpa: u64, rights| {
            let gpa = at + offset;
            nested.remap_page(tables, gpa, hpa, rights, MemoryType::WriteBack)
        };
        match bar {
            0 => page(0, core::ptr::from_ref(control.page) as u64, Rights::READ),
            2 => control
                .statistics
                .pages()
                .try_for_each(|(offset, hpa)| page(offset, hpa, Rights::READ)),
            _ => (0..u64::from(TRANSFER_BYTES))
                .step_by(4096)
                .try_for_each(|offset| {
                    page(offset, control.transfer.address() + offset, Rights::RW)
                }),
        }
    })
}
