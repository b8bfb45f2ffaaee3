//! The ports 0xcf8 to 0xcff. Every guest has a configuration address of its
//! own, so that no core can change what another core's access is about.

use core::ops::RangeInclusive;
use core::sync::atomic::Ordering;

use cloister_abi::Reason;
use cloister_core::pci::Address;

use super::Selected;
use super::config::{self, Access};
use crate::run::Core;
use crate::virt::{PortAccess, Vendor};

/// Configuration address, four bytes wide only: narrower accesses reach other
/// registers of the chipset.
const ADDRESS: u16 = 0xcf8;
/// The data ports.
const DATA: u16 = 0xcfc;
/// The ports that must exit for Linux.
pub(crate) const PORTS: RangeInclusive<u16> = ADDRESS..=DATA + 3;

const ENABLE: u32 = 1 << 31;
/// Bits that are 0 in an address: reserved, and on some AMD processors more of
/// the offset.
const RESERVED: u32 = 0x7f00_0000;

/// Looks at an access to ports. `None`: it is about none of these, or a
/// narrow one to the address's bytes. `Some`: served, with what an input reads.
pub(crate) fn serve<V: Vendor>(core: &mut Core<V>, access: PortAccess, value: u32) -> Option<u32> {
    let port = access.port();
    let width = u16::from(access.width());
    let last = port.saturating_add(width.saturating_sub(1));
    if last < ADDRESS || port > *PORTS.end() {
        return None;
    }
    let selected = selected(core)?;
    match (port, width) {
        (ADDRESS, 4) if access.is_input() => return Some(selected.load(Ordering::Relaxed)),
        (ADDRESS, 4) => {
            selected.store(value, Ordering::Relaxed);
            return Some(0);
        }
        (..DATA, 1) => return None,
        // Across the registers' ends.
        (..DATA, _) => return Some(u32::MAX),
        _ => {}
    }
    let address = selected.load(Ordering::Relaxed);
    let offset = u16::from(address.to_le_bytes()[0] & !3) + (port - DATA);
    if address & (ENABLE | RESERVED) != ENABLE || last > *PORTS.end() {
        return Some(u32::MAX);
    }
    let [_, function, bus, _] = address.to_le_bytes();
    let output = !access.is_input();
    let access = Access {
        at: Address(u16::from_le_bytes([function, bus])),
        offset,
        width: access.width(),
        value: output.then_some(value),
        reason: if output {
            Reason::PortOut
        } else {
            Reason::PortIn
        },
    };
    Some(config::serve(core, access))
}

/// The configuration address of the guest on this core, if it has any business
/// there.
fn selected<V: Vendor>(core: &Core<V>) -> Option<&'static Selected> {
    match core.partition {
        Some(partition) if partition.devices.is_empty() => None,
        Some(partition) => Some(&partition.selected),
        None => core.system.linux.as_ref().map(|linux| &linux.selected),
    }
}
