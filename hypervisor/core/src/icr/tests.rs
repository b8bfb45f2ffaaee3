//! Commands as Linux writes them, and the rule that no foreign core is hit.

extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// Cores of a guest in xAPIC flat mode as Linux sets them up.
fn flat(ids: &[u32]) -> Vec<OwnCore> {
    ids.iter()
        .zip(0u32..)
        .map(|(&apic_id, index)| OwnCore {
            apic_id,
            logical: LogicalId::from_xapic(1 << (24 + index), 0xffff_ffff),
        })
        .collect()
}

fn x2apic(ids: &[u32]) -> Vec<OwnCore> {
    let own = |&apic_id| OwnCore {
        apic_id,
        logical: LogicalId::from_x2apic_id(apic_id),
    };
    ids.iter().map(own).collect()
}

fn to(own: &[OwnCore], sender: u32, ipi: Ipi) -> (Vec<u32>, bool) {
    let resolution = resolve(&ipi, sender, own.iter().copied());
    let ids = resolution
        .indices()
        .map(|index| own[index].apic_id)
        .collect();
    (ids, resolution.foreign)
}

#[test]
fn delivery_modes() {
    let mode = |low| Ipi::from_xapic(0x0300_0000, low).mode;
    assert_eq!(mode(0x0fd), DeliveryMode::Fixed);
    assert_eq!(mode(0x1fd), DeliveryMode::LowestPriority);
    assert_eq!(mode(0x200), DeliveryMode::Smi);
    assert_eq!(mode(0x300), DeliveryMode::Reserved(3));
    assert_eq!(mode(0x400), DeliveryMode::Nmi);
    assert_eq!(mode(0x700), DeliveryMode::Reserved(7));
    // Linux' wakeup_secondary_cpu_via_init: INIT assert, deassert, start-up.
    assert_eq!(mode(0xc500), DeliveryMode::Init { deassert: false });
    assert_eq!(mode(0x8500), DeliveryMode::Init { deassert: true });
    assert_eq!(mode(0x0500), DeliveryMode::Init { deassert: false });
    let startup = Ipi::from_xapic(0x0300_0000, 0x699);
    assert_eq!(
        (startup.mode, startup.vector),
        (DeliveryMode::StartUp, 0x99)
    );
    assert_eq!(startup.destination, Destination::Physical(3));
}

#[test]
fn destinations() {
    let xapic = |high, low| Ipi::from_xapic(high, low).destination;
    assert_eq!(xapic(0x0500_0000, 0x40), Destination::Physical(5));
    assert_eq!(xapic(0xff00_0000, 0x40), Destination::All);
    assert_eq!(xapic(0xff00_0000, 0x840), Destination::Logical(0xff));
    assert_eq!(xapic(0x0500_0000, 0x4_0840), Destination::SelfOnly);
    assert_eq!(xapic(0, 0x8_0040), Destination::All);
    assert_eq!(xapic(0, 0xc_0040), Destination::AllButSelf);
    let x2apic = |icr| Ipi::from_x2apic(icr).destination;
    assert_eq!(x2apic(0x1_2345_0000_0040), Destination::Physical(0x12345));
    assert_eq!(x2apic(0xff_0000_0040), Destination::Physical(0xff));
    assert_eq!(x2apic(0xffff_ffff_0000_0040), Destination::All);
    assert_eq!(x2apic(0x1_0003_0000_0840), Destination::Logical(0x1_0003));
    assert_eq!(x2apic(0x1_0003_000c_0840), Destination::AllButSelf);
}

#[test]
fn hardware_words() {
    let low = |low| Ipi::from_xapic(0, low).hardware_low();
    assert_eq!(low(0x0c_08fd), Some(0x40fd), "a shorthand becomes physical");
    assert_eq!(low(0x01fd), Some(0x40fd), "one target: fixed");
    assert_eq!(low(0x0402), Some(0x4400), "NMI has no vector");
    for refused in [0x200, 0x300, 0xc500, 0x8500, 0x699, 0x700] {
        assert_eq!(low(refused), None);
    }
    assert_eq!(xapic_icr(3, 0x40fd), Some((0x0300_0000, 0x40fd)));
    assert_eq!(xapic_icr(0xff, 0x40fd), None);
    assert_eq!(x2apic_icr(0x103, 0x40fd), Some(0x0103_0000_40fd));
    assert_eq!(x2apic_icr(u32::MAX, 0x40fd), None);
}

#[test]
fn physical_destinations_stay_home() {
    let own = flat(&[0, 2, 5]);
    let send = |high: u32, low| to(&own, 2, Ipi::from_xapic(high << 24, low));
    assert_eq!(send(5, 0x40), (Vec::from([5]), false));
    assert_eq!(send(2, 0x40), (Vec::from([2]), false), "to itself");
    assert_eq!(send(1, 0x40), (Vec::new(), true));
    assert_eq!(send(0xff, 0x40), (Vec::from([0, 2, 5]), false));
    assert_eq!(send(0, 0x4_0040), (Vec::from([2]), false));
    assert_eq!(send(0, 0x8_0040), (Vec::from([0, 2, 5]), false));
    assert_eq!(send(0, 0xc_0040), (Vec::from([0, 5]), false));
    assert_eq!(
        send(0, 0xc_0140),
        (Vec::from([0]), false),
        "lowest priority: one"
    );
}

#[test]
fn flat_model() {
    let own = flat(&[0, 2, 5]);
    let send = |mask: u32| to(&own, 0, Ipi::from_xapic(mask << 24, 0x8fd));
    assert_eq!(send(0b001), (Vec::from([0]), false));
    assert_eq!(send(0b110), (Vec::from([2, 5]), false));
    assert_eq!(
        send(0b1010),
        (Vec::from([2]), true),
        "bit 3 is nobody of ours"
    );
    assert_eq!(send(0xff), (Vec::from([0, 2, 5]), false));
    assert_eq!(send(0), (Vec::new(), false));
}

#[test]
fn cluster_model() {
    let own: Vec<_> = [(0, 0x01), (1, 0x02), (4, 0x11)]
        .into_iter()
        .map(|(apic_id, id)| OwnCore {
            apic_id,
            logical: LogicalId::from_xapic(id << 24, 0x0fff_ffff),
        })
        .collect();
    let send = |mda: u32| to(&own, 0, Ipi::from_xapic(mda << 24, 0x8fd));
    assert_eq!(send(0x03), (Vec::from([0, 1]), false));
    assert_eq!(send(0x11), (Vec::from([4]), false));
    assert_eq!(send(0x13), (Vec::from([4]), true));
    assert_eq!(send(0x21), (Vec::new(), true));
    assert_eq!(send(0xff), (Vec::from([0, 1, 4]), false));
}

#[test]
fn x2apic_logical() {
    assert_eq!(
        LogicalId::from_x2apic_id(0x123),
        LogicalId::X2apic(0x12_0008)
    );
    assert_eq!(LogicalId::from_x2apic_id(0xf), LogicalId::X2apic(0x8000));
    let own = x2apic(&[0, 1, 0x10, 0x11]);
    let send = |mda: u64| to(&own, 0, Ipi::from_x2apic(mda << 32 | 0x8fd));
    assert_eq!(send(0x0003), (Vec::from([0, 1]), false));
    assert_eq!(
        send(0x0006),
        (Vec::from([1]), true),
        "bit 2 is APIC ID 2, not ours"
    );
    assert_eq!(send(0x1_0003), (Vec::from([0x10, 0x11]), false));
    assert_eq!(send(0x2_0001), (Vec::new(), true));
    assert_eq!(send(0xffff_ffff), (Vec::from([0, 1, 0x10, 0x11]), false));
}

/// Hardware's rule for xAPIC and x2APIC (SDM), per core, written another way
/// than in the module.
fn reached(ipi: &Ipi, sender: u32, core: &OwnCore) -> bool {
    match ipi.destination {
        Destination::SelfOnly => core.apic_id == sender,
        Destination::All => true,
        Destination::AllButSelf => core.apic_id != sender,
        Destination::Physical(id) => core.apic_id == id,
        Destination::Logical(mda) => match core.logical {
            LogicalId::Flat(id) => u32::from(id) & mda != 0,
            LogicalId::Cluster(id) => {
                let clusters = mda == 0xff || mda >> 4 == u32::from(id) >> 4;
                clusters && (u32::from(id) & mda) % 16 != 0
            }
            LogicalId::X2apic(id) => {
                let clusters = mda == u32::MAX || mda >> 16 == id >> 16;
                clusters && (id & mda) % 0x10000 != 0
            }
        },
    }
}

proptest! {
    #[test]
    fn exactly_the_own_cores_that_hardware_would_reach(
        icr in any::<u64>(),
        ids in prop::collection::btree_set(0u32..40, 1..9),
        model in 0..3,
        sender in any::<prop::sample::Index>(),
    ) {
        let ids: Vec<u32> = ids.into_iter().collect();
        let mut own = if model == 0 { x2apic(&ids) } else { flat(&ids) };
        if model == 2 {
            for core in &mut own {
                let LogicalId::Flat(id) = core.logical else { continue };
                core.logical = LogicalId::Cluster((id & 0xf) | 0x10);
            }
        }
        let sender = ids[sender.index(ids.len())];
        // Narrow the destination so that something is hit often.
        let high = u32::try_from(icr >> 32).unwrap() & if icr & 2 == 0 { 0x3f00_0000 } else { u32::MAX };
        let low = u32::try_from(icr & 0xffff_ffff).unwrap();
        let ipi = if model == 0 {
            Ipi::from_x2apic(u64::from(high >> 24) << 32 | u64::from(low))
        } else {
            Ipi::from_xapic(high, low)
        };
        let resolution = resolve(&ipi, sender, own.iter().copied());
        prop_assert_eq!(u64::BITS - resolution.targets.leading_zeros() <= u32::try_from(own.len()).unwrap(), true);
        let expected: Vec<usize> =
            (0..own.len()).filter(|index| reached(&ipi, sender, &own[*index])).collect();
        let found: Vec<usize> = resolution.indices().collect();
        if ipi.mode == DeliveryMode::LowestPriority {
            prop_assert_eq!(found.first(), expected.first());
            prop_assert!(found.len() <= 1);
        } else {
            prop_assert_eq!(found, expected);
        }
        if let Some(word) = ipi.hardware_low() {
            prop_assert_eq!(word & 0xf_3800, 0, "physical, no shorthand, edge");
        }
    }
}
