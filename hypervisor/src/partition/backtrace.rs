//! A guest's memory as its own code sees it, read with every step checked.

use cloister_abi::BACKTRACE_FRAMES;
use cloister_core::walk::{self, Access, Paging};
use heapless::Vec;

use crate::virt::guest::Guest;
use crate::virt::{GuestKind, Mode, Vcpu, Vendor, reg};

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

/// Return addresses of the guest, innermost first; the first is RIP. A kernel
/// without frame pointers has its stack searched for them ([`walk::scan`]).
pub(crate) fn take<V: Vendor>(guest: &Guest<V>, vcpu: &V::Vcpu) -> Vec<u64, BACKTRACE_FRAMES> {
    let mode = vcpu.mode();
    let rip = vcpu.rip();
    let rbp = vcpu.register(reg::RBP);
    let read = |address| {
        let gpa = translate(guest, &mode, address, Access::READ)?;
        guest.read_u64(gpa)
    };
    let frames = walk::backtrace(read, rip, rbp);
    /// A frame pointer that is none is good for one address by chance.
    const CHANCE: usize = 2;
    if guest.kind != GuestKind::Linux || mode.cpl != 0 || frames.len() > CHANCE {
        return frames;
    }
    let code = |address: u64| {
        let mut bytes = [0; 7];
        let start = address.checked_sub(bytes.len() as u64)?;
        for (at, byte) in (start..).zip(&mut bytes) {
            let gpa = translate(guest, &mode, at, Access::READ)?;
            *byte = guest.read_u64(gpa & !7)?.to_le_bytes()[(gpa & 7) as usize];
        }
        Some(bytes)
    };
    walk::scan(read, code, rip, vcpu.register(reg::RSP))
}

/// `frames` as records hold them: zeros follow.
pub(crate) fn padded(frames: &[u64]) -> [u64; BACKTRACE_FRAMES] {
    let mut padded = [0; BACKTRACE_FRAMES];
    for (to, from) in padded.iter_mut().zip(frames) {
        *to = *from;
    }
    padded
}
