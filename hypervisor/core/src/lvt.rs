//! Which entry of a local APIC's vector table (LVT) a vector comes from (Intel
//! SDM vol. 3, "Local Vector Table"; AMD APM vol. 2, 16.4 "Local Interrupts").

use cloister_abi::trace::InterruptKind;

/// Entry: masked.
const MASKED: u32 = 1 << 16;
/// Delivery modes, bits 10:8.
const FIXED: u32 = 0;
const EXTERNAL: u32 = 7;

/// The entry that delivers `vector`, which the processor has just taken: of
/// `entries`, each with its kind, an open one with that vector; or an open pin
/// of the legacy controller (ExtINT), whose vectors a local APIC does not put
/// `in_service`.
pub fn source(
    entries: impl IntoIterator<Item = (InterruptKind, u32)>,
    vector: u8,
    in_service: bool,
) -> Option<InterruptKind> {
    let delivers = |entry: u32| {
        entry & MASKED == 0
            && match entry >> 8 & 7 {
                FIXED => entry.to_le_bytes()[0] == vector,
                EXTERNAL => !in_service,
                _ => false,
            }
    };
    entries
        .into_iter()
        .find(|&(_, entry)| delivers(entry))
        .map(|(kind, _)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use InterruptKind::{Cmci, Error, Lint, Performance, Thermal, Timer};

    /// A table as Linux sets it up, but with all entries open: LINT0 is the
    /// legacy controller's, LINT1 an NMI, performance counters as well.
    const TABLE: [(InterruptKind, u32); 7] = [
        (Timer, 0x2_00ec),
        (Lint, 0x700),
        (Lint, 0x400),
        (Error, 0xfe),
        (Performance, 0x400),
        (Thermal, 0xfa),
        (Cmci, 0xf9),
    ];

    #[test]
    fn each_entry_has_its_name() {
        let of = |vector| source(TABLE, vector, true);
        assert_eq!(of(0xec), Some(Timer));
        assert_eq!(of(0xfe), Some(Error));
        assert_eq!(of(0xfa), Some(Thermal));
        assert_eq!(of(0xf9), Some(Cmci));
        assert_eq!(of(0x31), None);
        // NMIs have no vector.
        assert_eq!(of(0), None);
        let counters = [(Performance, 0x2e), (Lint, 0x2d)];
        assert_eq!(source(counters, 0x2e, true), Some(Performance));
        assert_eq!(source(counters, 0x2d, true), Some(Lint));
    }

    #[test]
    fn the_legacy_controller_has_any_vector() {
        assert_eq!(source(TABLE, 0x30, false), Some(Lint));
        assert_eq!(source(TABLE, 0x30, true), None);
    }

    #[test]
    fn masked_entries_deliver_nothing() {
        let masked = TABLE.map(|(kind, entry)| (kind, entry | MASKED));
        for vector in 0..=255 {
            assert_eq!(source(masked, vector, false), None);
        }
    }
}
