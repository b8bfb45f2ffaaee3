//! The function's configuration space, by ports and in memory.

use core::ops::RangeInclusive;

use cloister_abi::control::{PCI_CLASS, PCI_DEVICE, PCI_SUBSYSTEM, PCI_VENDOR};
use cloister_core::nested::{MemoryType, Rights};
use cloister_core::pci::{BARS, Function, Identity};

use crate::arch::pci::{DATA, selected};
use crate::control::{Control, bars};
use crate::run::Core;
use crate::virt::guest::Guest;
use crate::virt::{PortAccess, Vendor};

/// The ports that must exit for it.
pub(crate) const PORTS: RangeInclusive<u16> = DATA..=DATA + 3;

/// The registers of a function with BARs of these sizes.
pub(super) fn function(sizes: &[u32; BARS]) -> Function {
    let identity = Identity {
        vendor: PCI_VENDOR,
        device: PCI_DEVICE,
        subsystem: PCI_SUBSYSTEM,
        class: PCI_CLASS,
    };
    Function::new(&identity, sizes)
}

/// Looks at an access by Linux to one of [`PORTS`]. `None`: it is not about
/// this function, and goes to the hardware. `Some`: served, with what an input
/// reads.
pub(crate) fn port<V: Vendor>(core: &mut Core<V>, access: PortAccess, value: u32) -> Option<u32> {
    let control = core.system.control.as_ref()?;
    if core.partition.is_some() || !PORTS.contains(&access.port()) {
        return None;
    }
    let selected = selected().filter(|at| at.bus == 0 && at.device == control.device)?;
    if selected.function != 0 {
        return Some(u32::MAX);
    }
    let offset = u16::from(selected.register) + (access.port() - DATA);
    if access.is_input() {
        return Some(control.state.lock().function.read(offset, access.width()));
    }
    control.write_config(core, offset, access.width(), value);
    Some(0)
}

impl Control {
    /// Maps what is read of the configuration space in memory into `linux`,
    /// before it runs.
    pub(crate) fn map_config<V: Vendor>(&self, linux: &Guest<V>) -> bool {
        let Some(ecam) = self.ecam else { return true };
        let page = self.config.address();
        linux
            .with_nested(|nested, tables| {
                nested.remap_page(tables, ecam, page, Rights::READ, MemoryType::WriteBack)
            })
            .is_ok()
    }

    /// Brings the copy in memory up to date.
    pub(super) fn show_config(&self, function: &Function) {
        for (offset, register) in (0..).step_by(4).zip(function.registers()) {
            self.config.write_u32(offset, *register);
        }
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
        state.function.write(offset, width, value);
        self.show_config(&state.function);
        bars::place(self, core, &mut state);
    }
}
