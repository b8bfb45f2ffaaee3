//! A guest's address space and permissions: shared by all of its cores.

use cloister_core::memory::Range;
use cloister_core::nested::{Builder, MapError, MemoryType, Rights, Translation};
use cloister_manifest::CpuSet;
use heapless::Vec;
use spin::Mutex;

use crate::arch::memory::FramePool;
use crate::arch::paging::PoolTables;
use crate::virt::{GuestKind, Permissions as _, Vendor};

const MAX_IDENTITY: usize = 32;

/// Linux, or one partition.
pub(crate) struct Guest<V: Vendor> {
    pub(crate) kind: GuestKind,
    pub(crate) cpus: CpuSet,
    /// ASID or VPID.
    pub(crate) asid: u16,
    pub(crate) permissions: V::Permissions,
    root: u64,
    pool: &'static FramePool,
    nested: Mutex<Builder<V::Format>>,
    /// Memory that is mapped at its own address, for good: Linux's RAM. Found
    /// without the nested page table.
    identity: Vec<Range, MAX_IDENTITY>,
}

impl<V: Vendor> Guest<V> {
    /// A guest with an empty address space that may touch nothing.
    pub(crate) fn new(
        kind: GuestKind,
        cpus: CpuSet,
        asid: u16,
        pool: &'static FramePool,
        gib_pages: bool,
    ) -> Option<Self> {
        let nested = Builder::new(&mut PoolTables(pool), gib_pages).ok()?;
        Some(Self {
            kind,
            cpus,
            asid,
            permissions: V::Permissions::new(pool)?,
            root: nested.root(),
            pool,
            nested: Mutex::new(nested),
            identity: Vec::new(),
        })
    }

    /// Remembers that `range` is memory mapped at its own address for good. A
    /// range too many is found through the nested page table.
    pub(crate) fn note_identity(&mut self, range: Range) {
        let _ = self.identity.push(range);
    }

    /// Host-physical address of the nested page table's root.
    pub(crate) const fn nested_root(&self) -> u64 {
        self.root
    }

    /// Works on the nested page table while nobody else does.
    pub(crate) fn with_nested<R>(
        &self,
        work: impl FnOnce(&mut Builder<V::Format>, &mut PoolTables<'_>) -> R,
    ) -> R {
        work(&mut self.nested.lock(), &mut PoolTables(self.pool))
    }

    /// Maps `len` bytes of ordinary memory.
    pub(crate) fn map(&self, gpa: u64, hpa: u64, len: u64, rights: Rights) -> Result<(), MapError> {
        self.with_nested(|nested, tables| {
            nested.map(tables, gpa, hpa, len, rights, MemoryType::WriteBack)
        })
    }

    /// Where `gpa` leads.
    pub(crate) fn lookup(&self, gpa: u64) -> Option<Translation> {
        self.with_nested(|nested, tables| nested.lookup(tables, gpa))
    }

    /// Copies guest memory at `gpa` to `to`; all of it must lie in pages that
    /// the guest may read. Returns how many bytes were copied.
    pub(crate) fn read(&self, gpa: u64, to: &mut [u8]) -> usize {
        const PAGE: u64 = 4096;
        let mut done = 0;
        while let Some(rest) = to.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let Some(at) = gpa.checked_add(done as u64) else {
                break;
            };
            let Some(page) = self.lookup(at).filter(is_memory) else {
                break;
            };
            let room = usize::try_from(PAGE - at % PAGE)
                .unwrap_or(0)
                .min(rest.len());
            let Some(part) = rest.get_mut(..room) else {
                break;
            };
            // SAFETY: the nested table says that this is memory of the guest,
            // mapped in the hypervisor at its own address; the guest may write
            // it meanwhile, so it is copied bytewise and volatile.
            unsafe {
                for (index, byte) in part.iter_mut().enumerate() {
                    *byte = (page.hpa as *const u8).add(index).read_volatile();
                }
            }
            done += room;
        }
        done
    }

    /// Reads eight bytes at `gpa`, aligned to eight.
    #[inline]
    pub(crate) fn read_u64(&self, gpa: u64) -> Option<u64> {
        if !gpa.is_multiple_of(8) {
            return None;
        }
        let inside = |range: &&Range| range.start <= gpa && gpa < range.end & !7;
        let hpa = match self.identity.iter().find(inside) {
            Some(_) => gpa,
            None => self.lookup(gpa).filter(is_memory)?.hpa,
        };
        // SAFETY: as in `read`.
        Some(unsafe { (hpa as *const u64).read_volatile() })
    }
}

/// Reading device registers has side effects: only memory is read for guests.
fn is_memory(page: &Translation) -> bool {
    page.memory_type == MemoryType::WriteBack
}
