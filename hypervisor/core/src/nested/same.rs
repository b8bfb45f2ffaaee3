//! A range of any size on one page, with shared lower tables.

use super::builder::{Builder, MapError, checked_end, entry_end, index};
use super::{ENTRIES, Format, HPA_END, MemoryType, PAGE, Rights, Tables, page_size};

/// The shared tables of levels 1 to 3 that one call has made so far.
struct Shared<F> {
    tables: [Option<u64>; 3],
    leaf: u64,
    format: core::marker::PhantomData<F>,
}

impl<F: Format> Shared<F> {
    /// The table of `level` (1 to 3) in which every address is the page.
    fn table<T: Tables>(&mut self, tables: &mut T, level: u8) -> Result<u64, MapError> {
        if let Some(Some(table)) = self.tables.get(usize::from(level) - 1) {
            return Ok(*table);
        }
        let entry = if level == 1 {
            self.leaf
        } else {
            self.entry(tables, level - 1)?
        };
        let table = tables.allocate().ok_or(MapError::OutOfTables)?;
        for slot in 0..ENTRIES {
            tables.write(table, slot, entry);
        }
        if let Some(made) = self.tables.get_mut(usize::from(level) - 1) {
            *made = Some(table);
        }
        Ok(table)
    }

    /// Entry that points to the shared table of `level`, marked as shared.
    fn entry<T: Tables>(&mut self, tables: &mut T, level: u8) -> Result<u64, MapError> {
        Ok(F::table(self.table(tables, level)?, level + 1) | F::IGNORED)
    }
}

impl<F: Format> Builder<F> {
    /// Maps every page of the range to the one page at `page_hpa`, write-back:
    /// a foreign range that reads as ones, at the cost of at most three shared
    /// tables and three private ones at each edge, however long it is.
    ///
    /// Shared tables are never released, except when this call fails.
    ///
    /// # Errors
    /// Any [`MapError`]; nothing of the range is mapped then.
    pub fn map_same_page<T: Tables>(
        &mut self,
        tables: &mut T,
        gpa: u64,
        len: u64,
        page_hpa: u64,
        rights: Rights,
    ) -> Result<(), MapError> {
        let end = checked_end(gpa, len)?;
        if !page_hpa.is_multiple_of(PAGE) {
            return Err(MapError::Misaligned);
        }
        if page_hpa >= HPA_END {
            return Err(MapError::OutOfRange);
        }
        if !rights.read {
            return Err(MapError::Unreadable);
        }
        if !self.is_free(tables, gpa, len) {
            return Err(MapError::Overlap);
        }
        let mut shared = Shared::<F> {
            tables: [None; 3],
            leaf: F::leaf(page_hpa, 1, rights, MemoryType::WriteBack),
            format: core::marker::PhantomData,
        };
        let result = Self::share(tables, self.root, F::LEVELS, gpa, end, &mut shared);
        if result.is_err() {
            self.clear(tables, self.root, F::LEVELS, gpa, end);
            for table in shared.tables.into_iter().flatten() {
                tables.release(table);
            }
        }
        result
    }

    fn share<T: Tables>(
        tables: &mut T,
        table: u64,
        level: u8,
        mut gpa: u64,
        end: u64,
        shared: &mut Shared<F>,
    ) -> Result<(), MapError> {
        while gpa < end {
            let next = entry_end(gpa, level, end);
            let slot = index(gpa, level);
            if level == 1 {
                tables.write(table, slot, shared.leaf);
            } else if next - gpa == page_size(level) {
                let entry = shared.entry(tables, level - 1)?;
                Self::replace(tables, table, slot, level, entry);
            } else {
                let lower = Self::descend(tables, table, slot, level)?;
                Self::share(tables, lower, level - 1, gpa, next, shared)?;
            }
            gpa = next;
        }
        Ok(())
    }
}
