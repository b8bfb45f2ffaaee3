//! The builder against a model of address ranges, read back by a walker that
//! knows the manuals' bit positions and nothing of [`Format`].

extern crate std;

use std::boxed::Box;
use std::collections::HashMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// Host memory with room for `budget` tables. Reading a table that was never
/// handed out, or was taken back, panics.
struct Host {
    frames: HashMap<u64, Box<[u64; ENTRIES]>>,
    next: u64,
    budget: usize,
}

impl Host {
    fn new(budget: usize) -> Self {
        Self {
            frames: HashMap::new(),
            next: 0x10_0000,
            budget,
        }
    }
}

impl Tables for Host {
    fn allocate(&mut self) -> Option<u64> {
        if self.frames.len() >= self.budget {
            return None;
        }
        self.next += PAGE;
        self.frames.insert(self.next, Box::new([0; ENTRIES]));
        Some(self.next)
    }
    fn release(&mut self, table: u64) {
        assert!(
            self.frames.remove(&table).is_some(),
            "released twice: {table:#x}"
        );
    }
    fn read(&self, table: u64, index: usize) -> u64 {
        self.frames[&table][index]
    }
    fn write(&mut self, table: u64, index: usize, value: u64) {
        self.frames.get_mut(&table).expect("a table")[index] = value;
    }
}

/// What hardware makes of an address: host address, rights, type.
type Page = (u64, Rights, MemoryType);
type Seen = Option<Page>;

fn slot(gpa: u64, shift: u32) -> usize {
    usize::try_from(gpa >> shift & 0x1ff).expect("nine bits")
}

fn walk_ept(host: &Host, root: u64, gpa: u64) -> Seen {
    let (mut table, mut allowed) = (root, 7);
    for shift in [39, 30, 21, 12] {
        let entry = host.read(table, slot(gpa, shift));
        if entry & 7 == 0 {
            return None;
        }
        assert_ne!(entry & 3, 2, "write-only is a misconfiguration");
        allowed &= entry & 7;
        let page = shift == 12 || entry & 0x80 != 0;
        if page {
            assert_ne!(shift, 39, "no 512 GiB pages");
            let below = (1_u64 << shift) - 1;
            assert_eq!(entry & below & !0xfff, 0, "reserved address bits");
            let kind = match entry >> 3 & 7 {
                0 => MemoryType::Uncacheable,
                1 => MemoryType::WriteCombining,
                4 => MemoryType::WriteThrough,
                5 => MemoryType::WriteProtected,
                6 => MemoryType::WriteBack,
                other => panic!("reserved memory type {other}"),
            };
            let rights = Rights {
                read: allowed & 1 != 0,
                write: allowed & 2 != 0,
                execute: allowed & 4 != 0,
            };
            return Some((
                (entry & 0xf_ffff_ffff_f000 & !below) | (gpa & below),
                rights,
                kind,
            ));
        }
        assert_eq!(entry & 0xf8, 0, "reserved in a table entry");
        table = entry & 0xf_ffff_ffff_f000;
    }
    unreachable!()
}

fn walk_npt(host: &Host, root: u64, gpa: u64) -> Seen {
    let (mut table, mut write, mut execute) = (root, true, true);
    for shift in [39, 30, 21, 12] {
        let entry = host.read(table, slot(gpa, shift));
        if entry & 1 == 0 {
            return None;
        }
        assert_ne!(entry & 4, 0, "nested accesses are user accesses");
        write &= entry & 2 != 0;
        execute &= entry >> 63 == 0;
        let page = shift == 12 || entry & 0x80 != 0;
        if page {
            assert_ne!(shift, 39, "no 512 GiB pages");
            let below = (1_u64 << shift) - 1;
            let pat = if shift == 12 { 7 } else { 12 };
            assert_eq!(entry & below & !0x1fff, 0, "reserved address bits");
            let index = (entry >> 3 & 3) | ((entry >> pat & 1) << 2);
            let kind = match Npt::HOST_PAT >> (index * 8) & 0xff {
                0 | 7 => MemoryType::Uncacheable,
                1 => MemoryType::WriteCombining,
                4 => MemoryType::WriteThrough,
                5 => MemoryType::WriteProtected,
                6 => MemoryType::WriteBack,
                other => panic!("reserved PAT type {other}"),
            };
            let rights = Rights {
                read: true,
                write,
                execute,
            };
            return Some((
                (entry & 0xf_ffff_ffff_f000 & !below) | (gpa & below),
                rights,
                kind,
            ));
        }
        table = entry & 0xf_ffff_ffff_f000;
    }
    unreachable!()
}

/// As VT-d walks (specification 4.1, 9.8). The type of memory is not there.
fn walk_vtd(host: &Host, root: u64, gpa: u64) -> Seen {
    let (mut table, mut allowed) = (root, 3);
    for shift in [39, 30, 21, 12] {
        let entry = host.read(table, slot(gpa, shift));
        if entry & 3 == 0 {
            return None;
        }
        allowed &= entry & 3;
        assert_eq!(entry & 0x7c, 0, "execution and what scalable mode has");
        assert_eq!(entry & 0x800, 0, "snoop behaviour is not asked for");
        let address = entry & 0xf_ffff_ffff_f000;
        if shift == 12 || entry & 0x80 != 0 {
            assert_ne!(shift, 39, "no 512 GiB pages");
            let below = (1_u64 << shift) - 1;
            assert_eq!(address & below, 0, "reserved address bits");
            return Some((address | (gpa & below), io(allowed & 2 != 0), DATA));
        }
        table = address;
    }
    unreachable!()
}

/// As AMD-Vi walks (48882, 2.2.3), from a device table entry of mode 4.
fn walk_amdvi(host: &Host, root: u64, gpa: u64) -> Seen {
    let (mut table, mut level, mut rights) = (root, 4_u32, 3);
    loop {
        let entry = host.read(table, slot(gpa, 3 + 9 * level));
        if entry & 1 == 0 {
            return None;
        }
        rights &= entry >> 61 & 3;
        let next = (entry >> 9 & 7) as u32;
        assert_eq!(entry & 0x07f0_0000_0000_0000, 0, "reserved bits");
        let address = entry & 0xf_ffff_ffff_f000;
        if next == 0 {
            let below = (1_u64 << (3 + 9 * level)) - 1;
            assert_eq!(address & below, 0, "reserved address bits");
            return Some((address | (gpa & below), io(rights & 2 != 0), DATA));
        }
        assert_eq!(next, level - 1, "no level is left out");
        (table, level) = (address, next);
    }
}

const DATA: MemoryType = MemoryType::WriteBack;

fn io(write: bool) -> Rights {
    Rights {
        read: true,
        write,
        execute: false,
    }
}

/// What a device can tell of a guest's page.
fn device_sees((hpa, rights, _): Page) -> Page {
    (hpa, io(rights.write), DATA)
}

fn all(page: Page) -> Page {
    page
}

/// One stretch of the model.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    gpa: u64,
    end: u64,
    hpa: u64,
    /// All of it is the one page at `hpa`.
    same: bool,
    rights: Rights,
    kind: MemoryType,
}

impl Stretch {
    fn at(&self, gpa: u64) -> u64 {
        if self.same {
            self.hpa + gpa % PAGE
        } else {
            self.hpa + (gpa - self.gpa)
        }
    }
    fn part(&self, gpa: u64, end: u64) -> Self {
        let hpa = if self.same { self.hpa } else { self.at(gpa) };
        Self {
            gpa,
            end,
            hpa,
            ..*self
        }
    }
}

#[derive(Default)]
struct Model(Vec<Stretch>);

impl Model {
    /// Cuts `gpa..end` out and returns what was there.
    fn carve(&mut self, gpa: u64, end: u64) -> Vec<Stretch> {
        let mut inside = Vec::new();
        let mut rest = Vec::new();
        for s in self.0.drain(..) {
            let (from, to) = (s.gpa.max(gpa), s.end.min(end));
            if from >= to {
                rest.push(s);
                continue;
            }
            inside.push(s.part(from, to));
            if s.gpa < from {
                rest.push(s.part(s.gpa, from));
            }
            if to < s.end {
                rest.push(s.part(to, s.end));
            }
        }
        self.0 = rest;
        inside
    }
    fn free(&self, gpa: u64, end: u64) -> bool {
        self.0.iter().all(|s| s.end <= gpa || end <= s.gpa)
    }
    fn lookup(&self, gpa: u64) -> Seen {
        let s = self.0.iter().find(|s| s.gpa <= gpa && gpa < s.end)?;
        Some((s.at(gpa), s.rights, s.kind))
    }
    fn probes(&self) -> Vec<u64> {
        let mut probes = Vec::new();
        for s in &self.0 {
            let middle = s.gpa + (s.end - s.gpa) / 2;
            for at in [
                s.gpa,
                s.end,
                middle,
                middle & !0x1f_ffff,
                middle & !0x3fff_ffff,
            ] {
                probes.extend([at.saturating_sub(1), at, at + 0x123, at + PAGE]);
            }
        }
        probes.retain(|at| *at < GPA_END);
        probes
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Map(u64, u64, u64, Rights, MemoryType),
    Same(u64, u64, u64, Rights),
    Unmap(u64, u64),
    Protect(u64, u64, Rights),
    Remap(u64, u64, Rights, MemoryType),
}

/// Addresses near the edges of pages of every size, below 2 TiB.
fn address() -> impl Strategy<Value = u64> {
    (0..4_u64, 0..3_u64, 0..3_u64, 0..4_u64)
        .prop_map(|(a, b, c, d)| (a << 39) + (b << 30) + (c << 21) + (d << 12))
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![
        (1..5_u64).prop_map(|n| n << 12),
        (1..5_u64).prop_map(|n| n << 21),
        (1..4_u64).prop_map(|n| n << 30),
        Just(1 << 39),
        address().prop_map(|a| a.max(PAGE)),
    ]
}

fn rights() -> impl Strategy<Value = Rights> {
    prop_oneof![
        Just(Rights::RWX),
        Just(Rights::RX),
        Just(Rights::RW),
        Just(Rights::READ)
    ]
}

fn kind() -> impl Strategy<Value = MemoryType> {
    prop_oneof![
        Just(MemoryType::WriteBack),
        Just(MemoryType::Uncacheable),
        Just(MemoryType::WriteCombining),
        Just(MemoryType::WriteThrough),
        Just(MemoryType::WriteProtected),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (address(), address(), length(), rights(), kind())
            .prop_map(|(g, h, l, r, k)| Step::Map(g, h, l, r, k)),
        // Identity, as for Linux.
        2 => (address(), length(), rights(), kind())
            .prop_map(|(g, l, r, k)| Step::Map(g, g, l, r, k)),
        2 => (address(), length(), address(), rights())
            .prop_map(|(g, l, p, r)| Step::Same(g, l, p, r)),
        2 => (address(), length()).prop_map(|(g, l)| Step::Unmap(g, l)),
        // Only short ranges: a long shared one would be copied table by table.
        1 => (address(), 1..600_u64, rights())
            .prop_map(|(g, n, r)| Step::Protect(g, n << 12, r)),
        2 => (address(), address(), rights(), kind())
            .prop_map(|(g, h, r, k)| Step::Remap(g, h, r, k)),
    ]
}

fn apply<F: Format>(table: &mut Builder<F>, host: &mut Host, model: &mut Model, step: Step) {
    match step {
        Step::Map(gpa, hpa, len, rights, kind) => {
            let free = model.free(gpa, gpa + len);
            let result = table.map(host, gpa, hpa, len, rights, kind);
            assert_eq!(result == Err(MapError::Overlap), !free, "{result:?}");
            if result.is_ok() {
                model.0.push(Stretch {
                    gpa,
                    end: gpa + len,
                    hpa,
                    same: false,
                    rights,
                    kind,
                });
            } else if free {
                assert_eq!(result, Err(MapError::OutOfTables));
            }
        }
        Step::Same(gpa, len, page, rights) => {
            let free = model.free(gpa, gpa + len);
            let before = host.frames.len();
            let result = table.map_same_page(host, gpa, len, page, rights);
            assert_eq!(result == Err(MapError::Overlap), !free, "{result:?}");
            assert!(host.frames.len() <= before + 9);
            if result.is_ok() {
                let kind = MemoryType::WriteBack;
                let end = gpa + len;
                model.0.push(Stretch {
                    gpa,
                    end,
                    hpa: page,
                    same: true,
                    rights,
                    kind,
                });
            }
        }
        Step::Unmap(gpa, len) => match table.unmap(host, gpa, len) {
            Ok(()) => drop(model.carve(gpa, gpa + len)),
            Err(error) => assert_eq!(error, MapError::OutOfTables),
        },
        Step::Protect(gpa, len, rights) => match table.protect(host, gpa, len, rights) {
            Ok(()) => {
                let inside = model.carve(gpa, gpa + len);
                model
                    .0
                    .extend(inside.into_iter().map(|s| Stretch { rights, ..s }));
            }
            Err(error) => assert_eq!(error, MapError::OutOfTables),
        },
        Step::Remap(gpa, hpa, rights, kind) => match table.remap_page(host, gpa, hpa, rights, kind)
        {
            Ok(()) => {
                model.carve(gpa, gpa + PAGE);
                model.0.push(Stretch {
                    gpa,
                    end: gpa + PAGE,
                    hpa,
                    same: false,
                    rights,
                    kind,
                });
            }
            Err(error) => assert_eq!(error, MapError::OutOfTables),
        },
    }
}

fn agrees<F: Format>(
    steps: &[Step],
    gib: bool,
    budget: usize,
    walk: fn(&Host, u64, u64) -> Seen,
    sees: fn(Page) -> Page,
) {
    let mut host = Host::new(budget);
    let mut table = Builder::<F>::new(&mut host, gib).expect("one table");
    let mut model = Model::default();
    for step in steps {
        apply(&mut table, &mut host, &mut model, *step);
        let mut probes = model.probes();
        let (Step::Map(gpa, _, len, ..)
        | Step::Same(gpa, len, ..)
        | Step::Unmap(gpa, len)
        | Step::Protect(gpa, len, _)) = *step
        else {
            continue;
        };
        probes.extend([
            gpa,
            gpa + len / 2,
            gpa + len - 1,
            gpa + len,
            gpa.saturating_sub(1),
        ]);
        for gpa in probes {
            let expected = model.lookup(gpa).map(sees);
            assert_eq!(
                walk(&host, table.root(), gpa),
                expected,
                "{gpa:#x} after {step:x?}"
            );
            let found = table.lookup(&host, gpa);
            assert_eq!(found.map(|t| (t.hpa, t.rights, t.memory_type)), expected);
            assert!(gib || found.is_none_or(|t| t.level < 3));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn ept_agrees_with_the_model(
        steps in prop::collection::vec(step(), 1..12),
        gib: bool,
        budget in prop_oneof![1..20_usize, Just(300)],
    ) {
        agrees::<Ept>(&steps, gib, budget, walk_ept, all);
    }

    #[test]
    fn npt_agrees_with_the_model(
        steps in prop::collection::vec(step(), 1..12),
        gib: bool,
        budget in prop_oneof![1..20_usize, Just(300)],
    ) {
        agrees::<Npt>(&steps, gib, budget, walk_npt, all);
    }

    #[test]
    fn vtd_agrees_with_the_model(
        steps in prop::collection::vec(step(), 1..12),
        gib: bool,
        budget in prop_oneof![1..20_usize, Just(300)],
    ) {
        agrees::<VtdTable>(&steps, gib, budget, walk_vtd, device_sees);
    }

    #[test]
    fn amdvi_agrees_with_the_model(
        steps in prop::collection::vec(step(), 1..12),
        gib: bool,
        budget in prop_oneof![1..20_usize, Just(300)],
    ) {
        agrees::<AmdViTable>(&steps, gib, budget, walk_amdvi, device_sees);
    }

    #[test]
    fn no_arguments_panic(gpa: u64, hpa: u64, len: u64, at: u64) {
        let mut host = Host::new(50);
        let mut table = Builder::<Ept>::new(&mut host, true).expect("one table");
        let _ = table.map(&mut host, gpa, hpa, len, Rights::RWX, MemoryType::WriteBack);
        let _ = table.map_same_page(&mut host, gpa, len, hpa, Rights::READ);
        let _ = table.protect(&mut host, at, len, Rights::READ);
        let _ = table.remap_page(&mut host, at, hpa, Rights::READ, MemoryType::WriteBack);
        let _ = table.unmap(&mut host, at, len);
        let _ = table.lookup(&host, at);
    }
}

const GIB: u64 = 1 << 30;

fn mapped(gib: bool, gpa: u64, hpa: u64, len: u64) -> (Host, Builder<Npt>) {
    let mut host = Host::new(usize::MAX);
    let mut table = Builder::<Npt>::new(&mut host, gib).expect("one table");
    let result = table.map(&mut host, gpa, hpa, len, Rights::RWX, MemoryType::WriteBack);
    assert_eq!(result, Ok(()));
    (host, table)
}

#[test]
fn the_largest_pages_that_fit_are_used() {
    let (host, table) = mapped(true, 0, 0, 512 * GIB);
    assert_eq!(host.frames.len(), 2, "root and one table of 1 GiB pages");
    assert_eq!(table.lookup(&host, 5 * GIB).map(|t| t.level), Some(3));

    let (host, table) = mapped(false, 0, 0, 4 * GIB);
    assert_eq!(host.frames.len(), 2 + 4);
    assert_eq!(table.lookup(&host, GIB).map(|t| t.level), Some(2));

    // The host address is only 2 MiB-aligned; the length ends in a 4 KiB page.
    let (host, table) = mapped(true, GIB, 0x20_0000, GIB + PAGE);
    assert_eq!(table.lookup(&host, GIB).map(|t| t.level), Some(2));
    assert_eq!(table.lookup(&host, 2 * GIB).map(|t| t.level), Some(1));
    assert_eq!(table.lookup(&host, 2 * GIB + PAGE), None);
}

/// Notes which entries are written.
struct Noting(Host, Vec<(u64, usize)>);

impl Tables for Noting {
    fn allocate(&mut self) -> Option<u64> {
        self.0.allocate()
    }
    fn release(&mut self, table: u64) {
        self.0.release(table);
    }
    fn read(&self, table: u64, index: usize) -> u64 {
        self.0.read(table, index)
    }
    fn write(&mut self, table: u64, index: usize, value: u64) {
        self.1.push((table, index));
        self.0.write(table, index, value);
    }
}

#[test]
fn what_is_mapped_stays_so_while_the_rest_is() {
    const LARGE: u64 = 2 << 20;
    let (host, mut table) = mapped(true, 3 * LARGE, 3 * LARGE, LARGE);
    let mut noting = Noting(host, Vec::new());
    let complete = |table: &mut Builder<Npt>, noting: &mut Noting, len| {
        table.complete(noting, 0, 0, len, Rights::RWX, MemoryType::WriteBack)
    };
    assert_eq!(complete(&mut table, &mut noting, 8 * LARGE), Ok(()));
    let slots: Vec<usize> = noting.1.iter().map(|&(_, slot)| slot).collect();
    assert_eq!(slots, [0, 1, 2, 4, 5, 6, 7]);

    // One page fits over all of it.
    assert_eq!(complete(&mut table, &mut noting, GIB + LARGE), Ok(()));
    let level = |gpa| table.lookup(&noting, gpa).map(|there| there.level);
    assert_eq!((level(0), level(GIB)), (Some(3), Some(2)));
    assert_eq!(table.lookup(&noting, GIB + LARGE), None);
    noting.1.clear();
    assert_eq!(complete(&mut table, &mut noting, GIB + LARGE), Ok(()));
    assert!(noting.1.is_empty());

    noting.0.budget = 0;
    let none_left = complete(&mut table, &mut noting, 3 * GIB + LARGE);
    assert_eq!(none_left, Err(MapError::OutOfTables));
}

#[test]
fn three_levels_and_small_pages() {
    let mut host = Host::new(usize::MAX);
    let mut table = Builder::<VtdTable>::with_pages(&mut host, 1).expect("one table");
    let result = table.map(&mut host, 0, 4 * GIB, 2 << 20, Rights::RW, DATA);
    assert_eq!(result, Ok(()));
    assert_eq!(table.lookup(&host, 0x1000).map(|t| t.level), Some(1));
    let root = table.table_of_zero(&mut host).expect("it is there");
    let directory = host.read(root, 0) & !0xfff;
    assert_eq!(
        host.read(host.read(directory, 0) & !0xfff, 5),
        (4 * GIB) | 0x5003
    );
}

#[test]
fn one_page_is_split_out_of_a_large_one() {
    let (mut host, mut table) = mapped(true, 0, 0, 4 * GIB);
    let apic = 0xfee0_0000;
    assert_eq!(table.protect(&mut host, apic, PAGE, Rights::READ), Ok(()));
    assert_eq!(host.frames.len(), 2 + 2);
    let page = table.lookup(&host, apic + 0x300).expect("mapped");
    assert_eq!(
        (page.hpa, page.level, page.rights),
        (apic + 0x300, 1, Rights::READ)
    );
    for (at, level) in [(apic + PAGE, 1), (apic + (2 << 20), 2), (0, 3)] {
        let other = table.lookup(&host, at).expect("mapped");
        assert_eq!(
            (other.hpa, other.level, other.rights),
            (at, level, Rights::RWX)
        );
    }
}

#[test]
fn a_huge_range_on_one_page_takes_few_tables() {
    let mut host = Host::new(usize::MAX);
    let mut table = Builder::<Ept>::new(&mut host, true).expect("one table");
    let (gpa, len) = (3 * PAGE, (200 << 39) + 7 * PAGE);
    assert_eq!(
        table.map_same_page(&mut host, gpa, len, 0x5000, Rights::READ),
        Ok(())
    );
    assert!(host.frames.len() <= 1 + 9, "{}", host.frames.len());
    for at in [gpa, gpa + len - 1, 1 << 39, 77 << 39 | 0x1234_5678] {
        assert_eq!(
            table.lookup(&host, at).map(|t| t.hpa),
            Some(0x5000 + at % PAGE)
        );
    }
    assert_eq!(table.lookup(&host, gpa - 1), None);
    assert_eq!(table.lookup(&host, gpa + len), None);
}

#[test]
fn a_page_inside_a_shared_range_changes_alone() {
    let mut host = Host::new(usize::MAX);
    let mut table = Builder::<Ept>::new(&mut host, true).expect("one table");
    assert_eq!(
        table.map_same_page(&mut host, 0, 2 << 39, 0x5000, Rights::READ),
        Ok(())
    );
    let at = (1 << 39) + 5 * GIB;
    let mapped = table.remap_page(&mut host, at, 0x9000, Rights::RW, MemoryType::Uncacheable);
    assert_eq!(mapped, Ok(()));
    assert_eq!(table.lookup(&host, at).map(|t| t.hpa), Some(0x9000));
    for other in [5 * GIB, at + PAGE, at + GIB, at - PAGE] {
        assert_eq!(table.lookup(&host, other).map(|t| t.hpa), Some(0x5000));
    }
}

#[test]
fn errors_change_nothing() {
    let (mut host, mut table) = mapped(true, GIB, GIB, GIB);
    let mut map =
        |gpa, hpa, len, rights| table.map(&mut host, gpa, hpa, len, rights, MemoryType::WriteBack);
    assert_eq!(map(0, 0, 2 * GIB, Rights::RWX), Err(MapError::Overlap));
    assert_eq!(map(0, 0, 0, Rights::RWX), Err(MapError::Misaligned));
    assert_eq!(map(0, 1, PAGE, Rights::RWX), Err(MapError::Misaligned));
    assert_eq!(
        map(GPA_END - PAGE, 0, 2 * PAGE, Rights::RWX),
        Err(MapError::OutOfRange)
    );
    assert_eq!(
        map(0, HPA_END - PAGE, 2 * PAGE, Rights::RWX),
        Err(MapError::OutOfRange)
    );
    let blind = Rights {
        read: false,
        write: true,
        execute: true,
    };
    assert_eq!(map(0, 0, PAGE, blind), Err(MapError::Unreadable));
    host.budget = host.frames.len() + 1;
    let result = table.map(
        &mut host,
        0,
        PAGE,
        8 << 20,
        Rights::RWX,
        MemoryType::WriteBack,
    );
    assert_eq!(result, Err(MapError::OutOfTables));
    assert_eq!(table.lookup(&host, 0), None);
    assert!(table.is_free(&host, 0, GIB));
    assert!(!table.is_free(&host, 0, GIB + PAGE));
}

#[test]
fn tables_come_back() {
    let (mut host, mut table) = mapped(false, 0, PAGE, GIB);
    assert_eq!(host.frames.len(), 3 + 512);
    assert_eq!(table.unmap(&mut host, 0, 512 * GIB), Ok(()));
    assert_eq!(host.frames.len(), 1, "the root");
}
