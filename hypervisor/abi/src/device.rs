//! PCI functions of a partition, as its program finds them.
//!
//! A BAR is mapped at its own host-physical address: what the function's
//! configuration space says is where the program finds it. Configuration space
//! is reached by the ports 0xcf8 and 0xcfc (PCI Local Bus Specification 3.0
//! §3.2.2.3.2), each access one exit: only the partition's own functions are
//! there, at their own addresses, and what may be written is limited.

/// Most functions of one partition.
pub const MAX_DEVICES: usize = 8;
/// BARs of a type 0 header.
pub const BARS: usize = 6;

/// The functions of a partition. One page.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4096))]
pub struct DeviceTable {
    /// Entries of `devices` in use.
    pub count: u32,
    /// Unused, 0.
    pub reserved: u32,
    /// The functions, in the order of the system file.
    pub devices: [DeviceInfo; MAX_DEVICES],
}

const _: () = assert!(size_of::<DeviceTable>() == 4096);

/// One function.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DeviceInfo {
    /// Segment in bits 31:16, then bus, device (5 bits) and function (3 bits).
    pub address: u32,
    /// Class, subclass and programming interface in bits 23:0.
    pub class: u32,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// 1: no IOMMU keeps its DMA in bounds.
    pub unprotected: u32,
    /// What is added to a guest-physical address to get the address that the
    /// function uses for DMA: 0 behind an IOMMU.
    pub dma_offset: u64,
    /// Its BARs. The upper half of a 64-bit one is empty.
    pub bars: [BarInfo; BARS],
}

/// One BAR.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BarInfo {
    /// Guest-physical address, or first port.
    pub base: u64,
    /// Bytes or ports; 0: there is no such BAR.
    pub size: u64,
    /// 0: memory. 1: ports.
    pub kind: u64,
}

const _: () = assert!(size_of::<DeviceInfo>() == 24 + BARS * 24);
