//! What each guest gets, and what none may get.

extern crate std;

use proptest::prelude::*;

use super::*;

const LINUX_AMD: MsrContext = MsrContext {
    vendor: Vendor::Amd,
    guest: Guest::Linux,
    pat_direct: true,
    xapic_locked: false,
};
const LINUX_INTEL: MsrContext = MsrContext {
    vendor: Vendor::Intel,
    ..LINUX_AMD
};
const PARTITION: MsrContext = MsrContext {
    guest: Guest::Partition { apic: false },
    ..LINUX_AMD
};
const PARTITION_APIC: MsrContext = MsrContext {
    guest: Guest::Partition { apic: true },
    ..LINUX_AMD
};

fn all() -> impl Iterator<Item = u32> {
    BITMAP_RANGES.into_iter().flatten()
}

/// MSRs with which a guest would leave its cage: (index, vendor).
const FORBIDDEN: &[(u32, Vendor)] = &[
    (0x3a, Vendor::Intel),        // FEATURE_CONTROL
    (0x9b, Vendor::Intel),        // SMM_MONITOR_CTL
    (0x9e, Vendor::Intel),        // SMBASE
    (0x8c, Vendor::Intel),        // SGXLEPUBKEYHASH0
    (0x480, Vendor::Intel),       // VMX_BASIC
    (0x48b, Vendor::Intel),       // VMX_PROCBASED_CTLS2
    (0x560, Vendor::Intel),       // RTIT_OUTPUT_BASE
    (0x570, Vendor::Intel),       // RTIT_CTL
    (0x610, Vendor::Intel),       // PKG_POWER_LIMIT
    (0xc90, Vendor::Intel),       // L3_MASK_0
    (0x985, Vendor::Intel),       // UINTR_RR
    (0x17d0, Vendor::Intel),      // HW_FEEDBACK_PTR
    (0x982, Vendor::Intel),       // TME_ACTIVATE
    (0xc001_0010, Vendor::Amd),   // SYSCFG
    (0xc001_0016, Vendor::Amd),   // IORR_BASE0
    (0xc001_001a, Vendor::Amd),   // TOP_MEM
    (0xc001_001d, Vendor::Amd),   // TOP_MEM2
    (0xc001_0058, Vendor::Amd),   // MMIO_CFG_BASE
    (0xc001_0111, Vendor::Amd),   // SMM_BASE
    (0xc001_0112, Vendor::Amd),   // SMM_ADDR
    (0xc001_0113, Vendor::Amd),   // SMM_MASK
    (0xc001_0114, Vendor::Amd),   // VM_CR
    (0xc001_0117, Vendor::Amd),   // VM_HSAVE_PA
    (0xc000_0104, Vendor::Amd),   // TSC_RATIO
    (0xc001_0130, Vendor::Amd),   // SEV-ES GHCB
    (0xc001_1030, Vendor::Amd),   // IBS_FETCH_CTL
    (0xc001_103a, Vendor::Amd),   // IBS_CTL
    (0x4b56_4d01, Vendor::Intel), // kvm-clock
    (0x4b56_4d01, Vendor::Amd),
    (0x4000_0001, Vendor::Intel), // Hyper-V hypercall page
];

#[test]
fn forbidden_writes_exit_and_fault() {
    for guest in [
        Guest::Linux,
        Guest::Partition { apic: false },
        Guest::Partition { apic: true },
    ] {
        for &(index, vendor) in FORBIDDEN {
            let context = MsrContext {
                vendor,
                guest,
                ..LINUX_AMD
            };
            assert!(exits_on_write(index, &context), "{index:#x} {context:?}");
            for value in [0, 1, u64::MAX] {
                assert_eq!(
                    write(index, value, &context),
                    MsrAction::Fault,
                    "{index:#x} {context:?}"
                );
            }
        }
    }
}

#[test]
fn efer_always_exits_on_amd() {
    for context in [LINUX_AMD, LINUX_INTEL, PARTITION, PARTITION_APIC] {
        assert!(exits_on_write(0xc000_0080, &context));
        assert_eq!(write(0xc000_0080, 0x500, &context), MsrAction::Efer);
    }
    for context in [LINUX_AMD, PARTITION] {
        assert!(exits_on_read(0xc000_0080, &context));
        assert_eq!(read(0xc000_0080, &context), MsrAction::Efer);
    }
    assert!(!exits_on_read(0xc000_0080, &LINUX_INTEL));
}

#[test]
fn pat_follows_the_vendor() {
    for context in [LINUX_AMD, PARTITION] {
        assert!(!exits_on_read(0x277, &context) && !exits_on_write(0x277, &context));
        let context = MsrContext {
            pat_direct: false,
            ..context
        };
        assert!(exits_on_read(0x277, &context) && exits_on_write(0x277, &context));
        assert_eq!(read(0x277, &context), MsrAction::Pat);
        assert_eq!(write(0x277, 6, &context), MsrAction::Pat);
    }
}

#[test]
fn hot_writes_of_linux_do_not_exit() {
    let hot = [
        0x48,
        0x49,
        0x174,
        0x175,
        0x176,
        0x1c4,
        0x6e0,
        0x80b,
        0x838,
        0xc000_0081,
        0xc000_0084,
        0xc000_0100,
        0xc000_0101,
        0xc000_0102,
        0xc000_0103,
    ];
    for context in [LINUX_AMD, LINUX_INTEL] {
        for index in hot {
            assert!(!exits_on_write(index, &context), "{index:#x}");
        }
        assert!(exits_on_write(0x830, &context) && !exits_on_read(0x830, &context));
        assert_eq!(write(0x830, 0, &context), MsrAction::X2apicIcr);
        assert!(exits_on_write(0x1b, &context));
        assert_eq!(write(0x1b, 0, &context), MsrAction::ApicBase);
    }
}

#[test]
fn cold_writes_of_linux_are_done() {
    for context in [LINUX_AMD, LINUX_INTEL] {
        for index in [0x10, 0x3b, 0x17b, 0x200, 0x250, 0x26f, 0x2ff, 0x400] {
            assert!(exits_on_write(index, &context), "{index:#x}");
            assert_eq!(
                write(index, 1, &context),
                MsrAction::PassThrough,
                "{index:#x}"
            );
        }
    }
    for index in [0x186, 0x38f, 0x1a0, 0x19a, 0x199, 0x1b0] {
        assert_eq!(
            write(index, 1, &LINUX_INTEL),
            MsrAction::PassThrough,
            "{index:#x}"
        );
    }
    for index in [
        0xc001_0000,
        0xc001_0200,
        0xc001_0015,
        0xc001_1029,
        0xc000_2005,
    ] {
        assert_eq!(
            write(index, 1, &LINUX_AMD),
            MsrAction::PassThrough,
            "{index:#x}"
        );
        assert_eq!(
            write(index, 1, &LINUX_INTEL),
            MsrAction::Fault,
            "{index:#x}"
        );
    }
    assert_eq!(write(0x79, 0x1000, &LINUX_INTEL), MsrAction::IgnoreWrite);
    assert_eq!(
        write(0xc001_0020, 0x1000, &LINUX_AMD),
        MsrAction::IgnoreWrite
    );
    assert_eq!(write(0x8b, 0, &LINUX_INTEL), MsrAction::PassThrough);
    assert_eq!(write(0x8b, 1, &LINUX_INTEL), MsrAction::Fault);
}

#[test]
fn debugctl_is_masked() {
    assert_eq!(write(0x1d9, 0x3, &LINUX_AMD), MsrAction::PassThrough);
    assert_eq!(write(0x1d9, 0x4, &LINUX_AMD), MsrAction::Fault);
    assert_eq!(write(0x1d9, 0x1801, &LINUX_INTEL), MsrAction::PassThrough);
    // FREEZE_WHILE_SMM.
    assert_eq!(write(0x1d9, 1 << 14, &LINUX_INTEL), MsrAction::Fault);
}

#[test]
fn linux_sees_no_virtualisation() {
    assert_eq!(read(0x3a, &LINUX_INTEL), MsrAction::ReadAs(1));
    assert_eq!(read(0x480, &LINUX_INTEL), MsrAction::Fault);
    assert_eq!(read(0xc001_0114, &LINUX_AMD), MsrAction::ReadAs(0x18));
    assert_eq!(read(0xc001_0117, &LINUX_AMD), MsrAction::ReadAs(0));
    assert_eq!(read(0x1b, &LINUX_AMD), MsrAction::PassThrough);
    for context in [LINUX_AMD, LINUX_INTEL] {
        let exits = all()
            .filter(|index| in_bitmap(*index, context.vendor))
            .filter(|index| exits_on_read(*index, &context))
            .count();
        assert!(exits < 100, "nearly all reads are direct, but {exits} exit");
    }
}

#[test]
fn locked_xapic() {
    let locked = MsrContext {
        xapic_locked: true,
        ..LINUX_INTEL
    };
    assert_eq!(read(0xbd, &locked), MsrAction::ReadAs(1));
    assert_eq!(read(0x10a, &locked), MsrAction::ReadWith(1 << 21));
    assert!(exits_on_read(0xbd, &locked) && exits_on_read(0x10a, &locked));
    assert!(!exits_on_read(0x10a, &LINUX_INTEL));
}

#[test]
fn partitions_have_a_short_list() {
    let direct_reads = |context| {
        all()
            .filter(|index| !exits_on_read(*index, context))
            .count()
    };
    let direct_writes = |context| {
        all()
            .filter(|index| !exits_on_write(*index, context))
            .count()
    };
    // SYSENTER 3, STAR family 4, bases 3, TSC_AUX, PAT; TSC, MPERF, APERF.
    assert_eq!(direct_writes(&PARTITION), 12);
    assert_eq!(direct_reads(&PARTITION), 15);
    assert_eq!(direct_writes(&PARTITION_APIC), 12 + 9);
    for index in [0x1b, 0x6e0, 0x802, 0x80b, 0x832] {
        assert_eq!(read(index, &PARTITION), MsrAction::Fault, "{index:#x}");
        assert_eq!(write(index, 0, &PARTITION), MsrAction::Fault, "{index:#x}");
    }
    assert_eq!(write(0x10, 0, &PARTITION), MsrAction::Fault);
    assert_eq!(read(0x10, &PARTITION), MsrAction::PassThrough);
    assert_eq!(write(0x830, 0, &PARTITION_APIC), MsrAction::X2apicIcr);
    assert!(exits_on_write(0x830, &PARTITION_APIC));
    assert_eq!(write(0x1b, 0, &PARTITION_APIC), MsrAction::Fault);
}

#[test]
fn apic_base() {
    let old = 0xfee0_0900;
    assert_eq!(apic_base_write(old, old, true), ApicBaseWrite::Same);
    assert_eq!(
        apic_base_write(old, old & !0x100, true),
        ApicBaseWrite::Same
    );
    assert_eq!(
        apic_base_write(old, old | 0x400, true),
        ApicBaseWrite::EnableX2apic
    );
    for (old, new, x2apic) in [
        (old, old | 0x400, false),
        (old, old & !0x800, true),
        (old, 0xfed0_0900, true),
        (old, 0xfed0_0d00, true),
        (old | 0x400, old, true),
        (old | 0x400, old & !0x800, true),
    ] {
        assert_eq!(
            apic_base_write(old, new, x2apic),
            ApicBaseWrite::Refused,
            "{new:#x}"
        );
    }
}

fn any_context() -> impl Strategy<Value = MsrContext> {
    (any::<[bool; 4]>(), 0..3).prop_map(|([amd, pat_direct, xapic_locked, apic], guest)| {
        MsrContext {
            vendor: if amd { Vendor::Amd } else { Vendor::Intel },
            guest: if guest == 0 {
                Guest::Linux
            } else {
                Guest::Partition { apic }
            },
            pat_direct,
            xapic_locked,
        }
    })
}

fn any_index() -> impl Strategy<Value = u32> {
    prop_oneof![
        0u32..0x2000,
        0xc000_0000u32..0xc000_2000,
        0xc001_0000u32..0xc001_2000,
        any::<u32>()
    ]
}

proptest! {
    /// What does not exit would have been passed through, had it exited: the
    /// bitmap and the decisions say the same.
    #[test]
    fn bitmap_agrees_with_decisions(index in any_index(), value in any::<u64>(), context in any_context()) {
        if !exits_on_read(index, &context) {
            prop_assert_eq!(read(index, &context), MsrAction::PassThrough);
        }
        if !exits_on_write(index, &context) {
            prop_assert_eq!(write(index, value, &context), MsrAction::PassThrough);
        }
    }

    /// Reads get read actions, writes get write actions.
    #[test]
    fn actions_fit_the_access(index in any_index(), value in any::<u64>(), context in any_context()) {
        use MsrAction::*;
        prop_assert!(!matches!(read(index, &context), IgnoreWrite | ApicBase | X2apicIcr));
        prop_assert!(!matches!(write(index, value, &context), ReadAs(_) | ReadWith(_)));
    }

    /// A partition's writes that reach hardware are a subset of Linux's.
    #[test]
    fn partitions_write_no_more_than_linux(index in any_index(), value in any::<u64>(), context in any_context()) {
        let linux = MsrContext { guest: Guest::Linux, ..context };
        if write(index, value, &context) == MsrAction::PassThrough {
            prop_assert_eq!(write(index, value, &linux), MsrAction::PassThrough);
        }
    }
}
