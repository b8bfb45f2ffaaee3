//! Network cards of a virtual machine.

use std::fmt::Write as _;
use std::str::FromStr;

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

/// A network card, and what its cable leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Which one.
    pub model: NicModel,
    /// The other end: QEMU's `-netdev` without the `id` (`user`), or Bochs'
    /// `ethmod=…`.
    pub netdev: String,
}

/// A network card's model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NicModel {
    /// virtio-net, PCI.
    #[value(name = "virtio")]
    Virtio,
    /// Intel 82540EM.
    #[value(name = "e1000")]
    E1000,
    /// Intel 82574L.
    #[value(name = "e1000e")]
    E1000e,
}

/// QEMU's device number of the first.
const FIRST_DEVICE: usize = 0x10;
/// Bochs' slots for cards: 1 to 5 are devices 2 to 6.
const BOCHS_SLOTS: usize = 5;

/// `MODEL` (behind QEMU's user-mode network) or `MODEL=NETDEV`.
impl FromStr for Nic {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (model, netdev) = text.split_once('=').unwrap_or((text, "user"));
        let model = NicModel::from_str(model, false)
            .map_err(|_| format!("\"{model}\" is no model: virtio, e1000 or e1000e"))?;
        Ok(Self {
            model,
            netdev: netdev.to_owned(),
        })
    }
}

/// QEMU's arguments. Behind an IOMMU a virtio device uses it.
pub(super) fn qemu(nics: &[Nic], iommu: bool) -> Vec<String> {
    let arguments = nics.iter().enumerate().flat_map(|(index, nic)| {
        let model = match (nic.model, iommu) {
            (NicModel::Virtio, true) => "virtio-net-pci,disable-legacy=on,iommu_platform=on",
            (NicModel::Virtio, false) => "virtio-net-pci,disable-legacy=on",
            (NicModel::E1000, _) => "e1000",
            (NicModel::E1000e, _) => "e1000e",
        };
        [
            "-netdev".into(),
            format!("{},id=nic{index}", nic.netdev),
            "-device".into(),
            // No boot ROM.
            format!(
                "{model},netdev=nic{index},addr={:#x},mac={},romfile=",
                FIRST_DEVICE + index,
                mac(index)
            ),
        ]
    });
    arguments.collect()
}

/// Lines of bochsrc: `pci` and the cards.
pub(super) fn bochs(nics: &[Nic]) -> Result<String> {
    if nics.is_empty() {
        return Ok(String::new());
    }
    ensure!(nics.len() <= BOCHS_SLOTS, "Bochs has {BOCHS_SLOTS} slots");
    let mut slots = String::from("pci: enabled=1, chipset=i440fx");
    let mut cards = String::new();
    for (index, nic) in nics.iter().enumerate() {
        if nic.model != NicModel::E1000 {
            bail!("of these network cards Bochs has e1000 alone");
        }
        write!(slots, ", slot{}=e1000", index + 1)?;
        writeln!(
            cards,
            "e1000: card={index}, enabled=1, mac={}, {}",
            mac(index),
            nic.netdev
        )?;
    }
    Ok(format!("{slots}\n{cards}"))
}

/// The card's address: locally administered.
fn mac(index: usize) -> String {
    format!("52:54:00:00:00:{:02x}", index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_user_names_one() {
        let nic: Nic = "e1000e".parse().unwrap();
        assert_eq!((nic.model, nic.netdev.as_str()), (NicModel::E1000e, "user"));
        let nic: Nic = "virtio=socket,connect=:4000".parse().unwrap();
        assert_eq!(nic.netdev, "socket,connect=:4000");
        assert!("ne2k".parse::<Nic>().unwrap_err().contains("virtio"));
    }

    #[test]
    fn what_the_machines_are_told() {
        let nic = |text: &str| text.parse::<Nic>().unwrap();
        let arguments = qemu(&[nic("virtio"), nic("e1000")], true);
        assert!(arguments[3].contains("iommu_platform=on"), "{arguments:?}");
        assert!(arguments[7].starts_with("e1000,netdev=nic1,addr=0x11,"));
        let lines = bochs(&[nic("e1000=ethmod=null")]).unwrap();
        assert!(lines.starts_with("pci: enabled=1, chipset=i440fx, slot1=e1000\n"));
        assert!(lines.contains("ethmod=null"), "{lines}");
        assert!(bochs(&[nic("virtio")]).is_err());
        assert_eq!(bochs(&[]).unwrap(), "");
    }
}
