//! Translation outside long mode: no paging, 32-bit paging, PAE paging (Intel
//! SDM vol. 3, "32-Bit Paging", "PAE Paging").

use super::{
    ADDRESS, Access, CR0_PG, CR4_PAE, CR4_PSE, LARGE, NO_EXECUTE, PRESENT, Paging, USER, WRITE,
    WalkFault, check,
};

/// Bits 62:52, reserved in PAE paging.
const PAE_HIGH: u64 = 0x7ff0_0000_0000_0000;
/// Bits 8:5 and 2:1 and everything above the address: reserved in a PDPTE.
const PDPTE_RESERVED: u64 = PAE_HIGH | NO_EXECUTE | 0x1e6;

pub(super) fn translate(
    mem: &mut impl FnMut(u64) -> Option<u64>,
    paging: &Paging,
    va: u64,
    access: Access,
) -> Result<u64, WalkFault> {
    if va > u64::from(u32::MAX) {
        return Err(WalkFault::NonCanonical);
    }
    if paging.cr0 & CR0_PG == 0 {
        Ok(va)
    } else if paging.cr4 & CR4_PAE != 0 {
        pae(mem, paging, va, access)
    } else {
        two_level(mem, paging, va, access)
    }
}

fn pae(
    mem: &mut impl FnMut(u64) -> Option<u64>,
    paging: &Paging,
    va: u64,
    access: Access,
) -> Result<u64, WalkFault> {
    let top = (paging.cr3 & 0xffff_ffe0) | ((va >> 30) << 3);
    let pointer = mem(top).ok_or(WalkFault::Unreadable)?;
    if pointer & PRESENT == 0 {
        return Err(WalkFault::NotPresent);
    }
    if pointer & PDPTE_RESERVED != 0 {
        return Err(WalkFault::Reserved);
    }
    let mut table = pointer & ADDRESS;
    let mut all = WRITE | USER;
    let mut any = 0;
    for shift in [21_u32, 12] {
        let entry = mem(table | ((va >> (shift - 3)) & 0xff8)).ok_or(WalkFault::Unreadable)?;
        if entry & PRESENT == 0 {
            return Err(WalkFault::NotPresent);
        }
        let leaf = shift == 12 || entry & LARGE != 0;
        if entry & PAE_HIGH != 0 || (leaf && shift == 21 && entry & 0x001f_e000 != 0) {
            return Err(WalkFault::Reserved);
        }
        all &= entry;
        any |= entry;
        if leaf {
            check(all, any, paging, access)?;
            let offset = (1 << shift) - 1;
            return Ok((entry & ADDRESS & !offset) | (va & offset));
        }
        table = entry & ADDRESS;
    }
    Err(WalkFault::NotPresent)
}

fn two_level(
    mem: &mut impl FnMut(u64) -> Option<u64>,
    paging: &Paging,
    va: u64,
    access: Access,
) -> Result<u64, WalkFault> {
    let directory = read32(mem, (paging.cr3 & 0xffff_f000) | ((va >> 20) & 0xffc))?;
    if directory & LARGE != 0 && paging.cr4 & CR4_PSE != 0 {
        // Bits 20:13 hold address bits 39:32 (PSE-36); bit 21 is reserved.
        if directory & (1 << 21) != 0 {
            return Err(WalkFault::Reserved);
        }
        check(directory, 0, paging, access)?;
        let high = (directory & 0x001f_e000) << 19;
        return Ok(high | (directory & 0xffc0_0000) | (va & 0x003f_ffff));
    }
    let page = read32(mem, (directory & 0xffff_f000) | ((va >> 10) & 0xffc))?;
    check(directory & page, 0, paging, access)?;
    Ok((page & 0xffff_f000) | (va & 0xfff))
}

/// A present 4-byte entry.
fn read32(mem: &mut impl FnMut(u64) -> Option<u64>, at: u64) -> Result<u64, WalkFault> {
    let pair = mem(at & !7).ok_or(WalkFault::Unreadable)?;
    let entry = (pair >> ((at & 4) * 8)) & 0xffff_ffff;
    if entry & PRESENT == 0 {
        Err(WalkFault::NotPresent)
    } else {
        Ok(entry)
    }
}
