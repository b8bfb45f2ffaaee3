//! FADT: the fixed hardware registers (ACPI 6.5 §5.2.9), for revisions 1 to 6.

use super::{AcpiError, table};
use crate::bytes;

/// Offsets of fields. `X_` fields are Generic Address Structures.
mod offset {
    pub(super) const FIRMWARE_CTRL: usize = 36;
    pub(super) const DSDT: usize = 40;
    pub(super) const SMI_CMD: usize = 48;
    pub(super) const ACPI_ENABLE: usize = 52;
    pub(super) const ACPI_DISABLE: usize = 53;
    pub(super) const PM1A_CNT: usize = 64;
    pub(super) const PM1B_CNT: usize = 68;
    pub(super) const PM_TMR: usize = 76;
    pub(super) const FLAGS: usize = 112;
    pub(super) const RESET_REG: usize = 116;
    pub(super) const RESET_VALUE: usize = 128;
    pub(super) const X_FIRMWARE_CTRL: usize = 132;
    pub(super) const X_DSDT: usize = 140;
    pub(super) const X_PM1A_CNT: usize = 172;
    pub(super) const X_PM1B_CNT: usize = 184;
    pub(super) const X_PM_TMR: usize = 208;
    pub(super) const SLEEP_CONTROL: usize = 244;
}

/// Bytes of the shortest FADT, that of ACPI 1.0.
const MINIMUM: usize = 116;
/// Flags (ACPI 6.5 table 5.10).
const TMR_VAL_EXT: u32 = 1 << 8;
const RESET_REG_SUP: u32 = 1 << 10;
const HW_REDUCED_ACPI: u32 = 1 << 20;

/// Where a register lives (ACPI 6.5 table 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSpace {
    /// Physical memory.
    Memory,
    /// I/O ports.
    Io,
    /// PCI configuration space of bus 0: device in bits 47:32 of the address,
    /// function in 31:16, offset in 15:0.
    PciConfiguration,
    /// Any other; its number.
    Other(u8),
}

/// A register named by a Generic Address Structure (ACPI 6.5 §5.2.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Where it lives.
    pub space: AddressSpace,
    /// Address in that space.
    pub address: u64,
}

impl Register {
    fn parse(bytes: &[u8], offset: usize) -> Option<Self> {
        let space = match bytes::u8_at(bytes, offset)? {
            0 => AddressSpace::Memory,
            1 => AddressSpace::Io,
            2 => AddressSpace::PciConfiguration,
            other => AddressSpace::Other(other),
        };
        let address = bytes::u64_at(bytes, offset.checked_add(4)?)?;
        (address != 0).then_some(Self { space, address })
    }

    /// The port, for a register in I/O space.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self.space {
            AddressSpace::Io => u16::try_from(self.address).ok(),
            _ => None,
        }
    }
}

/// How firmware says to reset the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// The register, 8 bits wide.
    pub register: Register,
    /// What to write to it.
    pub value: u8,
}

/// Offsets of the old block addresses and of their lengths: PM1 event a and b,
/// PM1 control a and b, PM2 control, PM timer, GPE 0 and 1.
const BLOCKS: [(usize, usize); 8] = [
    (56, 88),
    (60, 88),
    (64, 89),
    (68, 89),
    (72, 90),
    (76, 91),
    (80, 92),
    (84, 93),
];

/// What the hypervisor wants to know of the FADT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fadt {
    /// Port of the PM1a control register block; `None` if there is none in I/O
    /// space.
    pub pm1a_control: Option<u16>,
    /// Port of the PM1b control register block.
    pub pm1b_control: Option<u16>,
    /// Port of the power-management timer, 3.579545 MHz.
    pub pm_timer: Option<u16>,
    /// The timer has 32 bits, not 24.
    pub pm_timer_32bit: bool,
    /// Sleep control register (hardware-reduced ACPI; 8 bits).
    pub sleep_control: Option<Register>,
    /// How to reset the machine, if the firmware supports it.
    pub reset: Option<Reset>,
    /// Port of the SMI command register.
    pub smi_command: Option<u16>,
    /// What to write there to turn ACPI on; 0 if it is always on.
    pub acpi_enable: u8,
    /// What to write there to turn ACPI off.
    pub acpi_disable: u8,
    /// No fixed hardware: sleep goes through `sleep_control`.
    pub hardware_reduced: bool,
    /// Physical address of the DSDT.
    pub dsdt: u64,
    /// Physical address of the FACS; 0 if there is none.
    pub facs: u64,
    /// Register blocks in I/O space: first port and number of ports.
    pub(crate) blocks: [(u16, u8); BLOCKS.len() + 1],
}

impl Fadt {
    /// Reads the FADT (signature `FACP`) at the start of `bytes`. Extended
    /// fields win over the old ones where they are there and not 0.
    ///
    /// # Errors
    /// When it is another table or shorter than the 116 bytes of ACPI 1.0.
    pub fn parse(bytes: &[u8]) -> Result<Self, AcpiError> {
        let fadt = table(bytes, *b"FACP", MINIMUM)?;
        let flags = bytes::u32_at(fadt, offset::FLAGS).unwrap_or(0);
        let byte = |at| bytes::u8_at(fadt, at).unwrap_or(0);
        let port = |old, extended: Option<usize>| {
            extended
                .and_then(|at| Register::parse(fadt, at)?.port())
                .or_else(|| u16::try_from(bytes::u32_at(fadt, old)?).ok())
                .filter(|port| *port != 0)
        };
        let pointer = |old, extended| {
            bytes::u64_at(fadt, extended)
                .filter(|address| *address != 0)
                .or_else(|| bytes::u32_at(fadt, old).map(u64::from))
                .unwrap_or(0)
        };
        let reset = Register::parse(fadt, offset::RESET_REG)
            .zip(bytes::u8_at(fadt, offset::RESET_VALUE))
            .filter(|_| flags & RESET_REG_SUP != 0)
            .map(|(register, value)| Reset { register, value });
        Ok(Self {
            pm1a_control: port(offset::PM1A_CNT, Some(offset::X_PM1A_CNT)),
            pm1b_control: port(offset::PM1B_CNT, Some(offset::X_PM1B_CNT)),
            pm_timer: port(offset::PM_TMR, Some(offset::X_PM_TMR)),
            pm_timer_32bit: flags & TMR_VAL_EXT != 0,
            sleep_control: Register::parse(fadt, offset::SLEEP_CONTROL),
            reset,
            smi_command: port(offset::SMI_CMD, None),
            acpi_enable: byte(offset::ACPI_ENABLE),
            acpi_disable: byte(offset::ACPI_DISABLE),
            hardware_reduced: flags & HW_REDUCED_ACPI != 0,
            dsdt: pointer(offset::DSDT, offset::X_DSDT),
            facs: pointer(offset::FIRMWARE_CTRL, offset::X_FIRMWARE_CTRL),
            blocks: {
                let mut blocks = [(0, 0); BLOCKS.len() + 1];
                for (block, (address, length)) in blocks.iter_mut().zip(BLOCKS) {
                    *block = (port(address, None).unwrap_or(0), byte(length));
                }
                if let Some(block) = blocks.last_mut() {
                    *block = (port(offset::SMI_CMD, None).unwrap_or(0), 1);
                }
                blocks
            },
        })
    }

    /// The register blocks that the machine's power management has in I/O
    /// space: first port and number of ports. Absent ones are left out.
    pub fn blocks(&self) -> impl Iterator<Item = (u16, u8)> + use<> {
        let reset = self
            .reset
            .and_then(|reset| reset.register.port())
            .map(|port| (port, 1));
        self.blocks
            .into_iter()
            .chain(reset)
            .filter(|(port, length)| *port != 0 && *length != 0)
    }
}
