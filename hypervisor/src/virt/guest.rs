//! A guest's address space and permissions: shared by all of its cores.

use cloister_core::nested::{Builder, MapError, MemoryType, Rights, Translation};
use cloister_manifest::CpuSet;
use heapless::Vec;
use spin::Mutex;

use crate::arch::memory::FramePool;
use crate::arch::paging::PoolTables;
use crate::virt::{GuestKind, Permissions as _, Vendor};

const MAX_PIECES: usize = 32;
/// Bytes of the longest read within a [`Piece`].
const LONGEST: u64 = 16;

/// Eight bytes at any address.
#[repr(C, packed)]
struct Unaligned(u64);

/// Memory that is the guest's for good.
struct Piece {
    /// Guest-physical address.
    start: u64,
    /// How far behind it a read of up to [`LONGEST`] bytes may start.
    room: u64,
    /// Host-physical address of the start.
    hpa: u64,
}

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
    /// RAM that is found without the nested page table; the largest first.
    pieces: Vec<Piece, MAX_PIECES>,
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
            pieces: Vec::new(),
        })
    }

    /// Remembers that the guest's memory at `gpa`, `len` bytes, lies at
    /// host-physical `hpa` for good. A piece too many is found through the
    /// nested page table.
    pub(crate) fn note_memory(&mut self, gpa: u64, hpa: u64, len: u64) {
        let room = (len + 1).saturating_sub(LONGEST);
        let start = gpa;
        if self.pieces.push(Piece { start, room, hpa }).is_ok() {
            self.pieces
                .sort_unstable_by_key(|piece| core::cmp::Reverse(piece.room));
        }
    }

    /// Host-physical address of the nested page table's root.
    pub(crate) const fn nested_root(&self) -> u64 {
        self.root
    }

    /// Bytes left for page tables, of all guests together.
    pub(crate) fn tables_left(&self) -> u64 {
        self.pool.left()
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

    /// Host-physical address of `gpa`, if up to [`LONGEST`] bytes from there lie
    /// in one of the pieces.
    #[inline(always)]
    fn in_piece(&self, gpa: u64) -> Option<u64> {
        self.pieces
            .iter()
            .map(|piece| (gpa.wrapping_sub(piece.start), piece))
            .find(|(offset, piece)| *offset < piece.room)
            .map(|(offset, piece)| piece.hpa + offset)
    }

    /// Reads eight bytes at `gpa`, aligned to eight.
    #[inline]
    pub(crate) fn read_u64(&self, gpa: u64) -> Option<u64> {
        let hpa = match self.in_piece(gpa) {
            Some(hpa) => hpa,
            None => self.in_tables(gpa)?,
        };
        // SAFETY: memory of the guest, mapped in the hypervisor at its own
        // address; volatile, because the guest may write it meanwhile.
        Some(unsafe { (hpa as *const Unaligned).read_volatile() }.0)
    }

    /// Host-physical address of the eight bytes at `gpa`, aligned to eight.
    #[cold]
    fn in_tables(&self, gpa: u64) -> Option<u64> {
        let page = self.lookup(gpa).filter(is_memory)?;
        gpa.is_multiple_of(8).then_some(page.hpa)
    }

    /// Reads the sixteen bytes at `gpa`; `None` where that takes more than one
    /// look.
    #[inline]
    pub(crate) fn read_sixteen(&self, gpa: u64) -> Option<[u8; 16]> {
        let hpa = self.in_piece(gpa)?;
        // SAFETY: as in `read_u64`.
        let [low, high] = unsafe {
            let words = hpa as *const Unaligned;
            [words.read_volatile().0, words.add(1).read_volatile().0]
        };
        Some((u128::from(high) << 64 | u128::from(low)).to_le_bytes())
    }
}

/// Reading device registers has side effects: only memory is read for guests.
fn is_memory(page: &Translation) -> bool {
    page.memory_type == MemoryType::WriteBack
}
