//! The virtual PCI functions of Linux: the one through which its root sees and
//! controls the partitions (`cloister_abi::control`), and one for each of its
//! channels (`cloister_abi::channel`). Nothing here runs on a partition's
//! core, and nothing that Linux reads makes any core exit.

mod calls;
mod function;
mod pci;
pub(crate) mod statistics;

use cloister_abi::VERSION;
use cloister_abi::channel::{self, FUNCTION_BYTES, MAX_CHANNELS};
use cloister_abi::control::{
    CONTROL_BYTES, CONTROL_MAGIC, ControlPage, PCI_CLASS, PCI_DEVICE, PCI_SUBSYSTEM, PCI_VENDOR,
    STATISTICS_BYTES, TRANSFER_BYTES,
};
use cloister_core::nested::Rights;
use cloister_core::pci::Identity;
use core::sync::atomic::Ordering;
use heapless::Vec;
use spin::Mutex;

use crate::arch::memory::{Frame, FramePool, PAGE};
use crate::arch::window::Window;
use crate::partition::channels::{Channels, LinuxChannel};
use crate::pci::Pci;
use function::{Bar, Contents, Place, VirtualFunction};

pub(crate) use calls::memory_write;
pub(crate) use pci::config;

/// The control function, and a function for each channel.
const MAX_FUNCTIONS: usize = 1 + MAX_CHANNELS;
/// Functions of one device.
const PER_DEVICE: usize = 8;

/// Why there are no functions.
pub(crate) enum Failure {
    /// The pool is empty.
    NoMemory,
    /// Bus 0 has no free device, and Linux has channels that need one.
    BusFull,
}

/// The functions.
pub(crate) struct Control {
    /// The first is the control function, the others are channels.
    functions: Vec<VirtualFunction, MAX_FUNCTIONS>,
    /// What BAR 0 of the control function shows.
    page: &'static ControlPage,
    /// What its BAR 4 shows.
    transfer: Window,
    /// Held while a call is served: there is one at a time.
    state: Mutex<State>,
}

/// What calls change.
struct State {
    /// Memory for the next program image.
    spare: Option<Frame>,
}

impl Control {
    /// Makes the functions, at free places in the bus. `None`: bus 0 is full,
    /// and only the control function is missed.
    ///
    /// # Errors
    /// See [`Failure`].
    pub(crate) fn create(
        machine: &Pci,
        statistics: statistics::Pages,
        channels: &Channels,
        pool: &FramePool,
    ) -> Result<Option<&'static Self>, Failure> {
        let number = 1 + channels.of_linux().count();
        let devices = machine.free_devices();
        let devices: Vec<u8, MAX_FUNCTIONS> = devices.take(number.div_ceil(PER_DEVICE)).collect();
        if devices.len() < number.div_ceil(PER_DEVICE) {
            if number > 1 {
                return Err(Failure::BusFull);
            }
            log::warn!("PCI bus 0 is full: Linux gets no control function");
            return Ok(None);
        }
        let ecam = machine.ecam.map(|ecam| ecam.base);
        let place = |index: usize| Place {
            device: devices.get(index / PER_DEVICE).copied().unwrap_or(0),
            function: u8::try_from(index % PER_DEVICE).unwrap_or(0),
            shared: index.is_multiple_of(PER_DEVICE) && index + 1 < number,
        };
        let pages = |bytes: u32| pool.pages(u64::from(bytes) / PAGE, PAGE);
        let made = || {
            let page: &'static ControlPage = pages(CONTROL_BYTES)?.zeroed()?;
            page.magic.store(CONTROL_MAGIC, Ordering::Relaxed);
            page.version.store(u64::from(VERSION), Ordering::Relaxed);
            let transfer = Window::new(&mut pages(TRANSFER_BYTES)?);
            let statistics = keep(statistics, pool)?;
            let mut functions = Vec::new();
            let bars = control_bars(page, statistics, &transfer);
            let control = VirtualFunction::create(&identity(), place(0), ecam, bars, pool)?;
            functions.push(control).ok()?;
            for (index, channel) in (1..).zip(channels.of_linux()) {
                let bars = channel_bars(&channel)?;
                let identity = channel_identity();
                let function = VirtualFunction::create(&identity, place(index), ecam, bars, pool)?;
                functions.push(function).ok()?;
            }
            let control = Self {
                functions,
                page,
                transfer,
                state: Mutex::new(State { spare: None }),
            };
            keep(control, pool)
        };
        made().map(Some).ok_or(Failure::NoMemory)
    }

    /// The control function.
    fn own(&self) -> Option<&VirtualFunction> {
        self.functions.first()
    }
}

/// Moves `value` to where it lives for ever. `None` when the pool is empty.
fn keep<T>(value: T, pool: &FramePool) -> Option<&'static T> {
    let pages = (size_of::<T>() as u64).div_ceil(PAGE);
    let value: &'static T = pool.pages(pages, PAGE)?.place(value)?;
    Some(value)
}

fn identity() -> Identity {
    Identity {
        vendor: PCI_VENDOR,
        device: PCI_DEVICE,
        subsystem: PCI_SUBSYSTEM,
        class: PCI_CLASS,
        revision: 0,
        multifunction: false,
    }
}

fn channel_identity() -> Identity {
    Identity {
        vendor: channel::PCI_VENDOR,
        device: channel::PCI_DEVICE,
        subsystem: channel::PCI_SUBSYSTEM,
        class: channel::PCI_CLASS,
        revision: channel::PCI_REVISION,
        multifunction: false,
    }
}

fn control_bars(
    page: &'static ControlPage,
    statistics: &'static statistics::Pages,
    transfer: &Window,
) -> function::Bars {
    let bar = |index, bytes, contents| Bar {
        index,
        bytes,
        contents,
    };
    let run = |address, rights| Contents::Run { address, rights };
    let page = core::ptr::from_ref(page) as u64;
    function::Bars::from_array([
        bar(0, CONTROL_BYTES, run(page, Rights::READ)),
        bar(2, STATISTICS_BYTES, Contents::Pages(statistics)),
        bar(4, TRANSFER_BYTES, run(transfer.address(), Rights::RW)),
    ])
}

/// `None` for a size that no manifest with a size that is possible has.
fn channel_bars(channel: &LinuxChannel) -> Option<function::Bars> {
    let bar = |index, bytes, address, rights| Bar {
        index,
        bytes,
        contents: Contents::Run { address, rights },
    };
    let size = u32::try_from(channel.size).ok()?;
    let bars = [
        bar(0, FUNCTION_BYTES, channel.page, Rights::READ),
        bar(2, size, channel.block, Rights::RW),
    ];
    Some(bars.into_iter().collect())
}
