//! Range sets against a set of page numbers; plans against their promises.

extern crate std;

use std::collections::BTreeSet;
use std::format;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Add(Range),
    Remove(Range),
    Top(u64, u64, u64),
    Bottom(u64, u64, u64, u64),
}

fn small() -> impl Strategy<Value = Range> {
    (0..64_u64, 0..12_u64).prop_map(|(start, len)| Range {
        start,
        end: start + len,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let align = prop_oneof![Just(1_u64), Just(2), Just(4), Just(8)];
    prop_oneof![
        3 => small().prop_map(Step::Add),
        3 => small().prop_map(Step::Remove),
        1 => (0..8_u64, align.clone(), 0..80_u64).prop_map(|(s, a, b)| Step::Top(s, a, b)),
        1 => (0..8_u64, align, 0..80_u64, 0..80_u64)
            .prop_map(|(s, a, l, h)| Step::Bottom(s, a, l, h)),
    ]
}

/// Every aligned place of `size` addresses in `model` within the bounds.
fn places(model: &BTreeSet<u64>, size: u64, align: u64, above: u64, below: u64) -> Vec<u64> {
    (0..100_u64)
        .filter(|at| size > 0 && at.is_multiple_of(align) && *at >= above && at + size <= below)
        .filter(|at| (*at..at + size).all(|i| model.contains(&i)))
        .collect()
}

proptest! {
    #[test]
    fn a_set_holds_what_was_put_in(steps in prop::collection::vec(step(), 0..40)) {
        let mut set = RangeSet::<6>::new();
        let mut model = BTreeSet::new();
        for step in steps {
            let before: Vec<Range> = set.iter().copied().collect();
            match step {
                Step::Add(r) => match set.add(r) {
                    Ok(()) => model.extend(r.start..r.end),
                    Err(Full) => prop_assert!(before.len() == 6 && before == set.iter().copied().collect::<Vec<_>>()),
                },
                Step::Remove(r) => match set.remove(r) {
                    Ok(()) => model.retain(|i| !r.contains(*i)),
                    Err(Full) => prop_assert!(before.len() == 6 && before == set.iter().copied().collect::<Vec<_>>()),
                },
                Step::Top(size, align, below) => {
                    let best = places(&model, size, align, 0, below).last().copied();
                    let got = set.allocate_top(size, align, below);
                    prop_assert!(got.map(|r| r.start) == best || (got.is_none() && before.len() == 6));
                    if let Some(r) = got { model.retain(|i| !r.contains(*i)); }
                }
                Step::Bottom(size, align, above, below) => {
                    let best = places(&model, size, align, above, below).first().copied();
                    let got = set.allocate_bottom(size, align, above, below);
                    prop_assert!(got.map(|r| r.start) == best || (got.is_none() && before.len() == 6));
                    if let Some(r) = got { model.retain(|i| !r.contains(*i)); }
                }
            }
            let ranges: Vec<Range> = set.iter().copied().collect();
            prop_assert!(ranges.windows(2).all(|w| w[0].end < w[1].start), "{ranges:?}");
            let held: BTreeSet<u64> = ranges.iter().flat_map(|r| r.start..r.end).collect();
            prop_assert_eq!(&held, &model);
        }
    }

    #[test]
    fn range_helpers_agree(a in small(), b in small()) {
        let (sa, sb): (BTreeSet<u64>, BTreeSet<u64>) = ((a.start..a.end).collect(), (b.start..b.end).collect());
        prop_assert_eq!(a.overlaps(&b), !sa.is_disjoint(&sb));
        prop_assert_eq!(a.contains_range(&b), sb.is_subset(&sa));
        prop_assert_eq!(a.intersection(&b).map_or(0, |r| r.len()), sa.intersection(&sb).count() as u64);
        prop_assert!(a.contains_range(&a.align_inward(8)) && a.align_outward(8).contains_range(&a));
    }
}

/// QEMU's q35 with `-m` MiB below 4 GiB and `high` bytes above.
fn machine(low_mib: u64, high: u64) -> Vec<FirmwareRange> {
    let entry = |start, end: u64, kind| FirmwareRange {
        start,
        len: end - start,
        kind,
    };
    let top = low_mib * MIB;
    let mut map = Vec::from([
        entry(0, 0x9_fc00, kind::USABLE),
        entry(0x9_fc00, 0xa_0000, kind::RESERVED),
        entry(0xf_0000, 0x10_0000, kind::RESERVED),
        entry(0x10_0000, top - 0x2_0000, kind::USABLE),
        entry(top - 0x2_0000, top, kind::RESERVED),
        entry(0xfeff_c000, 0xff00_0000, kind::RESERVED),
    ]);
    if high > 0 {
        map.push(entry(4 * GIB, 4 * GIB + high, kind::USABLE));
    }
    map
}

const IMAGE: Range = Range {
    start: 2 * MIB,
    end: 3 * MIB,
};
const LINUX: LinuxNeed = LinuxNeed {
    init_size: 0x337_8000,
    alignment: LARGE_PAGE,
    preferred: 16 * MIB,
};

fn all_of(plan: &Plan) -> Vec<Range> {
    let mut all = Vec::from([plan.pool, plan.trampoline]);
    all.extend(plan.partitions.iter().copied());
    all.extend(plan.kernel);
    all.extend(plan.boot_data);
    all
}

/// What every plan must keep, whatever the input.
fn check(input: &PlanInput<'_>, plan: &Plan) {
    let all = all_of(plan);
    let used: Vec<Range> = input
        .modules
        .iter()
        .map(|m| m.range)
        .chain([input.image])
        .collect();
    for (i, a) in all.iter().enumerate() {
        assert!(!a.is_empty() && a.start.is_multiple_of(PAGE), "{a}");
        assert!(
            all.iter().skip(i + 1).all(|b| !a.overlaps(b)),
            "{a} overlaps another one"
        );
        assert!(
            used.iter().all(|b| !a.overlaps(b)),
            "{a} overlaps what is in use"
        );
        // Every page of it is usable, and nothing says otherwise of it.
        for f in input.firmware.iter().filter(|f| f.kind != kind::USABLE) {
            let end = f.start.saturating_add(f.len);
            assert!(
                !a.overlaps(&Range {
                    start: f.start,
                    end
                }),
                "{a} is reserved"
            );
        }
        let mut usable = RangeSet::<200>::new();
        for f in input.firmware.iter().filter(|f| f.kind == kind::USABLE) {
            usable
                .add(Range {
                    start: f.start,
                    end: f.start.saturating_add(f.len),
                })
                .expect("room");
        }
        assert!(usable.contains_range(a), "{a} is not usable");
    }
    assert!(plan.pool.start.is_multiple_of(LARGE_PAGE) && plan.pool.len() >= input.pool_bytes);
    assert!(plan.trampoline.len() == PAGE && plan.trampoline.end <= 640 << 10);
    assert!(plan.trampoline.start >= PAGE);
    assert_eq!(plan.partitions.len(), input.partitions.len());
    for (block, need) in plan.partitions.iter().zip(input.partitions) {
        assert!(block.start.is_multiple_of(LARGE_PAGE) && block.start >= MIB);
        assert_eq!(block.len(), need.memory.next_multiple_of(PAGE));
    }
    assert_eq!(plan.kernel.is_some(), input.linux.is_some());
    if let (Some(kernel), Some(need), Some(data)) = (plan.kernel, input.linux, plan.boot_data) {
        assert!(kernel.start >= 16 * MIB && kernel.end <= 4 * GIB);
        assert!(kernel.start.is_multiple_of(need.alignment) && kernel.len() >= need.init_size);
        assert!(data.len() == BOOT_DATA && data.end <= 4 * GIB);
    }
    check_e820(input, plan);
}

fn check_e820(input: &PlanInput<'_>, plan: &Plan) {
    let map = &plan.e820;
    assert!(map.iter().all(|e| e.len > 0));
    assert!(
        map.windows(2).all(|w| w[0].range().end <= w[1].start),
        "sorted, disjoint"
    );
    let own = plan
        .partitions
        .iter()
        .copied()
        .chain([plan.pool, input.image]);
    let kept = input.modules.iter().filter(|m| m.keep).map(|m| m.range);
    for mine in own.chain(kept) {
        let mine = mine.align_outward(PAGE);
        let reserved: u64 = map
            .iter()
            .filter_map(|e| Some((e, e.range().intersection(&mine)?)))
            .map(|(e, both)| {
                assert_eq!(e.kind, kind::RESERVED, "Linux is given a part of {mine}");
                both.len()
            })
            .sum();
        assert_eq!(reserved, mine.len());
    }
    if let Some(data) = plan.boot_data {
        assert!(
            map.iter()
                .any(|e| e.kind == kind::ACPI && e.range().contains_range(&data))
        );
    }
    // Elsewhere it says what the firmware said.
    let mut edges: Vec<u64> = map
        .iter()
        .flat_map(|e| [e.start, e.range().end - 1])
        .collect();
    edges.extend(
        input
            .firmware
            .iter()
            .flat_map(|f| [f.start, f.start.saturating_add(f.len)]),
    );
    for at in edges {
        let mut mine = plan
            .partitions
            .iter()
            .copied()
            .chain([plan.pool, input.image]);
        let kept = input
            .modules
            .iter()
            .any(|m| m.keep && m.range.align_outward(PAGE).contains(at));
        if mine.any(|r| r.align_outward(PAGE).contains(at))
            || kept
            || plan.boot_data.is_some_and(|r| r.contains(at))
        {
            continue;
        }
        let said = input
            .firmware
            .iter()
            .filter(|f| f.start <= at && at < f.start.saturating_add(f.len))
            .map(|f| if f.kind == 0 { kind::RESERVED } else { f.kind })
            .max();
        let says = map.iter().find(|e| e.range().contains(at)).map(|e| e.kind);
        assert_eq!(says, said, "at {at:#x}");
    }
}

#[test]
fn the_demo_on_one_gigabyte() {
    let firmware = machine(1024, 0);
    let modules = [
        Module {
            range: Range {
                start: 3 * MIB,
                end: 3 * MIB + 0x1234,
            },
            keep: true,
        },
        Module {
            range: Range {
                start: 4 * MIB,
                end: 14 * MIB,
            },
            keep: false,
        },
    ];
    let partitions = [
        PartitionNeed {
            name: "spin",
            memory: 64 * MIB,
        },
        PartitionNeed {
            name: "exits",
            memory: 32 * MIB,
        },
    ];
    let input = PlanInput {
        firmware: &firmware,
        image: IMAGE,
        modules: &modules,
        pool_bytes: 30 * MIB,
        partitions: &partitions,
        linux: Some(LINUX),
    };
    let plan = plan(&input).expect("fits");
    check(&input, &plan);
    assert_eq!(
        plan.kernel.map(|k| k.start),
        Some(16 * MIB),
        "the preferred address"
    );
    assert_eq!(plan.trampoline.start, 0x9_e000);
    assert!(
        plan.partitions.iter().all(|p| p.start > 512 * MIB),
        "top-down"
    );
}

#[test]
fn whole_gigabytes_are_aligned_and_above_four() {
    let firmware = machine(3072, 5 * GIB);
    let partitions = [
        PartitionNeed {
            name: "a",
            memory: 8 * MIB,
        },
        PartitionNeed {
            name: "b",
            memory: 2 * GIB,
        },
    ];
    let input = PlanInput {
        firmware: &firmware,
        image: IMAGE,
        modules: &[],
        pool_bytes: 1,
        partitions: &partitions,
        linux: None,
    };
    let plan = plan(&input).expect("fits");
    check(&input, &plan);
    assert_eq!(
        plan.partitions[1],
        Range {
            start: 7 * GIB,
            end: 9 * GIB
        }
    );
    assert!(plan.pool.end <= 4 * GIB);
    assert_eq!(plan.boot_data, None);
}

#[test]
fn a_kernel_whose_place_is_taken_goes_elsewhere() {
    let firmware = machine(512, 0);
    let modules = [Module {
        range: Range {
            start: 20 * MIB,
            end: 21 * MIB,
        },
        keep: false,
    }];
    let input = PlanInput {
        firmware: &firmware,
        image: IMAGE,
        modules: &modules,
        pool_bytes: 2 * MIB,
        partitions: &[],
        linux: Some(LINUX),
    };
    let plan = plan(&input).expect("fits");
    check(&input, &plan);
    assert_eq!(plan.kernel.map(|k| k.start), Some(22 * MIB));
}

#[test]
fn errors_say_who_needs_what() {
    let firmware = machine(32, 0);
    let spin = [PartitionNeed {
        name: "spin",
        memory: 64 * MIB,
    }];
    let mut input = PlanInput {
        firmware: &firmware,
        image: IMAGE,
        modules: &[],
        pool_bytes: 2 * MIB,
        partitions: &spin,
        linux: None,
    };
    let text = |input: &PlanInput<'_>| format!("{}", plan(input).expect_err("too small"));
    assert_eq!(
        text(&input),
        "partition `spin` needs 64 MiB in one piece, aligned to 2 MiB; the largest free block is 25 MiB"
    );
    input.linux = Some(LINUX);
    assert!(
        text(&input).starts_with("Linux's kernel (below 4 GiB) needs 51 MiB"),
        "{}",
        text(&input)
    );
    input.linux = None;
    input.pool_bytes = GIB;
    assert!(text(&input).contains("`hypervisor.memory`"));
    input.pool_bytes = 0;
    assert_eq!(plan(&input).err(), Some(PlanError::BadNeed(Owner::Pool)));
    input.firmware = &firmware[1..];
    assert!(text(&input).contains("below 640 KiB"));
    let shared = [
        Module {
            range: Range {
                start: 0x50_0000,
                end: 0x50_0010,
            },
            keep: true,
        },
        Module {
            range: Range {
                start: 0x50_0010,
                end: 0x50_0020,
            },
            keep: false,
        },
    ];
    input.modules = &shared;
    assert!(text(&input).contains("shares a 4 KiB page"));
}

fn messy() -> impl Strategy<Value = Vec<FirmwareRange>> {
    let odd =
        (0..4096_u64, 0..0x3000_0000_u64, 0..8_u32).prop_map(|(at, len, kind)| FirmwareRange {
            start: at << 20 | (at & 0xfff),
            len: len >> (at % 12),
            kind,
        });
    let wild =
        (any::<u64>(), any::<u64>(), 0..8_u32).prop_map(|(start, len, kind)| FirmwareRange {
            start,
            len,
            kind: kind.max(2),
        });
    let extra = prop::collection::vec(prop_oneof![9 => odd, 1 => wild], 0..12);
    (64..3500_u64, 0..6_u64, extra, any::<prop::sample::Index>()).prop_map(
        |(low, high, extra, at)| {
            let mut map = machine(low, high * 700 * MIB);
            map.extend(extra);
            let turn = at.index(map.len());
            map.rotate_left(turn);
            map
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_plan_keeps_its_promises(
        firmware in messy(),
        modules in prop::collection::vec((0..0x800_0000_u64, 1..0x200_0000_u64, any::<bool>()), 0..8),
        memories in prop::collection::vec(
            prop_oneof![1..200 * MIB, (1..100_u64).prop_map(|n| n * LARGE_PAGE), (1..4_u64).prop_map(|n| n * GIB)], 0..6),
        pool_bytes in 1..100 * MIB,
        linux in prop::option::of((1..100 * MIB, 12..25_u32, 0..200 * MIB)),
    ) {
        let modules: Vec<Module> = modules.into_iter()
            .map(|(start, len, keep)| Module { range: Range { start: start & !0xfff, end: (start & !0xfff) + len }, keep })
            .collect();
        let partitions: Vec<PartitionNeed<'_>> =
            memories.iter().map(|m| PartitionNeed { name: "p", memory: *m }).collect();
        let input = PlanInput {
            firmware: &firmware,
            image: IMAGE,
            modules: &modules,
            pool_bytes,
            partitions: &partitions,
            linux: linux.map(|(init_size, shift, preferred)| LinuxNeed { init_size, alignment: 1 << shift, preferred }),
        };
        if let Ok(plan) = plan(&input) {
            check(&input, &plan);
        }
    }

    #[test]
    fn nothing_panics(
        firmware in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u32>()), 0..140),
        image in (any::<u64>(), any::<u64>()),
        modules in prop::collection::vec((any::<u64>(), any::<u64>(), any::<bool>()), 0..70),
        memories in prop::collection::vec(any::<u64>(), 0..40),
        pool_bytes: u64,
        linux in prop::option::of((any::<u64>(), any::<u64>(), any::<u64>())),
    ) {
        let firmware: Vec<FirmwareRange> =
            firmware.into_iter().map(|(start, len, kind)| FirmwareRange { start, len, kind }).collect();
        let modules: Vec<Module> = modules.into_iter()
            .map(|(start, end, keep)| Module { range: Range { start, end }, keep })
            .collect();
        let partitions: Vec<PartitionNeed<'_>> =
            memories.iter().map(|m| PartitionNeed { name: "p", memory: *m }).collect();
        let _ = plan(&PlanInput {
            firmware: &firmware,
            image: Range { start: image.0, end: image.1 },
            modules: &modules,
            pool_bytes,
            partitions: &partitions,
            linux: linux.map(|(init_size, alignment, preferred)| LinuxNeed { init_size, alignment, preferred }),
        });
    }
}
