//! The table that a CPUID exit indexes.

use core::fmt;

use super::leaves::{self, MAX_SUBLEAVES};
use super::{CpuidConfig, Guest, Regs, Vendor, filter};

/// Leaves indexed per range; ranges start at multiples of 0x4000_0000.
const LEAVES: u32 = 64;
const RANGES: u32 = 4;
const SLOTS: usize = (LEAVES * RANGES) as usize;
/// A power of two, so that one instruction cuts an index to it.
const ENTRIES: usize = 512;
/// Index of the entry for leaves that do not exist on AMD: zeros.
const ZERO_SLOT: Slot = Slot {
    first: 0,
    last: 0,
    fix: Fix::None,
};

/// Guest state that shows in CPUID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dynamic {
    /// Guest CR4.
    pub cr4: u64,
    /// Guest XCR0.
    pub xcr0: u64,
    /// Guest IA32_XSS; 0 where there is none.
    pub xss: u64,
}

/// What is put in at the exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Fix {
    /// Nothing, and there are no subleaves.
    None,
    /// Nothing; there are subleaves.
    Subleaf,
    /// Leaf 1: OSXSAVE.
    OsXsave,
    /// Leaf 7: OSPKE.
    OsPke,
    /// Leaf 0xD: sizes of the save areas.
    Xsave,
    /// Topology leaves: ECX\[7:0\] echoes the subleaf past the last.
    EchoSubleaf,
}

/// Where a leaf's entries are: subleaf `n` at `first + min(n, last)`.
#[derive(Clone, Copy, Debug)]
struct Slot {
    first: u16,
    /// 0 for leaves that ignore ECX; otherwise the number of subleaves, whose
    /// entry is that of all further ones.
    last: u8,
    fix: Fix,
}

/// Size and place of a component of the XSAVE area (leaf 0xD, subleaves 2 on).
#[derive(Clone, Copy, Debug, Default)]
struct Component {
    size: u32,
    offset: u32,
    /// In the compacted format it starts at a multiple of 64.
    aligned: bool,
}

/// All CPUID leaves of one core, as one guest sees them. About 14 KiB.
#[derive(Clone, Debug)]
pub struct CpuidCache {
    /// By [`place`].
    slots: [Slot; SLOTS],
    /// The answers of [`Fix::None`], by [`place`].
    plain: [Regs; SLOTS],
    /// For leaves that do not exist.
    missing: Slot,
    entries: [Regs; ENTRIES],
    used: usize,
    /// Answer [`kvm_leaf`].
    shows_kvm: bool,
    xsave: [Component; MAX_SUBLEAVES as usize],
}

/// The processor has more subleaves than the cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillError {
    /// The leaf that found no room.
    pub leaf: u32,
}

impl fmt::Display for FillError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CPUID leaf {:#x} does not fit the cache of {ENTRIES} subleaves",
            self.leaf
        )
    }
}

impl core::error::Error for FillError {}

impl Default for CpuidCache {
    fn default() -> Self {
        Self::new()
    }
}

impl CpuidCache {
    /// A cache that answers zeros to everything.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: [ZERO_SLOT; SLOTS],
            plain: [Regs::ZERO; SLOTS],
            missing: ZERO_SLOT,
            entries: [Regs::ZERO; ENTRIES],
            used: 1,
            shows_kvm: false,
            xsave: [Component {
                size: 0,
                offset: 0,
                aligned: false,
            }; MAX_SUBLEAVES as usize],
        }
    }

    /// Reads all leaves of this core through `cpuid(leaf, subleaf)`, filtered
    /// for `config.guest`. To be called on the core itself: leaves tell its
    /// APIC ID.
    ///
    /// # Errors
    /// [`FillError`] if the processor has more than the cache holds: its
    /// answers are then of no use.
    pub fn fill(
        &mut self,
        cpuid: impl Fn(u32, u32) -> Regs,
        config: &CpuidConfig,
    ) -> Result<(), FillError> {
        *self = Self::new();
        self.shows_kvm = config.xapic_locked && config.guest == Guest::Linux;
        let basic = cpuid(0, 0);
        self.range(0, basic.eax, &cpuid, config)?;
        self.range(0x4000_0000, cloister_abi::CPUID_MAX_LEAF, &cpuid, config)?;
        self.range(0x8000_0000, cpuid(0x8000_0000, 0).eax, &cpuid, config)?;
        // Intel SDM vol. 2, CPUID: a leaf above the highest returns the data of
        // the highest basic leaf. AMD APM vol. 3, appendix E: zeros.
        if vendor(&basic) == Vendor::Intel {
            self.missing = self.slots[place(basic.eax.min(LEAVES - 1)) % SLOTS];
            let ends = [
                basic.eax,
                cloister_abi::CPUID_MAX_LEAF,
                cpuid(0x8000_0000, 0).eax,
                0,
            ];
            for (start, end) in (0..RANGES).map(|range| range << 30).zip(ends) {
                for leaf in (start..start + LEAVES).filter(|leaf| *leaf > end) {
                    self.slots[place(leaf) % SLOTS] = self.missing;
                }
            }
        }
        for (plain, slot) in self.plain.iter_mut().zip(&self.slots) {
            *plain = self.entries[usize::from(slot.first) % ENTRIES];
        }
        if basic.eax >= 0xd {
            for (component, subleaf) in self.xsave.iter_mut().zip(0u32..).skip(2) {
                let regs = cpuid(0xd, subleaf);
                *component = Component {
                    size: regs.eax,
                    offset: regs.ebx,
                    aligned: regs.ecx & 2 != 0,
                };
            }
        }
        Ok(())
    }

    /// Leaves `start..=end`, of which `end` is what the processor says.
    fn range(
        &mut self,
        start: u32,
        end: u32,
        cpuid: &impl Fn(u32, u32) -> Regs,
        config: &CpuidConfig,
    ) -> Result<(), FillError> {
        for leaf in (start..=end).take(LEAVES as usize) {
            self.slots[place(leaf) % SLOTS] = self.leaf(leaf, cpuid, config)?;
        }
        Ok(())
    }

    fn leaf(
        &mut self,
        leaf: u32,
        cpuid: &impl Fn(u32, u32) -> Regs,
        config: &CpuidConfig,
    ) -> Result<Slot, FillError> {
        let error = FillError { leaf };
        let first = u16::try_from(self.used).map_err(|_| error)?;
        let mut push = |regs: Regs| -> Result<(), FillError> {
            *self.entries.get_mut(self.used).ok_or(error)? = regs;
            self.used += 1;
            Ok(())
        };
        let fix = match leaf {
            1 => Fix::OsXsave,
            7 => Fix::OsPke,
            0xd => Fix::Xsave,
            0xb | 0x1f | 0x8000_0026 => Fix::EchoSubleaf,
            _ => Fix::None,
        };
        let Some(count) = leaves::subleaves(leaf, cpuid) else {
            let regs = filter(leaf, 0, cpuid(leaf, 0), config);
            if regs == Regs::ZERO && fix == Fix::None {
                return Ok(ZERO_SLOT);
            }
            push(regs)?;
            return Ok(Slot {
                first,
                last: 0,
                fix,
            });
        };
        for subleaf in 0..count {
            push(filter(leaf, subleaf, cpuid(leaf, subleaf), config))?;
        }
        push(filter(leaf, count, leaves::beyond(leaf, cpuid), config))?;
        Ok(Slot {
            first,
            last: u8::try_from(count).map_err(|_| error)?,
            fix: if fix == Fix::None { Fix::Subleaf } else { fix },
        })
    }

    /// What CPUID returns for EAX = `leaf`, if that depends on nothing else: a
    /// few loads. [`Self::lookup`] knows all the rest.
    #[inline(always)]
    #[must_use]
    pub fn plain(&self, leaf: u32) -> Option<&Regs> {
        let place = place(leaf);
        let slot = self.slots.get(place)?;
        (slot.fix == Fix::None).then(|| &self.plain[place])
    }

    /// What CPUID returns for EAX = `leaf`, ECX = `subleaf`. `state` is asked
    /// for the four kinds of leaves that depend on it.
    #[must_use]
    pub fn lookup(&self, leaf: u32, subleaf: u32, state: impl FnOnce() -> Dynamic) -> Regs {
        let slot = match (self.slots.get(place(leaf)), kvm_leaf(leaf)) {
            (Some(slot), _) => slot,
            (None, Some(regs)) if self.shows_kvm => return regs,
            (None, _) => &self.missing,
        };
        self.fix(slot, subleaf, *self.entry(slot, subleaf), state)
    }

    #[inline(always)]
    fn entry(&self, slot: &Slot, subleaf: u32) -> &Regs {
        let index = usize::from(slot.first) + subleaf.min(u32::from(slot.last)) as usize;
        &self.entries[index % ENTRIES]
    }

    fn fix(
        &self,
        slot: &Slot,
        subleaf: u32,
        mut regs: Regs,
        state: impl FnOnce() -> Dynamic,
    ) -> Regs {
        const CR4_OSXSAVE: u64 = 1 << 18;
        const CR4_PKE: u64 = 1 << 22;
        const LEAF1_ECX_OSXSAVE: u32 = 1 << 27;
        const LEAF7_ECX_OSPKE: u32 = 1 << 4;
        let set = |word: &mut u32, bit: u32, on: bool| {
            *word = if on { *word | bit } else { *word & !bit };
        };
        match (slot.fix, subleaf) {
            (Fix::OsXsave, _) => {
                set(
                    &mut regs.ecx,
                    LEAF1_ECX_OSXSAVE,
                    state().cr4 & CR4_OSXSAVE != 0,
                );
            }
            (Fix::OsPke, 0) => {
                set(&mut regs.ecx, LEAF7_ECX_OSPKE, state().cr4 & CR4_PKE != 0);
            }
            (Fix::Xsave, 0) => regs.ebx = self.standard_size(state().xcr0),
            // XSAVEC (bit 1) or XSAVES (bit 3).
            (Fix::Xsave, 1) if regs.eax & 0xa != 0 => {
                let Dynamic { xcr0, xss, .. } = state();
                regs.ebx = self.compacted_size(xcr0 | xss);
            }
            (Fix::EchoSubleaf, _) if subleaf >= u32::from(slot.last) => regs.ecx = subleaf & 0xff,
            _ => {}
        }
        regs
    }

    /// Components that `bits` name, the legacy area and its header apart.
    fn components(&self, bits: u64) -> impl Iterator<Item = &Component> {
        self.xsave
            .iter()
            .zip(0u32..)
            .skip(2)
            .filter(move |(_, index)| bits >> index & 1 != 0)
            .map(|(component, _)| component)
    }

    /// Bytes of an XSAVE area in standard format (Intel SDM vol. 1, "Standard
    /// Format of the XSAVE Area"): up to the end of the farthest component.
    fn standard_size(&self, xcr0: u64) -> u32 {
        self.components(xcr0)
            .map(|component| component.offset.saturating_add(component.size))
            .fold(LEGACY_SIZE, u32::max)
    }

    /// Bytes in compacted format: the components one after the other.
    fn compacted_size(&self, bits: u64) -> u32 {
        self.components(bits).fold(LEGACY_SIZE, |end, component| {
            let start = if component.aligned {
                end.checked_next_multiple_of(64).unwrap_or(end)
            } else {
                end
            };
            start.saturating_add(component.size)
        })
    }
}

/// The KVM interface with no feature at all, beside Cloister's own leaves
/// (Linux: Documentation/virt/kvm/x86/cpuid.rst; hypervisors may have several
/// interfaces, 0x100 leaves apart).
///
/// It makes Linux stay in x2APIC mode without interrupt remapping: Linux 6.1
/// leaves that mode otherwise, even where xAPIC is locked out, and then reads
/// an xAPIC that is not there.
const fn kvm_leaf(leaf: u32) -> Option<Regs> {
    const BASE: u32 = 0x4000_0100;
    const FEATURES: u32 = BASE + 1;
    match leaf {
        BASE => Some(Regs {
            eax: FEATURES,
            ebx: u32::from_le_bytes(*b"KVMK"),
            ecx: u32::from_le_bytes(*b"VMKV"),
            edx: u32::from_le_bytes(*b"M\0\0\0"),
        }),
        FEATURES => Some(Regs::ZERO),
        _ => None,
    }
}

/// Where the slot of `leaf` is: beyond [`SLOTS`] if it has none. The range,
/// bits 31:30, becomes bits 1:0; the number within it stands above, and what is
/// too great for the table makes the whole too great.
#[inline]
const fn place(leaf: u32) -> usize {
    leaf.rotate_left(2) as usize
}

/// The legacy area of 512 bytes and the header of 64.
const LEGACY_SIZE: u32 = 576;

/// The vendor that leaf 0 names; anything unknown behaves like Intel.
fn vendor(basic: &Regs) -> Vendor {
    let name = [basic.ebx, basic.edx, basic.ecx].map(u32::to_le_bytes);
    match name.as_flattened() {
        b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
        _ => Vendor::Intel,
    }
}
