//! What the statistics BAR is made of: the pages in which the hypervisor
//! itself keeps counters, states, traces and consoles.

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use cloister_abi::control::{
    CONSOLES_OFFSET, COUNTERS_OFFSET, INTERRUPTS_OFFSET, PartitionStatus, STATISTICS_BYTES,
    STATISTICS_MAGIC, STATUS_OFFSET, StatisticsHeader, TRACES_OFFSET,
};
use cloister_abi::interrupts::InterruptTable;
use cloister_abi::shared::ConsoleRing;
use cloister_abi::trace::TraceRing;
use cloister_abi::{CoreCounters, MAX_PARTITIONS, VERSION};
use cloister_manifest::CpuSet;

use crate::arch::memory::{Frame, FramePool, PAGE};
use crate::cores;
use crate::virt::Vendor;

const PAGES: usize = STATISTICS_BYTES as usize / 4096;

/// Host-physical addresses of all pages of the BAR.
pub(crate) struct Pages {
    header: &'static StatisticsHeader,
    /// A page of zeros, where there is nothing.
    nothing: u64,
    addresses: heapless::Vec<u64, PAGES>,
}

/// Every partition's status.
pub(crate) type Table = [PartitionStatus; MAX_PARTITIONS];

/// Makes the table, of zeros.
pub(crate) fn table(pool: &FramePool) -> Option<&'static Table> {
    let pages = (size_of::<Table>() as u64).div_ceil(PAGE);
    let table: &'static mut Table = pool.pages(pages, PAGE)?.zeroed()?;
    Some(table)
}

impl Pages {
    /// A BAR that shows `status` and the counters and traces of `cores` cores.
    /// `None` when the pool is empty.
    pub(crate) fn new(status: &'static Table, number: usize, pool: &FramePool) -> Option<Self> {
        let header: &'static StatisticsHeader = pool.page().and_then(Frame::zeroed)?;
        let nothing = pool.page()?.address();
        let mut addresses = heapless::Vec::new();
        addresses.resize(PAGES, nothing).ok()?;
        let mut this = Self {
            header,
            nothing,
            addresses,
        };
        this.add(0, header);
        this.add(STATUS_OFFSET, status);
        for core in 0..number {
            let index = u32::try_from(core).ok()?;
            if let Some(counters) = cores::core(core).counters() {
                this.add(COUNTERS_OFFSET + index * size::<CoreCounters>(), counters);
            }
            if let Some(ring) = cores::core(core).trace() {
                this.add(TRACES_OFFSET + index * size::<TraceRing>(), ring);
            }
            if let Some(watch) = cores::core(core).watch() {
                let offset = INTERRUPTS_OFFSET + index * size::<InterruptTable>();
                this.add(offset, &watch.table);
            }
        }
        header.cores.store(small(number), Ordering::Relaxed);
        header.status.store(STATUS_OFFSET, Ordering::Relaxed);
        header.counters.store(COUNTERS_OFFSET, Ordering::Relaxed);
        header.consoles.store(CONSOLES_OFFSET, Ordering::Relaxed);
        header.traces.store(TRACES_OFFSET, Ordering::Relaxed);
        header
            .interrupts
            .store(INTERRUPTS_OFFSET, Ordering::Relaxed);
        pool.show_left(&header.memory_left);
        header.version.store(VERSION, Ordering::Relaxed);
        header.magic.store(STATISTICS_MAGIC, Ordering::Relaxed);
        Some(this)
    }

    /// Tells what only the system knows: Linux's cores, how many partitions.
    pub(crate) fn describe<V: Vendor>(&self, linux: CpuSet, partitions: usize) {
        let header = self.header;
        let cpus = linux.iter().map(|core| 1_u64 << core);
        header.linux.store(cpus.sum(), Ordering::Relaxed);
        header
            .partitions
            .store(small(partitions), Ordering::Relaxed);
        header.vendor.store(V::HYPERCALL, Ordering::Relaxed);
        let hz = crate::exit::cpuid::tsc_hz();
        header.tsc_hz.store(hz, Ordering::Relaxed);
    }

    /// Shows the console of partition `index`.
    pub(crate) fn add_console(&mut self, index: usize, ring: &'static ConsoleRing) {
        self.add(CONSOLES_OFFSET + small(index) * size::<ConsoleRing>(), ring);
    }

    /// Offset and host-physical address of every page.
    pub(super) fn pages(&self) -> impl Iterator<Item = (u64, u64)> {
        (0..).step_by(4096).zip(self.addresses.iter().copied())
    }

    fn add<T>(&mut self, offset: u32, thing: &'static T) {
        let address = core::ptr::from_ref(thing) as u64;
        for page in 0..size::<T>().div_ceil(4096) {
            let index = (offset / 4096 + page) as usize;
            if let Some(slot) = self.addresses.get_mut(index) {
                debug_assert_eq!(*slot, self.nothing);
                *slot = address + u64::from(page) * PAGE;
            }
        }
    }
}

/// Copies `text` into a shared array, cut to what fits.
pub(crate) fn set_text(to: &[AtomicU8], length: &AtomicU32, text: &str) {
    let bytes = text.as_bytes();
    for (to, from) in to.iter().zip(bytes) {
        to.store(*from, Ordering::Relaxed);
    }
    length.store(small(bytes.len().min(to.len())), Ordering::Release);
}

#[expect(clippy::cast_possible_truncation, reason = "all of them are pages")]
const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
