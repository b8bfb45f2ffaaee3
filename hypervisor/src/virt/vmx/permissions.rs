//! MSR bitmap and I/O bitmaps (Intel SDM vol. 3, "MSR-Bitmap Address" and
//! "I/O-Bitmap Addresses"). A set bit exits.

use crate::arch::memory::FramePool;
use crate::virt::Permissions;

const PAGE_BYTES: usize = 4096;
/// Where the four maps of 1 KiB stand in the MSR bitmap.
const WRITE: usize = 2048;
const HIGH: usize = 1024;
/// MSRs in each of the two ranges.
const RANGE: u32 = 0x2000;
const HIGH_BASE: u32 = 0xc000_0000;

/// The permission maps of one guest.
pub(crate) struct VmxPermissions {
    msrs: &'static mut [u8; PAGE_BYTES],
    /// Ports 0 to 0x7fff, then 0x8000 to 0xffff.
    ports: &'static mut [u8; 2 * PAGE_BYTES],
}

impl VmxPermissions {
    /// Physical address of the MSR bitmap.
    pub(super) fn msr_bitmap(&self) -> u64 {
        self.msrs.as_ptr() as u64
    }

    /// Physical addresses of I/O bitmaps A and B.
    pub(super) fn io_bitmaps(&self) -> [u64; 2] {
        let a = self.ports.as_ptr() as u64;
        [a, a + PAGE_BYTES as u64]
    }

    fn set_msr(&mut self, index: u32, map: usize, exits: bool) {
        let (base, offset) = if index < RANGE {
            (map, index)
        } else if let Some(offset) = index.checked_sub(HIGH_BASE).filter(|&o| o < RANGE) {
            (map + HIGH, offset)
        } else {
            return;
        };
        set_bit(self.msrs, base * 8 + offset as usize, exits);
    }
}

impl Permissions for VmxPermissions {
    fn new(pool: &FramePool) -> Option<Self> {
        // SAFETY: zeroed bytes are valid arrays of bytes.
        let (msrs, ports) = unsafe {
            (
                pool.page()?.leak::<[u8; PAGE_BYTES]>(),
                pool.pages(2, PAGE_BYTES as u64)?
                    .leak::<[u8; 2 * PAGE_BYTES]>(),
            )
        };
        msrs.fill(0xff);
        ports.fill(0xff);
        Some(Self { msrs, ports })
    }

    fn set_msr_read(&mut self, index: u32, exits: bool) {
        self.set_msr(index, 0, exits);
    }

    fn set_msr_write(&mut self, index: u32, exits: bool) {
        self.set_msr(index, WRITE, exits);
    }

    fn set_port(&mut self, port: u16, exits: bool) {
        set_bit(self.ports, usize::from(port), exits);
    }
}

/// Sets or clears bit `number` of `map`; one outside of it is ignored.
fn set_bit(map: &mut [u8], number: usize, on: bool) {
    if let Some(byte) = map.get_mut(number / 8) {
        let mask = 1 << (number % 8);
        *byte = if on { *byte | mask } else { *byte & !mask };
    }
}
