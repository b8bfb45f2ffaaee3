//! Builds and changes one nested page table.

use core::marker::PhantomData;

use super::{ENTRIES, Format, GPA_END, HPA_END, MemoryType, PAGE, Rights, Tables, page_size};

/// Why a nested page table was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// [`Tables::allocate`] returned `None`.
    OutOfTables,
    /// Something in the range is mapped already.
    Overlap,
    /// An address or the length is no multiple of 4 KiB, or the length is 0.
    Misaligned,
    /// The range ends beyond 2^48 guest-physical or 2^52 host-physical.
    OutOfRange,
    /// The rights do not include reading: no such page can be mapped.
    Unreadable,
}

impl core::fmt::Display for MapError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::OutOfTables => "no memory left for nested page tables",
            Self::Overlap => "the range is mapped already",
            Self::Misaligned => "addresses and length must be multiples of 4 KiB, length not 0",
            Self::OutOfRange => "the range ends beyond the physical address space",
            Self::Unreadable => "a nested page must be readable",
        })
    }
}

/// Where a guest-physical address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Host-physical address of the byte.
    pub hpa: u64,
    /// Size of the page: 1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB.
    pub level: u8,
    /// Rights of the page.
    pub rights: Rights,
    /// Memory type of the page.
    pub memory_type: MemoryType,
}

/// One nested page table.
///
/// Every method that fails leaves all translations as they were, except where
/// it says otherwise. None of them flushes anything: after a change to a
/// translation that a core may have used, the caller flushes.
#[derive(Debug)]
pub struct Builder<F: Format> {
    pub(super) root: u64,
    max_level: u8,
    format: PhantomData<F>,
}

pub(super) fn index(gpa: u64, level: u8) -> usize {
    ((gpa >> (12 + 9 * (u32::from(level) - 1))) & 0x1ff) as usize
}

/// First address after `gpa` that starts a new entry at `level`, or `end`.
pub(super) fn entry_end(gpa: u64, level: u8, end: u64) -> u64 {
    let size = page_size(level);
    ((gpa | (size - 1)) + 1).min(end)
}

/// Checks a guest-physical range and returns its end.
pub(super) fn checked_end(gpa: u64, len: u64) -> Result<u64, MapError> {
    if len == 0 || !(gpa | len).is_multiple_of(PAGE) {
        return Err(MapError::Misaligned);
    }
    gpa.checked_add(len)
        .filter(|end| *end <= GPA_END)
        .ok_or(MapError::OutOfRange)
}

impl<F: Format> Builder<F> {
    /// An empty nested page table. `gib_pages`: the processor maps 1 GiB pages
    /// (IA32_VMX_EPT_VPID_CAP bit 17; CPUID 8000_0001 EDX bit 26).
    ///
    /// # Errors
    /// [`MapError::OutOfTables`].
    pub fn new(tables: &mut impl Tables, gib_pages: bool) -> Result<Self, MapError> {
        Self::with_pages(tables, if gib_pages { 3 } else { 2 })
    }

    /// The same, with pages up to those of level `largest`: 1 = 4 KiB,
    /// 2 = 2 MiB, 3 = 1 GiB.
    ///
    /// # Errors
    /// [`MapError::OutOfTables`].
    pub fn with_pages(tables: &mut impl Tables, largest: u8) -> Result<Self, MapError> {
        let root = tables.allocate().ok_or(MapError::OutOfTables)?;
        Ok(Self {
            root,
            max_level: largest.clamp(1, 3),
            format: PhantomData,
        })
    }

    /// Host-physical address of the top-level table.
    #[must_use]
    pub const fn root(&self) -> u64 {
        self.root
    }

    /// Address of the table of level 3 in which addresses below 512 GiB are
    /// looked up: the root for hardware that walks three levels.
    ///
    /// # Errors
    /// [`MapError::OutOfTables`]: it was not there yet.
    pub fn table_of_zero<T: Tables>(&self, tables: &mut T) -> Result<u64, MapError> {
        Self::descend(tables, self.root, 0, F::LEVELS)
    }

    /// Maps `len` bytes at `gpa` to `hpa` with the largest pages that the
    /// alignment of `gpa`, `hpa` and what is left of `len` allows.
    ///
    /// # Errors
    /// Any [`MapError`]; nothing of the range is mapped then.
    pub fn map<T: Tables>(
        &mut self,
        tables: &mut T,
        gpa: u64,
        hpa: u64,
        len: u64,
        rights: Rights,
        memory_type: MemoryType,
    ) -> Result<(), MapError> {
        let end = checked_end(gpa, len)?;
        if !hpa.is_multiple_of(PAGE) {
            return Err(MapError::Misaligned);
        }
        if hpa.checked_add(len).is_none_or(|end| end > HPA_END) {
            return Err(MapError::OutOfRange);
        }
        if !rights.read {
            return Err(MapError::Unreadable);
        }
        if !self.is_free(tables, gpa, len) {
            return Err(MapError::Overlap);
        }
        let page = |at: u64, level: u8| F::leaf(hpa + (at - gpa), level, rights, memory_type);
        let fits = |at: u64, level: u8| (hpa + (at - gpa)).is_multiple_of(page_size(level));
        let result = self.fill(tables, self.root, F::LEVELS, gpa, end, &fits, &page);
        if result.is_err() {
            self.clear(tables, self.root, F::LEVELS, gpa, end);
        }
        result
    }

    /// Maps what of the range is not mapped as [`Self::map`] would. A page that
    /// is smaller than that is removed first; no other translation is missing
    /// for a moment. What is mapped already must lead to `hpa` in the same way.
    ///
    /// # Errors
    /// Any [`MapError`]; part of the range may be mapped, and no more than what
    /// one page of the largest size would cover has gone.
    pub fn complete<T: Tables>(
        &mut self,
        tables: &mut T,
        gpa: u64,
        hpa: u64,
        len: u64,
        rights: Rights,
        memory_type: MemoryType,
    ) -> Result<(), MapError> {
        let end = checked_end(gpa, len)?;
        let mut at = gpa;
        while at < end {
            let to = hpa + (at - gpa);
            let fits = |&level: &u8| {
                let size = page_size(level);
                size <= end - at && at.is_multiple_of(size) && to.is_multiple_of(size)
            };
            let level = (1..=self.max_level).rev().find(fits).unwrap_or(1);
            let size = page_size(level);
            let there = self.lookup(tables, at);
            if there.is_none_or(|there| there.level < level) {
                self.unmap(tables, at, size)?;
                self.map(tables, at, to, size, rights, memory_type)?;
            }
            at += size;
        }
        Ok(())
    }

    /// Removes whatever is mapped in the range; holes are no error. Large
    /// pages at its edges are split.
    ///
    /// # Errors
    /// [`MapError::Misaligned`], [`MapError::OutOfRange`], and
    /// [`MapError::OutOfTables`] when an edge could not be split.
    pub fn unmap<T: Tables>(&mut self, tables: &mut T, gpa: u64, len: u64) -> Result<(), MapError> {
        let end = checked_end(gpa, len)?;
        self.split_at(tables, gpa)?;
        self.split_at(tables, end)?;
        self.clear(tables, self.root, F::LEVELS, gpa, end);
        Ok(())
    }

    /// Gives everything that is mapped in the range new rights; holes stay
    /// holes. Large pages at its edges are split; each page changes by one
    /// store.
    ///
    /// # Errors
    /// As [`Self::unmap`], and [`MapError::Unreadable`].
    pub fn protect<T: Tables>(
        &mut self,
        tables: &mut T,
        gpa: u64,
        len: u64,
        rights: Rights,
    ) -> Result<(), MapError> {
        let end = checked_end(gpa, len)?;
        if !rights.read {
            return Err(MapError::Unreadable);
        }
        self.split_at(tables, gpa)?;
        self.split_at(tables, end)?;
        Self::unshare(tables, self.root, F::LEVELS, gpa, end)?;
        Self::set_rights(tables, self.root, F::LEVELS, gpa, end, rights);
        Ok(())
    }

    /// Maps the one 4 KiB page at `gpa` to `hpa`, whatever was there before:
    /// a large page around it is split. The page changes by one store.
    ///
    /// # Errors
    /// Any [`MapError`] but [`MapError::Overlap`].
    pub fn remap_page<T: Tables>(
        &mut self,
        tables: &mut T,
        gpa: u64,
        hpa: u64,
        rights: Rights,
        memory_type: MemoryType,
    ) -> Result<(), MapError> {
        let end = checked_end(gpa, PAGE)?;
        if !hpa.is_multiple_of(PAGE) {
            return Err(MapError::Misaligned);
        }
        if hpa >= HPA_END {
            return Err(MapError::OutOfRange);
        }
        if !rights.read {
            return Err(MapError::Unreadable);
        }
        self.split_at(tables, gpa)?;
        self.split_at(tables, end)?;
        let mut table = self.root;
        for level in (2..=F::LEVELS).rev() {
            table = Self::descend(tables, table, index(gpa, level), level)?;
        }
        tables.write(table, index(gpa, 1), F::leaf(hpa, 1, rights, memory_type));
        Ok(())
    }

    /// Where `gpa` leads, or `None` when nothing is mapped there.
    #[must_use]
    pub fn lookup<T: Tables>(&self, tables: &T, gpa: u64) -> Option<Translation> {
        if gpa >= GPA_END {
            return None;
        }
        let mut table = self.root;
        for level in (1..=F::LEVELS).rev() {
            let entry = tables.read(table, index(gpa, level));
            if !F::present(entry) {
                return None;
            }
            if F::is_leaf(entry, level) {
                return Some(Translation {
                    hpa: F::address(entry, level) + gpa % page_size(level),
                    level,
                    rights: F::rights(entry),
                    memory_type: F::memory_type(entry, level),
                });
            }
            table = F::address(entry, level);
        }
        None
    }

    /// Whether nothing at all is mapped in the range. A range that is
    /// misaligned or out of range is not free.
    #[must_use]
    pub fn is_free<T: Tables>(&self, tables: &T, gpa: u64, len: u64) -> bool {
        checked_end(gpa, len).is_ok_and(|end| Self::empty(tables, self.root, F::LEVELS, gpa, end))
    }

    fn empty<T: Tables>(tables: &T, table: u64, level: u8, mut gpa: u64, end: u64) -> bool {
        while gpa < end {
            let next = entry_end(gpa, level, end);
            let entry = tables.read(table, index(gpa, level));
            if F::present(entry)
                && (F::is_leaf(entry, level)
                    || !Self::empty(tables, F::address(entry, level), level - 1, gpa, next))
            {
                return false;
            }
            gpa = next;
        }
        true
    }

    /// Writes leaves over a range in which [`Self::empty`] holds.
    #[expect(clippy::too_many_arguments, reason = "one recursive step of a walk")]
    fn fill<T: Tables>(
        &self,
        tables: &mut T,
        table: u64,
        level: u8,
        mut gpa: u64,
        end: u64,
        fits: &impl Fn(u64, u8) -> bool,
        page: &impl Fn(u64, u8) -> u64,
    ) -> Result<(), MapError> {
        while gpa < end {
            let next = entry_end(gpa, level, end);
            let slot = index(gpa, level);
            if level <= self.max_level && next - gpa == page_size(level) && fits(gpa, level) {
                Self::replace(tables, table, slot, level, page(gpa, level));
            } else {
                let lower = Self::descend(tables, table, slot, level)?;
                self.fill(tables, lower, level - 1, gpa, next, fits, page)?;
            }
            gpa = next;
        }
        Ok(())
    }

    /// Clears the range; its edges have been split.
    pub(super) fn clear<T: Tables>(
        &self,
        tables: &mut T,
        table: u64,
        level: u8,
        mut gpa: u64,
        end: u64,
    ) {
        while gpa < end {
            let next = entry_end(gpa, level, end);
            let slot = index(gpa, level);
            let entry = tables.read(table, slot);
            if F::present(entry) {
                if next - gpa == page_size(level) || F::is_leaf(entry, level) {
                    Self::replace(tables, table, slot, level, 0);
                } else {
                    self.clear(tables, F::address(entry, level), level - 1, gpa, next);
                }
            }
            gpa = next;
        }
    }

    /// Writes an entry and releases the tables that only the old one reached.
    pub(super) fn replace<T: Tables>(
        tables: &mut T,
        table: u64,
        slot: usize,
        level: u8,
        value: u64,
    ) {
        let old = tables.read(table, slot);
        tables.write(table, slot, value);
        if F::present(old) && !F::is_leaf(old, level) && old & F::IGNORED == 0 {
            Self::release(tables, F::address(old, level), level - 1);
        }
    }

    fn release<T: Tables>(tables: &mut T, table: u64, level: u8) {
        for slot in 0..ENTRIES {
            let entry = tables.read(table, slot);
            if F::present(entry) && !F::is_leaf(entry, level) && entry & F::IGNORED == 0 {
                Self::release(tables, F::address(entry, level), level - 1);
            }
        }
        tables.release(table);
    }

    /// Makes sure that no page and no shared table reaches across `at`.
    pub(super) fn split_at<T: Tables>(&self, tables: &mut T, at: u64) -> Result<(), MapError> {
        let mut table = self.root;
        for level in (2..=F::LEVELS).rev() {
            if at.is_multiple_of(page_size(level)) {
                break;
            }
            let slot = index(at, level);
            if !F::present(tables.read(table, slot)) {
                break;
            }
            table = Self::descend(tables, table, slot, level)?;
        }
        Ok(())
    }

    /// The table below entry `slot`, private to it and ready to be changed:
    /// made if there is none, split out of a large page, or copied if shared.
    pub(super) fn descend<T: Tables>(
        tables: &mut T,
        table: u64,
        slot: usize,
        level: u8,
    ) -> Result<u64, MapError> {
        let entry = tables.read(table, slot);
        let present = F::present(entry);
        if present && !F::is_leaf(entry, level) && entry & F::IGNORED == 0 {
            return Ok(F::address(entry, level));
        }
        let lower = tables.allocate().ok_or(MapError::OutOfTables)?;
        if present {
            let from = F::address(entry, level);
            let mut at = from;
            for i in 0..ENTRIES {
                let value = if F::is_leaf(entry, level) {
                    let kind = F::memory_type(entry, level);
                    F::leaf(at, level - 1, F::rights(entry), kind)
                } else {
                    tables.read(from, i)
                };
                tables.write(lower, i, value);
                at += page_size(level - 1);
            }
        }
        tables.write(table, slot, F::table(lower, level));
        Ok(lower)
    }

    /// Copies every shared table in the range.
    fn unshare<T: Tables>(
        tables: &mut T,
        table: u64,
        level: u8,
        mut gpa: u64,
        end: u64,
    ) -> Result<(), MapError> {
        while gpa < end {
            let next = entry_end(gpa, level, end);
            let slot = index(gpa, level);
            let entry = tables.read(table, slot);
            if F::present(entry) && !F::is_leaf(entry, level) {
                let lower = Self::descend(tables, table, slot, level)?;
                Self::unshare(tables, lower, level - 1, gpa, next)?;
            }
            gpa = next;
        }
        Ok(())
    }

    fn set_rights<T: Tables>(
        tables: &mut T,
        table: u64,
        level: u8,
        mut gpa: u64,
        end: u64,
        rights: Rights,
    ) {
        while gpa < end {
            let next = entry_end(gpa, level, end);
            let slot = index(gpa, level);
            let entry = tables.read(table, slot);
            if F::present(entry) {
                let pa = F::address(entry, level);
                if F::is_leaf(entry, level) {
                    let kind = F::memory_type(entry, level);
                    tables.write(table, slot, F::leaf(pa, level, rights, kind));
                } else {
                    Self::set_rights(tables, pa, level - 1, gpa, next, rights);
                }
            }
            gpa = next;
        }
    }
}
