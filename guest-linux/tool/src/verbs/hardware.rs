//! `hardware`: what this machine has and lacks, and what follows.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::device::Device;
use crate::output;

/// One property of the machine.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Property {
    what: &'static str,
    has: bool,
    /// What follows.
    consequence: &'static str,
}

/// What was looked up.
#[derive(Debug, Default)]
struct Facts {
    flags: BTreeSet<String>,
    intel: bool,
    /// Linux runs in Cloister, which hides virtualization from it.
    inside: bool,
    iommu: bool,
    /// A core's list of siblings names more than itself.
    smt: bool,
}

/// `cloister hardware`.
pub(super) fn show(json: bool) -> Result<()> {
    let properties = judge(&look()?);
    if json {
        return output::json(&properties);
    }
    let rows: Vec<Vec<String>> = properties
        .iter()
        .map(|property| {
            let has = if property.has { "has" } else { "lacks" };
            vec![
                has.to_owned(),
                property.what.to_owned(),
                property.consequence.to_owned(),
            ]
        })
        .collect();
    output::text(&output::table(&rows))
}

fn look() -> Result<Facts> {
    const CPUINFO: &str = "/proc/cpuinfo";
    let text = fs::read_to_string(CPUINFO).with_context(|| format!("cannot read {CPUINFO}"))?;
    let table = |name: &str| Path::new("/sys/firmware/acpi/tables").join(name).exists();
    let siblings = "/sys/devices/system/cpu/cpu0/topology/thread_siblings_list";
    let siblings = fs::read_to_string(siblings).unwrap_or_default();
    Ok(Facts {
        flags: flags(&text),
        intel: text.contains("GenuineIntel"),
        inside: Device::open().is_ok(),
        iommu: table("DMAR") || table("IVRS"),
        smt: siblings.trim().contains([',', '-']),
    })
}

/// The first core's feature flags, Intel's own VMX flags among them.
fn flags(cpuinfo: &str) -> BTreeSet<String> {
    cpuinfo
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':'))
        .filter(|(key, _)| matches!(key.trim(), "flags" | "vmx flags"))
        .flat_map(|(_, flags)| flags.split_whitespace().map(str::to_owned))
        .collect()
}

fn judge(facts: &Facts) -> Vec<Property> {
    let flag = |name: &str| facts.flags.contains(name);
    let mut list = Vec::new();
    let mut say = |what, has: bool, with, without| {
        let consequence = if has { with } else { without };
        list.push(Property {
            what,
            has,
            consequence,
        });
    };
    if facts.inside {
        say(
            "virtualization (VMX or SVM)",
            true,
            "in use: this Linux runs in Cloister, which hides it and what belongs to it",
            "",
        );
    } else {
        say(
            "virtualization (VMX or SVM)",
            flag("vmx") || flag("svm"),
            "Cloister can start, if the firmware has not locked it",
            "Cloister cannot start: look for it in the firmware's setup",
        );
        say(
            "nested paging (EPT or NPT)",
            flag("ept") || flag("npt"),
            "memory is isolated without exits",
            "Cloister cannot start",
        );
        if facts.intel {
            say(
                "unrestricted guest",
                flag("unrestricted_guest"),
                "Linux starts its other cores in real mode",
                "Cloister cannot start",
            );
        } else {
            say(
                "next RIP saved at exits",
                flag("nrip_save"),
                "instructions need not be decoded to be skipped",
                "each exit reads the instruction; it costs more",
            );
            say(
                "decode assists",
                flag("decodeassists"),
                "the processor hands the instruction bytes over",
                "APIC writes walk Linux's page tables; they cost more",
            );
            say(
                "flush by ASID",
                flag("flushbyasid"),
                "a guest's translations are dropped alone",
                "a start of a partition drops all translations of its own core",
            );
        }
    }
    say(
        "x2APIC",
        flag("x2apic"),
        "only writes of the ICR exit",
        "every write of Linux to its local APIC exits; partitions without APIC have none",
    );
    say(
        "1 GiB pages",
        flag("pdpe1gb"),
        "large memories need few nested translations",
        "nested pages are 2 MiB at most: more TLB misses",
    );
    say(
        "invariant TSC",
        flag("constant_tsc") && flag("nonstop_tsc"),
        "cycles measure time",
        "cycles in reports are no time: the frequency may change",
    );
    say(
        "IOMMU (DMAR or IVRS table)",
        facts.iommu,
        "devices can be given to partitions",
        if facts.inside {
            "none, or hidden: Cloister keeps it from Linux"
        } else {
            "a device of a partition could reach all memory; manifests that give one are refused"
        },
    );
    say(
        "cache allocation (CAT)",
        flag("cat_l3"),
        "the last-level cache can be divided",
        "neighbours share the last-level cache, and slow each other down",
    );
    say(
        "one thread for each core (no SMT)",
        !facts.smt,
        "no core shares its execution units",
        "give both threads of a core to the same owner: a sibling slows its twin down",
    );
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_first_core() {
        let text = "vendor_id\t: GenuineIntel\nflags\t\t: fpu vmx x2apic\nvmx flags\t: ept vnmi\n\nflags: other\n";
        let found = flags(text);
        assert!(found.contains("ept") && found.contains("x2apic"));
        assert!(!found.contains("other"));
    }

    #[test]
    fn a_bare_machine_is_told_what_it_lacks() {
        let lacking = judge(&Facts::default());
        let start = lacking
            .iter()
            .find(|p| p.what.starts_with("virtualization"));
        assert!(start.is_some_and(|p| !p.has && p.consequence.contains("cannot start")));
        let inside = judge(&Facts {
            inside: true,
            ..Facts::default()
        });
        assert!(
            !inside
                .iter()
                .any(|p| p.consequence.contains("cannot start"))
        );
    }
}
