//! MSR and I/O permission maps (AMD APM vol. 2, 15.10 "IOIO Intercepts" and
//! 15.11 "MSR Intercepts"). A set bit exits.

use crate::arch::memory::FramePool;
use crate::virt::Permissions;

/// Bytes of the MSR permission map: two bits an MSR, four ranges of 2 KiB.
const MSR_BYTES: usize = 2 * 4096;
/// Bytes of the I/O permission map: one bit a port, and those that an access
/// of several bytes at port FFFFh reaches.
const IO_BYTES: usize = 3 * 4096;

/// The maps of one guest.
#[derive(Debug)]
pub(crate) struct SvmPermissions {
    msrs: &'static mut [u8; MSR_BYTES],
    ports: &'static mut [u8; IO_BYTES],
}

/// Byte and shift of the pair of bits for MSR `index`: bit 0 of the pair is
/// for reads, bit 1 for writes.
fn msr_slot(index: u32) -> Option<(usize, u32)> {
    let base = match index {
        0..=0x1fff => 0,
        0xc000_0000..=0xc000_1fff => 0x800,
        0xc001_0000..=0xc001_1fff => 0x1000,
        _ => return None,
    };
    let bit = (index & 0x1fff) * 2;
    Some((base + bit as usize / 8, bit % 8))
}

fn put(byte: &mut u8, bit: u32, on: bool) {
    if on {
        *byte |= 1 << bit;
    } else {
        *byte &= !(1 << bit);
    }
}

impl SvmPermissions {
    /// Host-physical address of the MSR permission map.
    pub(super) fn msrpm(&self) -> u64 {
        self.msrs.as_ptr() as u64
    }

    /// Host-physical address of the I/O permission map.
    pub(super) fn iopm(&self) -> u64 {
        self.ports.as_ptr() as u64
    }

    fn set_msr(&mut self, index: u32, write: u32, exits: bool) {
        if let Some((byte, shift)) = msr_slot(index)
            && let Some(byte) = self.msrs.get_mut(byte)
        {
            put(byte, shift + write, exits);
        }
    }
}

impl Permissions for SvmPermissions {
    fn new(pool: &FramePool) -> Option<Self> {
        // SAFETY: bytes may have any value.
        let msrs = unsafe { pool.pages(2, 4096)?.leak::<[u8; MSR_BYTES]>() };
        // SAFETY: as above.
        let ports = unsafe { pool.pages(3, 4096)?.leak::<[u8; IO_BYTES]>() };
        msrs.fill(0xff);
        ports.fill(0xff);
        Some(Self { msrs, ports })
    }

    fn set_msr_read(&mut self, index: u32, exits: bool) {
        self.set_msr(index, 0, exits);
    }

    fn set_msr_write(&mut self, index: u32, exits: bool) {
        self.set_msr(index, 1, exits);
    }

    fn set_port(&mut self, port: u16, exits: bool) {
        if let Some(byte) = self.ports.get_mut(usize::from(port / 8)) {
            put(byte, u32::from(port % 8), exits);
        }
    }
}
