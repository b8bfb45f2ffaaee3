//! The functions' configuration space, by ports and in memory.

use core::ops::RangeInclusive;

use crate::arch::pci::{DATA, selected};
use crate::control::Control;
use crate::control::function::VirtualFunction;
use crate::run::Core;
use crate::virt::guest::Guest;
use crate::virt::{PortAccess, Vendor};

/// The ports that must exit for it.
pub(crate) const PORTS: RangeInclusive<u16> = DATA..=DATA + 3;

/// Looks at an access by Linux to one of [`PORTS`]. `None`: it is not about
/// a virtual function, and goes to the hardware. `Some`: served, with what an
/// input reads.
pub(crate) fn port<V: Vendor>(core: &mut Core<V>, access: PortAccess, value: u32) -> Option<u32> {
    let control = core.system.control?;
    if core.partition.is_some() || !PORTS.contains(&access.port()) {
        return None;
    }
    let selected = selected().filter(|at| at.bus == 0)?;
    let on_device = |function: &&VirtualFunction| function.address().0 == selected.device;
    let mut on_device = control.functions.iter().filter(on_device).peekable();
    on_device.peek()?;
    let Some(function) = on_device.find(|function| function.address().1 == selected.function)
    else {
        return Some(u32::MAX);
    };
    let offset = u16::from(selected.register) + (access.port() - DATA);
    if access.is_input() {
        return Some(function.read_config(offset, access.width()));
    }
    function.write_config(core, offset, access.width(), value);
    Some(0)
}

impl Control {
    /// Maps what is read of the configuration spaces in memory into `linux`,
    /// before it runs. Says whether there was memory for that.
    pub(crate) fn map_config<V: Vendor>(&self, linux: &Guest<V>) -> bool {
        let mut functions = self.functions.iter();
        functions.all(|function| function.map_config(linux).is_ok())
    }

    /// The function whose configuration space in memory is the page at `gpa`.
    pub(super) fn with_config(&self, page: u64) -> Option<&VirtualFunction> {
        self.functions
            .iter()
            .find(|function| function.is_config(page))
    }
}
