//! The functions' configuration space, by ports and in memory.

use crate::control::Control;
use crate::control::function::VirtualFunction;
use crate::pci::Access;
use crate::run::Core;
use crate::virt::Vendor;
use crate::virt::guest::Guest;

/// Looks at an access by Linux to configuration space. `None`: it is not about
/// a virtual function's device. `Some`: served, with what a read finds.
pub(crate) fn config<V: Vendor>(core: &mut Core<V>, access: &Access) -> Option<u32> {
    let control = core.system.control?;
    if access.at.bus() != 0 {
        return None;
    }
    let on_device = |function: &&VirtualFunction| function.address().0 == access.at.device();
    let mut on_device = control.functions.iter().filter(on_device).peekable();
    on_device.peek()?;
    let Some(function) = on_device.find(|function| function.address().1 == access.at.function())
    else {
        return Some(u32::MAX);
    };
    let Some(value) = access.value else {
        return Some(function.read_config(access.offset, access.width));
    };
    function.write_config(core, access.offset, access.width, value);
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
