//! Caches filled from made-up processors.

extern crate std;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LINUX: CpuidConfig = CpuidConfig {
    guest: Guest::Linux,
    x2apic: true,
    xapic_locked: false,
};
const PARTITION: CpuidConfig = CpuidConfig {
    guest: Guest::Partition { apic: false },
    ..LINUX
};

fn regs(eax: u32, ebx: u32, ecx: u32, edx: u32) -> Regs {
    Regs { eax, ebx, ecx, edx }
}

/// A processor: what it returns, and all ones for leaves that are not listed
/// but exist.
struct Processor {
    leaves: BTreeMap<(u32, u32), Regs>,
}

impl Processor {
    fn new(vendor: &[u8; 12], basic: u32, extended: u32) -> Self {
        let word = |at: usize| u32::from_le_bytes(vendor[at..at + 4].try_into().unwrap());
        let leaf_0 = regs(basic, word(0), word(8), word(4));
        let leaf_8 = regs(extended, word(0), word(8), word(4));
        let mut leaves = BTreeMap::from([((0, 0), leaf_0), ((0x8000_0000, 0), leaf_8)]);
        for (leaf, sub, value) in [
            (4, 0, regs(0x121, 1, 2, 3)),
            (4, 1, regs(0x122, 4, 5, 6)),
            (4, 2, Regs::ZERO),
            (7, 0, regs(1, u32::MAX, u32::MAX, u32::MAX)),
            (7, 1, regs(u32::MAX, 0, 0, 0)),
            (0xb, 0, regs(1, 2, 0x100, 0x35)),
            (0xb, 1, regs(4, 8, 0x201, 0x35)),
            (0xb, 2, regs(0, 0, 2, 0x35)),
            // x87, SSE, AVX, PKRU; XSAVEOPT, XSAVEC, XGETBV, XSAVES; PT.
            (0xd, 0, regs(0x207, 0x999, 2696, 0)),
            (0xd, 1, regs(0xf, 0x999, 0x100, 0)),
            (0xd, 2, regs(256, 576, 0, 0)),
            (0xd, 8, regs(128, 0, 1, 0)),
            (0xd, 9, regs(8, 2688, 2, 0)),
        ] {
            leaves.insert((leaf, sub), value);
        }
        for sub in 3..64 {
            leaves.entry((0xd, sub)).or_insert(Regs::ZERO);
        }
        Self { leaves }
    }

    fn intel() -> Self {
        Self::new(b"GenuineIntel", 0x16, 0x8000_0008)
    }

    fn amd() -> Self {
        Self::new(b"AuthenticAMD", 0x10, 0x8000_001f)
    }

    fn cpuid(&self, leaf: u32, sub: u32) -> Regs {
        let ones = regs(u32::MAX, u32::MAX, u32::MAX, u32::MAX);
        self.leaves
            .get(&(leaf, sub))
            .or_else(|| self.leaves.get(&(leaf, 0)))
            .copied()
            .unwrap_or(ones)
    }

    fn cache(&self, config: &CpuidConfig) -> CpuidCache {
        let mut cache = CpuidCache::new();
        cache
            .fill(|leaf, sub| self.cpuid(leaf, sub), config)
            .unwrap();
        cache
    }
}

fn quiet() -> Dynamic {
    Dynamic::default()
}

#[test]
fn virtualisation_is_hidden() {
    let intel = Processor::intel().cache(&LINUX);
    let leaf_1 = intel.lookup(1, 0, quiet);
    assert_eq!(leaf_1.ecx & (1 << 5 | 1 << 6), 0, "VMX, SMX");
    assert_ne!(leaf_1.ecx & 1 << 31, 0, "hypervisor present");
    assert_ne!(leaf_1.ecx & 1 << 21, 0, "x2APIC");
    assert_ne!(leaf_1.ecx & 1 << 17, 0, "PCID");
    let leaf_7 = intel.lookup(7, 0, quiet);
    assert_eq!(leaf_7.ebx & (1 << 2 | 1 << 15 | 1 << 25), 0, "SGX, RDT, PT");
    assert_ne!(leaf_7.ebx & 1 << 11, 0, "TSX");
    assert_eq!(intel.lookup(0x12, 0, quiet), Regs::ZERO);
    assert_eq!(intel.lookup(0x14, 0, quiet), Regs::ZERO);

    let amd = Processor::amd().cache(&LINUX);
    let features = amd.lookup(0x8000_0001, 0, quiet);
    assert_eq!(features.ecx & (1 << 2 | 1 << 12), 0, "SVM, SKINIT");
    assert_ne!(features.ecx & 1 << 22, 0, "topology extensions");
    assert_eq!(amd.lookup(0x8000_000a, 0, quiet), Regs::ZERO);
    assert_eq!(amd.lookup(0x8000_001f, 0, quiet), Regs::ZERO);
}

#[test]
fn x2apic_is_told() {
    let config = CpuidConfig {
        x2apic: false,
        ..LINUX
    };
    assert_eq!(
        Processor::intel().cache(&config).lookup(1, 0, quiet).ecx & 1 << 21,
        0
    );
    let mut processor = Processor::intel();
    processor.leaves.insert((7, 0), Regs::ZERO);
    let config = CpuidConfig {
        xapic_locked: true,
        ..LINUX
    };
    assert_eq!(
        processor.cache(&config).lookup(7, 0, quiet),
        regs(0, 0, 0, 1 << 29)
    );
    assert_eq!(processor.cache(&LINUX).lookup(7, 0, quiet), Regs::ZERO);
}

#[test]
fn hypervisor_leaves_are_ours() {
    for processor in [Processor::intel(), Processor::amd()] {
        let cache = processor.cache(&LINUX);
        let leaf = cache.lookup(0x4000_0000, 0, quiet);
        assert_eq!(leaf.eax, cloister_abi::CPUID_MAX_LEAF);
        let name = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
        assert_eq!(name.as_flattened(), cloister_abi::CPUID_SIGNATURE);
        assert_eq!(
            cache.lookup(0x4000_0001, 7, quiet),
            regs(cloister_abi::VERSION, 0, 0, 0)
        );
    }
}

#[test]
fn leaves_past_the_end() {
    let amd = Processor::amd().cache(&LINUX);
    let intel = Processor::intel().cache(&LINUX);
    let highest = intel.lookup(0x16, 0, quiet);
    assert_ne!(highest, Regs::ZERO);
    for leaf in [
        0x17,
        0x3f,
        0x40,
        0x3fff_ffff,
        0x4000_0002,
        0x4000_0100,
        0x8000_0009,
        0x8000_0040,
        0xc000_0000,
        u32::MAX,
    ] {
        assert_eq!(intel.lookup(leaf, 3, quiet), highest, "{leaf:#x}");
    }
    for leaf in [
        0x11,
        0x40,
        0x4000_0002,
        0x8000_0020,
        0x8000_0040,
        0xc000_0000,
        u32::MAX,
    ] {
        assert_eq!(amd.lookup(leaf, 0, quiet), Regs::ZERO, "{leaf:#x}");
    }
}

#[test]
fn kvm_interface_shows_where_xapic_is_locked() {
    let locked = CpuidConfig {
        xapic_locked: true,
        ..LINUX
    };
    let cache = Processor::intel().cache(&locked);
    let signature = cache.lookup(0x4000_0100, 0, quiet);
    assert_eq!(signature.ebx, u32::from_le_bytes(*b"KVMK"));
    assert_eq!(cache.lookup(0x4000_0101, 0, quiet), Regs::ZERO);
    let open = Processor::intel().cache(&LINUX);
    assert_ne!(open.lookup(0x4000_0100, 0, quiet), signature);
}

#[test]
fn highest_leaf_of_intel_keeps_its_subleaves() {
    let mut processor = Processor::new(b"GenuineIntel", 0xb, 0x8000_0008);
    processor.leaves.insert((1, 0), Regs::ZERO);
    let cache = processor.cache(&LINUX);
    assert_eq!(cache.lookup(0x77, 1, quiet), regs(4, 8, 0x201, 0x35));
    assert_eq!(cache.lookup(0x77, 9, quiet), regs(0, 0, 9, 0x35));
}

#[test]
fn subleaves() {
    let cache = Processor::intel().cache(&LINUX);
    let at = |leaf, sub| cache.lookup(leaf, sub, quiet);
    assert_eq!(at(4, 1), regs(0x122, 4, 5, 6));
    assert_eq!((at(4, 2), at(4, u32::MAX)), (Regs::ZERO, Regs::ZERO));
    assert_eq!(at(0xb, 1), regs(4, 8, 0x201, 0x35));
    assert_eq!(at(0xb, 2), regs(0, 0, 2, 0x35));
    assert_eq!(
        at(0xb, 0x1_0305),
        regs(0, 0, 5, 0x35),
        "ECX echoes bits 7:0"
    );
    assert_eq!(at(7, 1).eax, !(1 << 17 | 1 << 18));
    assert_eq!(at(7, 2), Regs::ZERO);
    assert_eq!(at(1, 0), at(1, 77), "ECX is ignored");
    assert_eq!(at(0xd, 9), regs(8, 2688, 2, 0));
    assert_eq!(at(0xd, 10), Regs::ZERO);
}

#[test]
fn os_bits_follow_cr4() {
    let cache = Processor::intel().cache(&LINUX);
    let with = |cr4| {
        move || Dynamic {
            cr4,
            ..Dynamic::default()
        }
    };
    let osxsave = |cr4| cache.lookup(1, 0, with(cr4)).ecx >> 27 & 1;
    assert_eq!((osxsave(0), osxsave(1 << 18)), (0, 1));
    let ospke = |cr4| cache.lookup(7, 0, with(cr4)).ecx >> 4 & 1;
    assert_eq!((ospke(0), ospke(1 << 22)), (0, 1));
}

#[test]
fn xsave_sizes() {
    let cache = Processor::intel().cache(&LINUX);
    let size = |sub, xcr0, xss| cache.lookup(0xd, sub, || Dynamic { cr4: 0, xcr0, xss }).ebx;
    assert_eq!(size(0, 1, 0), 576);
    assert_eq!(size(0, 3, 0x100), 576);
    assert_eq!(size(0, 7, 0), 832);
    assert_eq!(size(0, 0x207, 0), 2696);
    assert_eq!(size(0, 0x203, 0), 2696, "standard format has gaps");
    assert_eq!(size(1, 7, 0), 832);
    assert_eq!(size(1, 0x203, 0), 584, "compacted format has none");
    assert_eq!(size(1, 0x207, 0x100), 832 + 128 + 8);
    assert_eq!(size(1, 0x202, 0), 584);
    let mut odd = Processor::intel();
    odd.leaves.insert((0xd, 8), regs(100, 0, 1, 0));
    let size = odd
        .cache(&LINUX)
        .lookup(0xd, 1, || Dynamic {
            cr4: 0,
            xcr0: 0x203,
            xss: 0x100,
        })
        .ebx;
    assert_eq!(size, 576 + 128 + 8, "PKRU is aligned to 64 bytes");
    let mut old = Processor::intel();
    old.leaves.insert((0xd, 1), regs(1, 0, 0, 0));
    assert_eq!(
        old.cache(&LINUX).lookup(0xd, 1, quiet).ebx,
        0,
        "no XSAVEC, no size"
    );
}

#[test]
fn state_is_read_only_where_it_shows() {
    let cache = Processor::intel().cache(&LINUX);
    for leaf in [0, 2, 4, 0xb, 0x16, 0x4000_0000, 0x8000_0001, u32::MAX] {
        let _ = cache.lookup(leaf, 0, || panic!("leaf {leaf:#x} asked for the state"));
    }
}

/// What the short way knows it knows as the long way does; what has subleaves
/// or changes with the guest's state goes the long way.
#[test]
fn plain_leaves_are_looked_up_alike() {
    for processor in [Processor::intel(), Processor::amd()] {
        let cache = processor.cache(&LINUX);
        for start in [0_u32, 0x4000_0000, 0x8000_0000, 0xc000_0000] {
            for leaf in start..start + 0x50 {
                if let Some(plain) = cache.plain(leaf) {
                    assert_eq!(*plain, cache.lookup(leaf, 5, quiet), "{leaf:#x}");
                }
            }
        }
        for leaf in [0, 2, 0x4000_0000, 0x8000_0001] {
            assert!(cache.plain(leaf).is_some(), "{leaf:#x}");
        }
        for leaf in [1, 4, 7, 0xb, 0xd] {
            assert_eq!(cache.plain(leaf), None, "{leaf:#x}");
        }
    }
}

#[test]
fn partitions_see_less() {
    let cache = Processor::amd().cache(&PARTITION);
    let leaf_1 = cache.lookup(1, 0, quiet);
    assert_eq!(
        leaf_1.edx & (1 << 9 | 1 << 12 | 1 << 14),
        0,
        "APIC, MTRR, MCA"
    );
    assert_eq!(
        leaf_1.ecx & (1 << 3 | 1 << 21 | 1 << 24),
        0,
        "MONITOR, x2APIC, TSC deadline"
    );
    assert_ne!(leaf_1.edx & 1 << 4, 0, "TSC");
    assert_eq!(cache.lookup(0xa, 0, quiet), Regs::ZERO);
    assert_eq!(cache.lookup(0x8000_0007, 0, quiet), regs(0, 0, 0, 1 << 8));
    let config = CpuidConfig {
        guest: Guest::Partition { apic: true },
        ..LINUX
    };
    let leaf_1 = Processor::amd().cache(&config).lookup(1, 0, quiet);
    assert_ne!(leaf_1.edx & 1 << 9, 0);
    assert_ne!(leaf_1.ecx & 1 << 21, 0);
}

#[test]
fn full_processor_fits() {
    let mut processor = Processor::new(b"GenuineIntel", 0x3f, 0x8000_003f);
    processor
        .leaves
        .insert((0xd, 0), regs(u32::MAX, 0, 0, u32::MAX));
    for leaf in [4, 0xb, 0x1f, 0x8000_001d, 0x8000_0026] {
        for sub in 0..8 {
            processor
                .leaves
                .insert((leaf, sub), regs(1, sub, 0x100 | sub, 0));
        }
    }
    for leaf in [7, 0x14, 0x17, 0x18, 0x1d, 0x20, 0x24] {
        processor.leaves.insert((leaf, 0), regs(3, 1, 1, 1));
    }
    processor.leaves.insert((0x23, 0), regs(0x3f, 1, 1, 1));
    let cache = processor.cache(&LINUX);
    assert_ne!(cache.lookup(0x8000_003f, 0, quiet), Regs::ZERO);
    const GREEDY: [u32; 6] = [7, 0x14, 0x17, 0x18, 0x20, 0x24];
    for leaf in GREEDY {
        processor.leaves.insert((leaf, 0), regs(u32::MAX, 0, 0, 0));
    }
    let mut cache = CpuidCache::new();
    let error = cache
        .fill(|leaf, sub| processor.cpuid(leaf, sub), &LINUX)
        .unwrap_err();
    assert!(error.leaf > 7, "{error}");
}

proptest! {
    /// Whatever a processor says, filling ends, lookups do not panic, and what
    /// must stay hidden stays hidden.
    #[test]
    fn arbitrary_processors(
        seed in any::<u32>(),
        basic in prop_oneof![0u32..0x40, any::<u32>()],
        extended in prop_oneof![0x8000_0000u32..0x8000_0030, any::<u32>()],
        leaf in prop_oneof![0u32..0x40, 0x4000_0000u32..0x4000_0010, 0x8000_0000u32..0x8000_0040, any::<u32>()],
        sub in prop_oneof![0u32..70, any::<u32>()],
        state in any::<(u64, u64, u64)>(),
        apic in any::<Option<bool>>(),
    ) {
        let raw = |leaf: u32, sub: u32| match leaf {
            0 => regs(basic, seed, seed, seed),
            0x8000_0000 => regs(extended, 0, 0, 0),
            _ => {
                let mix = |salt: u32| (leaf ^ sub.rotate_left(7) ^ seed ^ salt).wrapping_mul(0x9e37_79b1);
                regs(mix(1), mix(2), mix(3), mix(4))
            }
        };
        let guest = apic.map_or(Guest::Linux, |apic| Guest::Partition { apic });
        let config = CpuidConfig { guest, ..LINUX };
        let mut cache = CpuidCache::new();
        let whole = cache.fill(raw, &config).is_ok();
        let (cr4, xcr0, xss) = state;
        let dynamic = || Dynamic { cr4, xcr0, xss };
        let found = cache.lookup(leaf, sub, dynamic);
        if let Some(plain) = cache.plain(leaf).filter(|_| whole) {
            prop_assert_eq!(*plain, found);
        }
        if whole && leaf == 1 && basic >= 1 {
            prop_assert_eq!(found.ecx & 0x60, 0);
            prop_assert_eq!(u64::from(found.ecx >> 27 & 1), cr4 >> 18 & 1);
        }
        if whole && leaf == 0x8000_0001 && extended >= leaf {
            prop_assert_eq!(found.ecx & 4, 0);
        }
        if whole && leaf == 2 && basic >= 2 {
            prop_assert_eq!(found, raw(2, 0));
        }
    }
}
