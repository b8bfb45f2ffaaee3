//! The virtual PCI function through which root in Linux sees and controls the
//! partitions: `cloister_abi::control`. Nothing here runs on a partition's
//! core, and nothing that it reads makes any core exit.

mod bars;
mod calls;
mod pci;
pub(crate) mod statistics;

use cloister_abi::VERSION;
use cloister_abi::control::{
    CONTROL_BYTES, CONTROL_MAGIC, ControlPage, STATISTICS_BYTES, TRANSFER_BYTES,
};
use cloister_core::acpi::ecam_of_bus_0;
use cloister_core::pci::Function;
use core::sync::atomic::Ordering;
use spin::Mutex;

use crate::arch::memory::{Frame, FramePool, PAGE};
use crate::arch::window::Window;
use crate::boot::acpi::Firmware;

pub(crate) use calls::memory_write;
pub(crate) use pci::{PORTS, port};

/// The function.
pub(crate) struct Control {
    /// Device number on bus 0.
    device: u8,
    /// Where its configuration space is in memory, on machines that have one.
    ecam: Option<u64>,
    /// What is read there.
    config: Window,
    /// What BAR 0 shows.
    page: &'static ControlPage,
    /// What BAR 2 shows.
    statistics: statistics::Pages,
    /// What BAR 4 shows.
    transfer: Window,
    state: Mutex<State>,
}

/// What changes. Whoever holds it serves the only call there is.
struct State {
    function: Function,
    /// Where each of [`bars::WINDOWS`] is in Linux's memory.
    placed: [Option<u64>; 3],
    /// How often a window was placed.
    moves: u32,
    /// Memory for the next program image.
    spare: Option<Frame>,
}

impl Control {
    /// Makes the function, at a free place in the bus. `None`: bus 0 is full.
    ///
    /// # Errors
    /// When the pool is empty.
    pub(crate) fn create(
        firmware: &Firmware,
        statistics: statistics::Pages,
        pool: &FramePool,
    ) -> Result<Option<Self>, &'static str> {
        const NO_MEMORY: &str = "hypervisor.memory is too small for the control function";
        let Some(device) = crate::arch::pci::free_device() else {
            log::warn!("PCI bus 0 is full: Linux gets no control function");
            return Ok(None);
        };
        let pages = |bytes: u32| pool.pages(u64::from(bytes) / PAGE, PAGE).ok_or(NO_MEMORY);
        let page: &'static ControlPage = pages(CONTROL_BYTES)?.zeroed().ok_or(NO_MEMORY)?;
        page.magic.store(CONTROL_MAGIC, Ordering::Relaxed);
        page.version.store(u64::from(VERSION), Ordering::Relaxed);
        let mcfg = firmware.table(b"MCFG");
        let ecam = mcfg.and_then(|table| ecam_of_bus_0(table).ok().flatten());
        let control = Self {
            device,
            ecam: ecam.and_then(|base| base.checked_add(u64::from(device) << 15)),
            config: Window::new(&mut pages(CONTROL_BYTES)?),
            page,
            statistics,
            transfer: Window::new(&mut pages(TRANSFER_BYTES)?),
            state: Mutex::new(State {
                function: pci::function(&[
                    CONTROL_BYTES,
                    0,
                    STATISTICS_BYTES,
                    0,
                    TRANSFER_BYTES,
                    0,
                ]),
                placed: [None; 3],
                moves: 0,
                spare: None,
            }),
        };
        control.show_config(&control.state.lock().function);
        Ok(Some(control))
    }
}
