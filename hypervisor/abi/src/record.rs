//! What the hypervisor prints for machines: one JSON value a line on its
//! console, each line after the byte [`MARK`] (a JSON text sequence,
//! RFC 7464). `xtask` folds them into the report. Everything else on that
//! console is text for people.
//!
//! `S` is `&str` in the hypervisor and `String` on the host.

use serde::Serialize;

use crate::{BACKTRACE_FRAMES, LinuxState, PartitionState};

/// Byte before each record: RS, U+001E.
pub const MARK: u8 = 0x1e;

/// One record. A later record about the same thing replaces an earlier one,
/// except [`Record::Console`], [`Record::Trace`], [`Record::Interrupt`],
/// [`Record::Interrupter`], [`Record::Refused`] and [`Record::Violation`],
/// which add up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
#[serde(rename_all = "kebab-case")]
#[allow(
    clippy::large_enum_variant,
    reason = "made on the stack where it is printed, never stored in the hypervisor, which has no heap to box in"
)]
pub enum Record<S> {
    /// The hypervisor is up.
    Boot(Boot<S>),
    /// State of Linux.
    Linux(Linux),
    /// State of a partition.
    Partition(Partition<S>),
    /// Totals of a core.
    Core(Core),
    /// One reason of one core. Only reasons that occurred are printed.
    Exits(Exits<S>),
    /// Console output of a partition: a piece of text, in order, as written.
    Console(Text<S>),
    /// A strict partition exited.
    Violation(Violation<S>),
    /// A guest reached for what it does not own: what and where.
    Refused(Refused<S>),
    /// One traced exit.
    Trace(Trace<S>),
    /// One interrupt that was caught (DEBUG), after the trace of its exit.
    Interrupt(Interrupt<S>),
    /// What interrupted a core, and how often: the sum of all that was caught.
    Interrupter(Interrupter<S>),
    /// How much a core traced.
    Traced(Traced),
    /// The control words of a core's VMCB or VMCS, by name.
    Control(Control<S>),
    /// The machine's IOMMU.
    Iommu(Iommu<S>),
    /// A PCI function that a partition owns.
    Device(Device<S>),
    /// A device reached for what is not its owner's. Adds up.
    DmaFault(DmaFault<S>),
    /// How often a device did.
    DmaFaults(DmaFaults<S>),
    /// Nothing more follows; the machine is about to power off or reset.
    End(End<S>),
}

/// See [`Record::Boot`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct Boot<S> {
    /// Version of the hypervisor.
    pub version: S,
    /// `amd` or `intel`.
    pub vendor: S,
    /// Cores found and started.
    pub cpus: u32,
}

/// See [`Record::Linux`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct Linux {
    /// Now.
    pub state: LinuxState,
}

/// See [`Record::Partition`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct Partition<S> {
    /// Its name.
    pub name: S,
    /// Now.
    pub state: PartitionState,
    /// What its program gave to `finish`; of its cores, the highest.
    pub exit_code: Option<u64>,
    /// Restarts so far.
    pub restarts: u32,
    /// Why it failed, for people; empty unless it did.
    pub detail: S,
}

/// See [`Record::Core`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct Core {
    /// Physical core number.
    pub core: u32,
    /// All exits.
    pub total: u64,
    /// Exits since quiet.
    pub since_quiesce: u64,
    /// Interrupts since quiet.
    pub interrupts_since_quiesce: u64,
    /// Flags of the last successful `set_dataplane` other than 0.
    pub dataplane: u64,
    /// How often the core became quiet.
    pub quiesce_count: u64,
}

/// See [`Record::Exits`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct Exits<S> {
    /// Physical core number.
    pub core: u32,
    /// Name of the [`crate::Reason`].
    pub reason: S,
    /// How many.
    pub total: u64,
    /// How many since quiet.
    pub since_quiesce: u64,
    /// TSC cycles spent in the hypervisor.
    pub cycles: u64,
    /// The worst one, TSC cycles.
    pub worst: u64,
    /// Guest RIP at the last.
    pub last_rip: u64,
}

/// See [`Record::Console`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct Text<S> {
    /// The partition.
    pub name: S,
    /// The piece; lines end with `\n`.
    pub text: S,
}

/// See [`Record::Violation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct Violation<S> {
    /// The partition.
    pub name: S,
    /// Physical core number.
    pub core: u32,
    /// Name of the [`crate::Reason`].
    pub reason: S,
    /// What it was about, for people: `leaf 0x1`, `port 0x60`, `gpa 0x…`.
    pub detail: S,
    /// TSC at the exit.
    pub tsc: u64,
    /// Guest RIP.
    pub rip: u64,
    /// Guest CR3.
    pub cr3: u64,
    /// Guest RFLAGS.
    pub rflags: u64,
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 … R15 (encoding order).
    pub registers: [u64; 16],
    /// Number of frames in `backtrace`.
    pub frames: u32,
    /// Return addresses, innermost first; the first is RIP.
    pub backtrace: [u64; BACKTRACE_FRAMES],
}

/// See [`Record::Refused`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct Refused<S> {
    /// `linux`, or the partition.
    pub owner: S,
    /// Physical core number.
    pub core: u32,
    /// Name of the [`crate::Reason`].
    pub reason: S,
    /// What it reached for, for people.
    pub detail: S,
    /// Guest RIP.
    pub rip: u64,
    /// Number of frames in `backtrace`.
    #[cfg_attr(feature = "std", serde(default))]
    pub frames: u32,
    /// Return addresses, innermost first; the first is RIP.
    #[cfg_attr(feature = "std", serde(default))]
    pub backtrace: [u64; BACKTRACE_FRAMES],
}

/// See [`Record::Trace`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct Trace<S> {
    /// Physical core number.
    pub core: u32,
    /// Number of the record on that core, from 1.
    pub sequence: u64,
    /// Name of the [`crate::Reason`].
    pub reason: S,
    /// TSC at the exit.
    pub tsc: u64,
    /// Guest RIP.
    pub rip: u64,
    /// Guest CR3.
    pub cr3: u64,
    /// What it was about.
    pub qualification: u64,
    /// TSC cycles in the hypervisor.
    pub cycles: u64,
}

/// See [`Record::Interrupt`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct Interrupt<S> {
    /// Physical core number.
    pub core: u32,
    /// Number of the trace record of its exit.
    pub sequence: u64,
    /// TSC at the exit.
    pub tsc: u64,
    /// Vector; 2 for an NMI.
    pub vector: u8,
    /// Name of the [`crate::trace::InterruptKind`].
    pub kind: S,
    /// Where it came from, for people: `core 1`, `0000:00:03.0`, `gsi 4`.
    pub origin: S,
    /// The physical core that sent an IPI.
    pub sender: Option<u32>,
    /// RIP on that core at the instruction that sent it; 0 if it is not known.
    pub sender_rip: u64,
    /// RIP of the guest that was interrupted.
    pub rip: u64,
    /// Its CR3.
    pub cr3: u64,
    /// Number of frames in `backtrace`.
    pub frames: u32,
    /// Its return addresses, innermost first; the first is RIP.
    pub backtrace: [u64; BACKTRACE_FRAMES],
}

/// See [`Record::Interrupter`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct Interrupter<S> {
    /// Physical core number.
    pub core: u32,
    /// Vector; 2 for an NMI.
    pub vector: u8,
    /// Name of the [`crate::trace::InterruptKind`]; `others` for all that
    /// found no place in the table.
    pub kind: S,
    /// Where it came from, for people.
    pub origin: S,
    /// The physical core that sent it, if it is an IPI.
    pub sender: Option<u32>,
    /// How many.
    pub count: u64,
    /// TSC at the last.
    pub tsc: u64,
    /// RIP of the guest that the last one interrupted.
    pub rip: u64,
    /// Number of frames in `backtrace`.
    pub frames: u32,
    /// Return addresses of the sender of the last one, innermost first; the
    /// first is the instruction that sent it.
    pub backtrace: [u64; BACKTRACE_FRAMES],
}

/// See [`Record::Traced`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct Traced {
    /// Physical core number.
    pub core: u32,
    /// Records written to its ring.
    pub written: u64,
    /// Those that were overwritten before they could be printed.
    pub lost: u64,
}

/// See [`Record::Control`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct Control<S> {
    /// Physical core number.
    pub core: u32,
    /// Name of the control word, as the manual has it.
    pub name: S,
    /// Its value.
    pub value: u64,
}

/// See [`Record::Iommu`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct Iommu<S> {
    /// `vt-d` or `amd-vi`.
    pub kind: S,
    /// It remaps interrupts.
    pub interrupts: bool,
}

/// See [`Record::Device`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct Device<S> {
    /// The partition.
    pub owner: S,
    /// The PCI function: `0000:00:03.0`.
    pub device: S,
    /// Vendor ID in bits 31:16, device ID in bits 15:0.
    pub id: u32,
    /// No IOMMU keeps its DMA in bounds.
    pub unprotected: bool,
}

/// See [`Record::DmaFault`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct DmaFault<S> {
    /// `linux`, or the partition that owns the device.
    pub owner: S,
    /// The PCI function: `0000:00:03.0`.
    pub device: S,
    /// Device address that it used; on VT-d that of the page.
    pub address: u64,
    /// `read`, `write` or `interrupt`.
    pub access: S,
    /// The IOMMU's number for the cause: a fault reason (VT-d) or an event code
    /// (AMD-Vi).
    pub code: u32,
    /// Which fault of that device this is, from 1.
    pub number: u64,
}

/// See [`Record::DmaFaults`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct DmaFaults<S> {
    /// As in [`DmaFault`].
    pub owner: S,
    /// As in [`DmaFault`].
    pub device: S,
    /// How many were recorded: hardware does not keep all of a storm.
    pub total: u64,
}

/// See [`Record::End`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "std", derive(serde::Deserialize))]
pub struct End<S> {
    /// `completed` or `hypervisor-panic`.
    pub outcome: S,
    /// For people.
    pub detail: S,
}
