//! What a program knows of the partition it runs in.

use core::sync::atomic::Ordering;

use cloister_abi::shared::PartitionInfo;
use cloister_abi::{CoreCounters, Dataplane};

use crate::args::{self, BadNumber};

/// The partition, seen from one of its cores. `main` gets it.
#[derive(Clone, Copy, Debug)]
pub struct Partition {
    info: &'static PartitionInfo,
    core: u32,
    counters: &'static CoreCounters,
}

impl Partition {
    /// `None` where the partition has no core `core`.
    #[cfg(target_os = "none")]
    pub(crate) fn new(info: &'static PartitionInfo, core: u32) -> Option<Self> {
        let counters = counters_of(info, core)?;
        Some(Self {
            info,
            core,
            counters,
        })
    }

    /// The page that the hypervisor wrote, as it is.
    #[must_use]
    pub const fn info(&self) -> &'static PartitionInfo {
        self.info
    }

    /// The partition's name in the system file.
    #[must_use]
    pub fn name(&self) -> &'static str {
        text(&self.info.name, self.info.name_len)
    }

    /// The argument string of the system file.
    #[must_use]
    pub fn args(&self) -> &'static str {
        text(&self.info.args, self.info.args_len)
    }

    /// Value of the argument word `key=value`; "" for a bare `key`.
    #[must_use]
    pub fn arg(&self, key: &str) -> Option<&'static str> {
        args::find(self.args(), key)
    }

    /// The argument `key` as a number, or `default` where it is absent.
    ///
    /// # Errors
    /// When it is there and [`args::number`] refuses it.
    pub fn number(&self, key: &str, default: u64) -> Result<u64, BadNumber<'static>> {
        self.arg(key).map_or(Ok(default), args::number)
    }

    /// Index of this core in the partition, from 0.
    #[must_use]
    pub const fn core(&self) -> u32 {
        self.core
    }

    /// Number of cores of the partition.
    #[must_use]
    pub const fn cores(&self) -> u32 {
        self.info.cores
    }

    /// Bytes of RAM, which starts at address 0.
    #[must_use]
    pub const fn memory(&self) -> u64 {
        self.info.memory
    }

    /// TSC frequency in Hz, where the hypervisor knows it.
    #[must_use]
    pub const fn tsc_hz(&self) -> Option<u64> {
        match self.info.tsc_hz {
            0 => None,
            hz => Some(hz),
        }
    }

    /// The local APIC, if the system file gives it to this partition.
    #[must_use]
    pub const fn apic(&self) -> Option<Apic> {
        match self.info.apic {
            1 => Some(Apic::Xapic),
            2 => Some(Apic::X2apic),
            _ => None,
        }
    }

    /// The flags that `set_dataplane` may be asked for.
    #[must_use]
    pub const fn allowed(&self) -> Dataplane {
        Dataplane::from_bits_truncate(self.info.allowed)
    }

    /// How often this partition was restarted.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.info.restarts.load(Ordering::Relaxed)
    }

    /// Exit counters of core `index` of the partition, live: the hypervisor
    /// writes them at each exit, and reading them costs none. `None` where the
    /// partition has no such core.
    #[must_use]
    pub fn counters(&self, index: u32) -> Option<&'static CoreCounters> {
        counters_of(self.info, index)
    }

    /// Exit counters of this core, live.
    #[must_use]
    pub const fn own_counters(&self) -> &'static CoreCounters {
        self.counters
    }
}

fn counters_of(info: &PartitionInfo, index: u32) -> Option<&'static CoreCounters> {
    if index >= info.cores {
        return None;
    }
    let offset = u64::from(index) * size_of::<CoreCounters>() as u64;
    let address = usize::try_from(info.counters_gpa.checked_add(offset)?).ok()?;
    // SAFETY: the hypervisor maps one CoreCounters for each core of the
    // partition, page after page from counters_gpa, for as long as the
    // program runs (cloister_abi::shared); every field is atomic.
    Some(unsafe { &*core::ptr::with_exposed_provenance::<CoreCounters>(address) })
}

/// The first `length` bytes of `bytes`, as far as they are text.
fn text(bytes: &'static [u8], length: u32) -> &'static str {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let bytes = bytes.get(..length).unwrap_or(bytes);
    match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => bytes
            .get(..error.valid_up_to())
            .and_then(|valid| core::str::from_utf8(valid).ok())
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn a_length_beyond_the_field_is_cut() {
        assert_eq!(text(b"spin\0\0", 4), "spin");
        assert_eq!(text(b"spin", 400), "spin");
        assert_eq!(text(b"sp\xff\xff", 4), "sp");
    }
}

/// How a core reaches its local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apic {
    /// Through the page at 0xfee0_0000: every write is an exit.
    Xapic,
    /// Through MSRs from 0x800: only the interrupt command register exits.
    X2apic,
}
