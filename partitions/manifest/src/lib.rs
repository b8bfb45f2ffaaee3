//! The system file: TOML schema, validation, compiled form.
//!
//! A *system file* says who owns what of a machine: the hypervisor, Linux if
//! there is one, and the partitions. [`load`] reads and validates it on the
//! host, [`encode`] compiles it; the hypervisor reads that with
//! [`decode_into`], runs the same [`validate`] again and then
//! [`validate_machine`] against the machine it finds. Without the feature
//! `std` the crate has only the latter half, needs no heap, and panics on no
//! input.
//!
//! ```
//! # let text = r#"
//! [hypervisor]
//! memory  = "32M"
//! console = "com2"
//!
//! [linux]
//! cpus    = [0, 1]
//! kernel  = "vmlinuz"
//! initrd  = "initrd.img"
//! cmdline = "console=ttyS0"
//!
//! [[partition]]
//! name      = "spin"
//! cpus      = [2]
//! memory    = "64M"
//! program   = "spin.elf"
//! args      = "quanta=1000000"
//! dataplane = ["quiesce", "strict", "populate"]
//! ports     = [{ base = 0x3e8, count = 8 }]
//! devices   = ["0000:00:03.0", { address = "0000:00:04.0", dma = "unprotected" }]
//!
//! [[channel]]
//! name    = "log"
//! between = ["linux", "spin"]
//! size    = "64K"
//! # "#;
//! # cloister_manifest::parse("doc.toml".as_ref(), text).unwrap();
//! ```
//!
//! Unknown keys are errors. So is everything that would make two owners of a
//! core, a port, a device or a name. All errors are told at once, as
//! `FILE:LINE: KEY: what is wrong; what would be right`; in `KEY` partitions
//! and channels are numbered from 0.
//!
//! # Values
//!
//! * A **size** is a string: a whole number and `K`, `M` or `G` (2^10, 2^20,
//!   2^30 bytes), as `"64M"`. Bare numbers are refused.
//! * **Cores** are a list of numbers below 64, in the order of the firmware's
//!   MADT, counting enabled cores only; on most machines Linux's own numbers.
//! * A **module** is the name of a GRUB module: at most 31 letters, digits,
//!   `.`, `_`, `-`, `+`, no directories. `cargo xtask` takes the program of
//!   this workspace or the file beside the system file that has this name;
//!   in a hand-written GRUB menu it is the module's command line:
//!   `module2 /boot/spin.elf spin.elf`. The name `manifest` is the compiled
//!   system file's own.
//! * A **name** is at most 31 of `a-z`, `0-9`, `-`, `_`, and is given once,
//!   among partitions and channels together; `linux` and `hypervisor` are
//!   taken.
//!
//! # `[hypervisor]`
//!
//! | key | default | what |
//! |---|---|---|
//! | `memory` | `"32M"` | what the hypervisor takes for itself, its tables and records: 8M to 4G, a multiple of 2M |
//! | `console` | `"com2"` | serial port that it writes to: `"com1"` (0x3f8), `"com2"` (0x2f8), `"com3"` (0x3e8), `"com4"` (0x2e8), or `"none"` |
//!
//! # `[linux]`
//!
//! May be left out: then only partitions run. Linux gets all memory, devices
//! and ports that nobody else has; at least 128M of memory must be left.
//!
//! | key | default | what |
//! |---|---|---|
//! | `cpus` | required | its cores: the housekeeping cores |
//! | `kernel` | required | module: an x86-64 bzImage |
//! | `initrd` | none | module: its initial RAM disk |
//! | `cmdline` | `""` | kernel command line, at most 1024 bytes. A `console=`, `earlyprintk=` or `earlycon=` on the port of the hypervisor or of a partition is refused |
//! | `debug` | `[]` | those of its cores whose every exit is traced |
//!
//! # `[[partition]]`
//!
//! Any number up to 32.
//!
//! | key | default | what |
//! |---|---|---|
//! | `name` | required | its name |
//! | `cpus` | required | its cores, each all its own. No core may have an SMT sibling that somebody else owns |
//! | `memory` | required | its RAM: 4M to 128G, a multiple of 2M. Stacks (16 KiB a core) and page tables (4 KiB a GiB) must fit below 1 MiB |
//! | `program` | required | module: its ELF image; several partitions may run the same |
//! | `args` | `""` | the program's command line, at most 512 bytes |
//! | `dataplane` | `[]` | what it may ask for with `set_dataplane`: `"quiesce"`, `"strict"`, `"debug"`, `"populate"`. `strict` and `debug` imply `quiesce` |
//! | `autostart` | `true` | whether it starts at boot |
//! | `on_violation` | `"stop"` | what a breach of STRICT leads to: `"stop"` it, `"restart"` it, or `"report"` it and go on. It is recorded in each case |
//! | `max_restarts` | `3` | only with `"restart"`: the breach after so many restarts stops it for good; at least 1 |
//! | `restart_window` | all time | only with `"restart"`: only restarts within so long count, `"60s"`, `"10m"` or `"1h"`; when it has passed since the first of them, counting begins anew |
//! | `apic` | `false` | whether it gets its local APIC |
//! | `ports` | `[]` | up to 16 ranges `{ base = 0x3e8, count = 8 }` of I/O ports. Those of the whole machine are nobody's ([`limits::MACHINE_PORTS`], and what the firmware names for power management and reset), nor is the hypervisor's console |
//! | `devices` | `[]` | up to 8 PCI functions, as `lspci -D` shows them: `"0000:00:03.0"`; or `{ device = "1af4:1000#1" }`, the second one (counted from 0 by bus, device and function) with this vendor and device ID. They need an IOMMU. Where there is none, `{ address = "0000:00:03.0", dma = "unprotected" }` accepts that the partition can reach all memory. Nobody else finds them; `hypervisor/README.md`, "PCI functions", says what a partition may do with them |
//!
//! # `[[channel]]`
//!
//! Shared memory between two of them, through which both send messages; up to
//! 32. A partition opens it by its name, Linux finds a PCI function for each of
//! its own (see [`cloister_abi::channel`]).
//!
//! | key | default | what |
//! |---|---|---|
//! | `name` | required | its name |
//! | `between` | required | two different ends: names of partitions, or `"linux"` |
//! | `size` | required | shared memory: 4K to 64M, a power of two; all channels together at most 256M. It comes on top of `hypervisor.memory`. Each direction gets a bit less than half |
#![cfg_attr(not(feature = "std"), no_std)]

mod blob;
mod cpuset;
mod hardware;
mod model;
mod problem;
mod size;
#[cfg(feature = "std")]
mod source;
mod validate;

#[cfg(feature = "std")]
pub use blob::encode;
pub use blob::{BlobError, FORMAT, MAGIC, decode, decode_into};
pub use cpuset::CpuSet;
pub use hardware::{
    Console, Device, DeviceName, Dma, NotPciAddress, NotPciId, PciAddress, PortRange,
};
pub use model::{
    Channel, DEFAULT_HYPERVISOR_MEMORY, DEFAULT_MAX_RESTARTS, Hypervisor, LINUX, Linux,
    MANIFEST_MODULE, MAX_CHANNELS, MAX_CMDLINE, MAX_DEVICES, MAX_PORT_RANGES, Manifest, ModuleKind,
    Name, OnViolation, Owner, Partition,
};
pub use problem::{Problem, Severity};
pub use size::Size;
#[cfg(feature = "std")]
pub use source::{Diagnostic, Errors, Loaded, load, parse};
pub use validate::machine::{Machine, machine_problems, validate_machine};
pub use validate::{limits, problems, validate};
