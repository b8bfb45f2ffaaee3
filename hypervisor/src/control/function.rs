//! One virtual function: its configuration space, and its BARs. Where Linux
//! puts a BAR, the pages behind it appear in its memory.

use cloister_core::nested::{MapError, MemoryType, Rights};
use cloister_core::pci::{BARS, Function, Identity};
use heapless::Vec;
use spin::Mutex;

use crate::arch::memory::{FramePool, PAGE};
use crate::arch::window::Window;
use crate::control::statistics;
use crate::cores::{self, Request};
use crate::run::Core;
use crate::virt::guest::Guest;
use crate::virt::{Vcpu, Vendor};

/// How often the BARs of a function may be placed: a move can use up pages of
/// the pool, and Linux moves BARs a few times in its life.
const MOVES: u32 = 64;

/// BARs of one function that are in use.
pub(super) type Bars = Vec<Bar, 3>;

/// A BAR that is in use.
pub(super) struct Bar {
    pub(super) index: usize,
    /// A power of two of at least a page.
    pub(super) bytes: u32,
    pub(super) contents: Contents,
}

/// What is behind a BAR.
pub(super) enum Contents {
    /// Pages from here and there, read-only.
    Pages(&'static statistics::Pages),
    /// Memory in one piece.
    Run { address: u64, rights: Rights },
}

/// Where a function is on bus 0.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// 0 to 31.
    pub(super) device: u8,
    /// 0 to 7.
    pub(super) function: u8,
    /// It is function 0 of a device that has others.
    pub(super) shared: bool,
}

/// One virtual function.
pub(super) struct VirtualFunction {
    place: Place,
    /// Where its configuration space is in memory, on machines that have one.
    ecam: Option<u64>,
    /// What is read there.
    config: Window,
    bars: Bars,
    state: Mutex<State>,
}

struct State {
    registers: Function,
    /// Where each of the BARs in use is in Linux's memory.
    placed: [Option<u64>; 3],
    /// How often one was placed.
    moves: u32,
}

impl VirtualFunction {
    /// Makes the function; `ecam` is where bus 0's configuration space is in
    /// memory. `None` when the pool is empty.
    pub(super) fn create(
        identity: &Identity,
        place: Place,
        ecam: Option<u64>,
        bars: Bars,
        pool: &FramePool,
    ) -> Option<Self> {
        let mut sizes = [0; BARS];
        for bar in &bars {
            *sizes.get_mut(bar.index)? = bar.bytes;
        }
        let identity = Identity {
            multifunction: place.shared,
            ..*identity
        };
        let offset = u64::from(place.device) << 15 | u64::from(place.function) << 12;
        let this = Self {
            place,
            ecam: ecam.and_then(|base| base.checked_add(offset)),
            config: Window::new(&mut pool.page()?),
            bars,
            state: Mutex::new(State {
                registers: Function::new(&identity, &sizes),
                placed: [None; 3],
                moves: 0,
            }),
        };
        this.show_config(&this.state.lock().registers);
        Some(this)
    }

    /// Device and function number.
    pub(super) const fn address(&self) -> (u8, u8) {
        (self.place.device, self.place.function)
    }

    /// Whether `page` is its configuration space in memory.
    pub(super) fn is_config(&self, page: u64) -> bool {
        self.ecam == Some(page)
    }

    /// Where its BAR `index` is in Linux's memory.
    pub(super) fn placed(&self, index: usize) -> Option<u64> {
        let slot = self.bars.iter().position(|bar| bar.index == index)?;
        self.state.lock().placed.get(slot).copied().flatten()
    }

    /// Maps what is read of the configuration space in memory into `linux`,
    /// before it runs.
    pub(super) fn map_config<V: Vendor>(&self, linux: &Guest<V>) -> Result<(), MapError> {
        let Some(ecam) = self.ecam else { return Ok(()) };
        let page = self.config.address();
        linux.with_nested(|nested, tables| {
            nested.remap_page(tables, ecam, page, Rights::READ, MemoryType::WriteBack)
        })
    }

    /// Brings the copy in memory up to date.
    fn show_config(&self, registers: &Function) {
        for (offset, register) in (0..).step_by(4).zip(registers.registers()) {
            self.config.write_u32(offset, *register);
        }
    }

    /// What Linux reads of the configuration space.
    pub(super) fn read_config(&self, offset: u16, width: u8) -> u32 {
        self.state.lock().registers.read(offset, width)
    }

    /// Linux writes to the configuration space.
    pub(super) fn write_config<V: Vendor>(
        &self,
        core: &mut Core<V>,
        offset: u16,
        width: u8,
        value: u32,
    ) {
        let mut state = self.state.lock();
        state.registers.write(offset, width, value);
        self.show_config(&state.registers);
        self.place(core, &mut state);
    }

    /// Moves what is behind the BARs to where they decode now. Only Linux's
    /// cores have translations to forget: each drops them before it enters
    /// Linux again.
    fn place<V: Vendor>(&self, core: &mut Core<V>, state: &mut State) {
        let mut changed = false;
        for (bar, placed) in self.bars.iter().zip(&mut state.placed) {
            let wanted = state.registers.window(bar.index).map(u64::from);
            if wanted == *placed {
                continue;
            }
            let bytes = u64::from(bar.bytes);
            if let Some(old) = *placed {
                remove(core, old, bytes);
                changed = true;
            }
            let now = wanted.filter(|&at| state.moves < MOVES && is_free(core, at, bytes));
            let index = bar.index;
            let (device, function) = self.address();
            if let Some(at) = now {
                state.moves += 1;
                if show(core, bar, at).is_err() {
                    log::error!(
                        "hypervisor.memory is used up: BAR {index} of 00:{device:02x}.{function}"
                    );
                    remove(core, at, bytes);
                }
                changed = true;
            } else if let Some(at) = wanted {
                log::warn!(
                    "linux put BAR {index} of 00:{device:02x}.{function} at {at:#x}: not free"
                );
            }
            *placed = now;
        }
        if changed {
            core.vcpu.flush_nested();
            for other in core.guest.cpus.iter().filter(|&other| other != core.number) {
                cores::core(other).ask(Request::Flush);
            }
        }
    }
}

/// Whether nothing is at the range but address space for devices.
fn is_free<V: Vendor>(core: &Core<V>, at: u64, bytes: u64) -> bool {
    core.guest.with_nested(|nested, tables| {
        (0..bytes / PAGE).all(|page| {
            let gpa = at + page * PAGE;
            nested.lookup(tables, gpa).is_none_or(|there| {
                there.hpa == gpa
                    && there.memory_type == MemoryType::Uncacheable
                    && there.rights.write
            })
        })
    })
}

/// Device address space again, as at boot.
fn remove<V: Vendor>(core: &Core<V>, at: u64, bytes: u64) {
    core.guest.with_nested(|nested, tables| {
        let _ = nested
            .unmap(tables, at, bytes)
            .and_then(|()| nested.map(tables, at, at, bytes, Rights::RWX, MemoryType::Uncacheable));
    });
}

/// Maps what is behind `bar` at `at`.
fn show<V: Vendor>(core: &Core<V>, bar: &Bar, at: u64) -> Result<(), MapError> {
    core.guest
        .with_nested(|nested, tables| match &bar.contents {
            Contents::Pages(pages) => pages.pages().try_for_each(|(offset, hpa)| {
                let gpa = at + offset;
                nested.remap_page(tables, gpa, hpa, Rights::READ, MemoryType::WriteBack)
            }),
            Contents::Run { address, rights } => {
                let bytes = u64::from(bar.bytes);
                nested.unmap(tables, at, bytes)?;
                nested.map(tables, at, *address, bytes, *rights, MemoryType::WriteBack)
            }
        })
}
