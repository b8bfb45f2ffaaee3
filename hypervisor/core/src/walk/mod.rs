//! Walks of the guest's own page tables and stack.

mod backtrace;
mod legacy;
mod scan;
#[cfg(test)]
mod tests;

pub use backtrace::backtrace;
pub use scan::scan;

/// CR0.PG.
pub const CR0_PG: u64 = 1 << 31;
/// CR0.WP: the supervisor honours read-only pages.
pub const CR0_WP: u64 = 1 << 16;
/// CR4.PSE: 4 MiB pages in 32-bit paging.
pub const CR4_PSE: u64 = 1 << 4;
/// CR4.PAE.
pub const CR4_PAE: u64 = 1 << 5;
/// CR4.LA57: five levels.
pub const CR4_LA57: u64 = 1 << 12;
/// CR4.SMEP: the supervisor does not execute user pages.
pub const CR4_SMEP: u64 = 1 << 20;
/// EFER.LMA: long mode is active.
pub const EFER_LMA: u64 = 1 << 10;
/// EFER.NXE.
pub const EFER_NXE: u64 = 1 << 11;

pub(crate) const PRESENT: u64 = 1 << 0;
pub(crate) const WRITE: u64 = 1 << 1;
pub(crate) const USER: u64 = 1 << 2;
pub(crate) const LARGE: u64 = 1 << 7;
pub(crate) const NO_EXECUTE: u64 = 1 << 63;
pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The registers that control the guest's paging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paging {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
}

/// What kind of access to translate for. All false: a supervisor's read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A write.
    pub write: bool,
    /// From privilege level 3.
    pub user: bool,
    /// An instruction fetch.
    pub execute: bool,
}

impl Access {
    /// A supervisor's read.
    pub const READ: Self = Self {
        write: false,
        user: false,
        execute: false,
    };
    /// A supervisor's instruction fetch.
    pub const FETCH: Self = Self {
        write: false,
        user: false,
        execute: true,
    };
}

/// Why a virtual address has no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkFault {
    /// An entry on the way is not present.
    NotPresent,
    /// The page is there, but not for this access.
    Rights,
    /// An entry has a reserved bit set. (Bits above the processor's physical
    /// address width are not checked: reading there fails instead.)
    Reserved,
    /// The address is not canonical.
    NonCanonical,
    /// The guest's table is at an address that cannot be read.
    Unreadable,
}

/// Translates the guest-virtual address `va` to a guest-physical one (Intel
/// SDM vol. 3, "Paging"): no paging, 32-bit, PAE, 4-level and 5-level. `mem`
/// reads the 8 bytes at an 8-byte-aligned guest-physical address.
///
/// It reads at most five entries and sets no accessed or dirty bits. SMAP and
/// protection keys are not applied: they depend on more than the access.
///
/// # Errors
/// [`WalkFault`].
#[inline]
pub fn translate(
    mem: &mut impl FnMut(u64) -> Option<u64>,
    paging: &Paging,
    va: u64,
    access: Access,
) -> Result<u64, WalkFault> {
    if paging.efer & EFER_LMA != 0 && paging.cr0 & CR0_PG != 0 {
        long(mem, paging, va, access)
    } else {
        legacy::translate(mem, paging, va, access)
    }
}

/// Four and five levels.
#[inline]
fn long(
    mem: &mut impl FnMut(u64) -> Option<u64>,
    paging: &Paging,
    va: u64,
    access: Access,
) -> Result<u64, WalkFault> {
    let mut table = paging.cr3 & ADDRESS;
    // The rights of a page are those that every entry on the way grants.
    let mut all = WRITE | USER;
    let mut any = 0;
    if paging.cr4 & CR4_LA57 == 0 {
        if !canonical(va, 48) {
            return Err(WalkFault::NonCanonical);
        }
    } else {
        if !canonical(va, 57) {
            return Err(WalkFault::NonCanonical);
        }
        let entry = mem(table | ((va >> 45) & 0xff8)).ok_or(WalkFault::Unreadable)?;
        if entry & PRESENT == 0 {
            return Err(WalkFault::NotPresent);
        }
        if entry & LARGE != 0 {
            return Err(WalkFault::Reserved);
        }
        all &= entry;
        any |= entry;
        table = entry & ADDRESS;
    }
    let mut shift = 39;
    loop {
        let entry = mem(table | ((va >> (shift - 3)) & 0xff8)).ok_or(WalkFault::Unreadable)?;
        if entry & PRESENT == 0 {
            return Err(WalkFault::NotPresent);
        }
        all &= entry;
        any |= entry;
        if shift == 12 || entry & LARGE != 0 {
            let offset = (1 << shift) - 1;
            // PAT is the lowest address bit of a large page's entry.
            let reserved = offset & ADDRESS & !(1 << 12);
            if shift == 39 || entry & reserved != 0 && shift != 12 {
                return Err(WalkFault::Reserved);
            }
            check(all, any, paging, access)?;
            return Ok((entry & ADDRESS & !offset) | (va & offset));
        }
        table = entry & ADDRESS;
        shift -= 9;
    }
}

/// Whether bits 63 to `bits - 1` of `va` are all equal.
#[inline]
pub(crate) const fn canonical(va: u64, bits: u32) -> bool {
    let shift = 64 - bits;
    ((va << shift).cast_signed() >> shift).cast_unsigned() == va
}

/// Applies the rights of a page: `all` is the AND of the entries that lead to
/// it, `any` their OR (Intel SDM vol. 3, "Determination of Access Rights").
#[inline]
pub(crate) fn check(all: u64, any: u64, paging: &Paging, access: Access) -> Result<(), WalkFault> {
    if any & NO_EXECUTE != 0 && (access.execute || paging.efer & EFER_NXE == 0) {
        return Err(if paging.efer & EFER_NXE == 0 {
            WalkFault::Reserved
        } else {
            WalkFault::Rights
        });
    }
    let user_page = all & USER != 0;
    let denied = (access.user && !user_page)
        || (access.write && all & WRITE == 0 && (access.user || paging.cr0 & CR0_WP != 0))
        || (access.execute && !access.user && user_page && paging.cr4 & CR4_SMEP != 0);
    if denied {
        Err(WalkFault::Rights)
    } else {
        Ok(())
    }
}
