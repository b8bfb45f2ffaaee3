//! A guest's memory as its own code sees it, read with every step checked.

use cloister_abi::BACKTRACE_FRAMES;
use cloister_core::walk::{self, Access, Paging};
use heapless::Vec;

use crate::virt::guest::Guest;
use crate::virt::{Mode, Vcpu, Vendor, reg};

/// What the page-table walker needs of `mode`.
pub(crate) fn paging(mode: &Mode) -> Paging {
    Paging {
        cr0: mode.cr0,
        cr3: mode.cr3,
        cr4: mode.cr4,
        efer: mode.efer,
    }
}

/// Guest-physical address of guest-virtual `address`.
#[inline]
pub(crate) fn translate<V: Vendor>(
    guest: &Guest<V>,
    mode: &Mode,
    address: u64,
    access: Access,
) -> Option<u64> {
    walk::translate(
        &mut |gpa| guest.read_u64(gpa),
        &paging(mode),
        address,
        access,
    )
    .ok()
}

/// Return addresses of the guest, innermost first; the first is RIP.
pub(crate) fn take<V: Vendor>(guest: &Guest<V>, vcpu: &mut V::Vcpu) -> Vec<u64, BACKTRACE_FRAMES> {
    let mode = vcpu.mode();
    let rip = vcpu.rip();
    let rbp = vcpu.register(reg::RBP);
    let read = |address| {
        let gpa = translate(guest, &mode, address, Access::READ)?;
        guest.read_u64(gpa)
    };
    walk::backtrace(read, rip, rbp)
}
