//! A function between two owners: no DMA, no interrupts, and as after a reset.

use cloister_core::pci::{Address, Bar, ConfigSpace, FunctionInfo, register};

use crate::arch::pci::Config;
use crate::arch::{cpu, pci};

/// PCI Express device capabilities, device control and status, from the start
/// of the capability; bits in them (PCI Express Base Specification 5.0
/// §7.5.3.3 to §7.5.3.5).
const DEVICE_CAPABILITIES: u16 = 4;
const CAN_RESET: u32 = 1 << 28;
const DEVICE_CONTROL: u16 = 8;
const START_RESET: u32 = 1 << 15;
const PENDING: u32 = 1 << 21;
/// Advanced features: capabilities and control, in the first two registers
/// (Conventional PCI Advanced Capabilities ECN).
const ADVANCED_CAN_RESET: u32 = 3 << 24;
const ADVANCED_CONTROL: u16 = 4;
const ADVANCED_START_RESET: u32 = 1;
/// Power management control and status: state, and whether leaving D3hot is no
/// reset (PCI Power Management Specification 1.2 §3.2.4).
const POWER_CONTROL: u16 = 4;
const POWER_STATE: u32 = 3;
const NO_SOFT_RESET: u32 = 1 << 3;
/// How long a function may take to reset (PCI Express Base Specification 5.0
/// §6.6.2), and to change its power state (PCI Power Management Specification
/// 1.2 §5.4), microseconds.
const RESET_TIME: u64 = 100_000;
const POWER_TIME: u64 = 10_000;
/// How long requests on their way may take, microseconds.
const DRAIN_TIME: u64 = 100_000;

/// How a function was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Function-level reset, PCI Express.
    Express,
    /// Function-level reset, conventional PCI.
    Advanced,
    /// D3hot and back.
    Power,
    /// It cannot be reset: its DMA, its interrupts and its decoding were
    /// switched off, and its next driver must do the rest.
    None,
}

impl Method {
    /// For people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Express => "function-level reset",
            Self::Advanced => "function-level reset (AF)",
            Self::Power => "reset by D3hot",
            Self::None => "bus mastering off, no reset",
        }
    }
}

/// Has the bridges on the way to `at` send every request upstream, where they
/// can (PCI Express Base Specification 5.0 §7.7.8.3).
pub(crate) fn isolate(machine: &super::Pci, at: Address) {
    const CONTROL: u16 = 6;
    const REDIRECT: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4;
    for bridge in machine.functions.iter().filter(|info| info.leads_to(at)) {
        let start = bridge.capabilities.access_control;
        if start != 0 {
            let mut config = pci::lock();
            let old = config.read_part(bridge.address, start + CONTROL, 2);
            config.write_part(bridge.address, start + CONTROL, 2, old | REDIRECT);
        }
    }
}

/// Switches off its DMA and its interrupts.
pub(crate) fn quiet(info: &FunctionInfo) {
    silence(&mut pci::lock(), info);
}

/// Command register, without the status, which ones would clear.
fn set_command(config: &mut Config, at: Address, clear: u32, set: u32) {
    let old = config.read_part(at, register::COMMAND, 2);
    config.write_part(at, register::COMMAND, 2, old & !clear | set);
}

fn silence(config: &mut Config, info: &FunctionInfo) {
    let at = info.address;
    set_command(config, at, register::BUS_MASTER, register::INTX_DISABLE);
    // Message control, bits 31:16 of both: MSI off; MSI-X off.
    for (capability, on) in [
        (info.capabilities.msi, 1),
        (info.capabilities.msix, 1 << 15),
    ] {
        if capability != 0 {
            let control = u16::from(capability) + 2;
            let old = config.read_part(at, control, 2);
            config.write_part(at, control, 2, old & !on);
        }
    }
}

/// Resets `info` between two owners, by the best way that it has, and brings
/// its configuration back: BARs at their addresses, memory and ports on, no
/// DMA, no interrupts.
pub(crate) fn reset(info: &FunctionInfo) -> Method {
    let at = info.address;
    quiet(info);
    let express = u16::from(info.capabilities.express);
    if express != 0 {
        wait(DRAIN_TIME, || {
            pci::lock().read(at, express + DEVICE_CONTROL) & PENDING == 0
        });
    }
    let kept = Kept::read(&pci::lock(), info);
    let method = start(info);
    let mut config = pci::lock();
    kept.write(&mut config, info);
    silence(&mut config, info);
    let decode = register::IO_SPACE | register::MEMORY_SPACE;
    set_command(&mut config, at, 0, decode);
    method
}

fn start(info: &FunctionInfo) -> Method {
    let at = info.address;
    let found = &info.capabilities;
    let read = |offset: u16| pci::lock().read(at, offset);
    let write = |offset: u16, width, value| pci::lock().write_part(at, offset, width, value);
    let express = u16::from(found.express);
    let advanced = u16::from(found.advanced);
    let power = u16::from(found.power);
    if express != 0 && read(express + DEVICE_CAPABILITIES) & CAN_RESET != 0 {
        let control = read(express + DEVICE_CONTROL) & 0xffff;
        write(express + DEVICE_CONTROL, 2, control | START_RESET);
        wait(RESET_TIME, || false);
        return Method::Express;
    }
    if advanced != 0 && read(advanced) & ADVANCED_CAN_RESET == ADVANCED_CAN_RESET {
        write(advanced + ADVANCED_CONTROL, 1, ADVANCED_START_RESET);
        wait(RESET_TIME, || false);
        return Method::Advanced;
    }
    if power != 0 && read(power + POWER_CONTROL) & NO_SOFT_RESET == 0 {
        let control = read(power + POWER_CONTROL) & 0x7fff & !POWER_STATE;
        write(power + POWER_CONTROL, 2, control | 3);
        wait(POWER_TIME, || false);
        write(power + POWER_CONTROL, 2, control);
        wait(POWER_TIME, || false);
        return Method::Power;
    }
    let decode = register::IO_SPACE | register::MEMORY_SPACE;
    set_command(&mut pci::lock(), at, decode, 0);
    Method::None
}

/// What a reset forgets, and the firmware set.
struct Kept {
    /// Cache line size, latency timer.
    line: u32,
    interrupt_line: u32,
    device_control: u32,
}

impl Kept {
    fn read(config: &Config, info: &FunctionInfo) -> Self {
        let at = info.address;
        let express = u16::from(info.capabilities.express);
        Self {
            line: config.read_part(at, register::HEADER_TYPE, 2),
            interrupt_line: config.read_part(at, register::INTERRUPT, 1),
            device_control: match express {
                0 => 0,
                express => config.read_part(at, express + DEVICE_CONTROL, 2) & !START_RESET,
            },
        }
    }

    fn write(&self, config: &mut Config, info: &FunctionInfo) {
        let at = info.address;
        let offsets = (register::BAR..).step_by(4);
        for (offset, bar) in offsets.zip(info.bars) {
            let (low, high) = match bar {
                Bar::None => continue,
                Bar::Ports { base, .. } => (u64::from(base), false),
                Bar::Memory { base, wide, .. } => (base, wide),
            };
            let [a, b, c, d, e, f, g, h] = low.to_le_bytes();
            config.write(at, offset, u32::from_le_bytes([a, b, c, d]));
            if high {
                config.write(at, offset + 4, u32::from_le_bytes([e, f, g, h]));
            }
        }
        config.write_part(at, register::HEADER_TYPE, 2, self.line);
        config.write_part(at, register::INTERRUPT, 1, self.interrupt_line);
        if info.capabilities.express != 0 {
            let control = u16::from(info.capabilities.express) + DEVICE_CONTROL;
            config.write_part(at, control, 2, self.device_control);
        }
    }
}

/// Waits until `done`, at most `microseconds`. By the TSC, at a frequency that
/// no processor exceeds where it is not known.
fn wait(microseconds: u64, done: impl Fn() -> bool) {
    let cycles = crate::partition::life::tsc_hz() / 1_000_000 * microseconds;
    let start = cpu::tsc();
    while cpu::tsc().wrapping_sub(start) < cycles && !done() {
        cpu::pause();
    }
}
