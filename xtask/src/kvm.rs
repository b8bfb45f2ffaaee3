//! KVM or not: found out by asking for `KVM_GET_SUPPORTED_CPUID` (Linux
//! Documentation/virt/kvm/api.rst, 4.46), never by the mere presence of
//! /dev/kvm. There are machines where it opens and creates a VM and still
//! cannot nest; QEMU with `-cpu host` then gives a guest without VMX and SVM.

use anyhow::{Result, bail};
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::Kvm;
use serde::{Deserialize, Serialize};

use crate::machine::Accel;

/// What KVM answers for one CPUID leaf. Other registers do not matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// EAX on entry.
    pub function: u32,
    /// Sub-leaf: ECX on entry.
    pub index: u32,
    /// ECX on return.
    pub ecx: u32,
}

/// What was found out about KVM on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// /dev/kvm cannot be used, and why.
    Unusable(String),
    /// The CPUID leaves it can give to a guest.
    Supported(Vec<Leaf>),
}

/// How QEMU is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// `-accel kvm -cpu host`, with this vendor's nested virtualisation.
    Kvm(&'static str),
    /// `-accel tcg`, and why not KVM.
    Tcg(String),
}

/// Asks this machine.
#[must_use]
pub fn probe() -> Probe {
    let answer = Kvm::new().and_then(|kvm| kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES));
    match answer {
        Ok(cpuid) => Probe::Supported(
            cpuid
                .as_slice()
                .iter()
                .map(|entry| Leaf {
                    function: entry.function,
                    index: entry.index,
                    ecx: entry.ecx,
                })
                .collect(),
        ),
        Err(error) => Probe::Unusable(format!("/dev/kvm: {error}")),
    }
}

/// Chooses for what was `asked`.
///
/// # Errors
/// KVM was asked for and cannot nest here.
pub fn choose(asked: Accel, probe: &Probe) -> Result<Choice> {
    let nested = match probe {
        Probe::Unusable(why) => Err(why.clone()),
        Probe::Supported(leaves) => nested_vendor(leaves).ok_or_else(|| {
            "KVM works here but offers a guest neither VMX nor SVM (is nested \
             virtualisation switched on in kvm_intel or kvm_amd?)"
                .to_owned()
        }),
    };
    match (asked, nested) {
        (Accel::Tcg, _) => Ok(Choice::Tcg("asked for".into())),
        (Accel::Auto | Accel::Kvm, Ok(vendor)) => Ok(Choice::Kvm(vendor)),
        (Accel::Auto, Err(why)) => Ok(Choice::Tcg(why)),
        (Accel::Kvm, Err(why)) => bail!("--accel kvm: {why}; use --accel tcg"),
    }
}

/// `intel` where a guest is offered VMX (CPUID.01H:ECX[5], Intel SDM vol. 2),
/// `amd` where it is offered SVM (CPUID Fn8000_0001 ECX[2], AMD APM vol. 3).
fn nested_vendor(leaves: &[Leaf]) -> Option<&'static str> {
    let has = |function, bit: u32| {
        leaves
            .iter()
            .any(|leaf| leaf.function == function && leaf.index == 0 && leaf.ecx >> bit & 1 == 1)
    };
    if has(1, 5) {
        Some("intel")
    } else if has(0x8000_0001, 2) {
        Some("amd")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(text: &str) -> Vec<Leaf> {
        match serde_json::from_str(text).unwrap() {
            Probe::Supported(leaves) => leaves,
            Probe::Unusable(why) => panic!("{why}"),
        }
    }

    /// The answer of an AMD machine, itself a virtual one, where /dev/kvm
    /// opens and makes VMs, but cannot nest.
    fn without_nesting() -> Vec<Leaf> {
        recorded(include_str!("../testdata/kvm-without-nesting.json"))
    }

    /// Answers of machines that can nest, and their vendors: of kvm_amd in
    /// Linux 6.1 on QEMU's emulated SVM, of kvm_intel there on Bochs' VMX.
    fn nesting() -> [(Vec<Leaf>, &'static str); 2] {
        [
            (
                recorded(include_str!("../testdata/kvm-with-svm.json")),
                "amd",
            ),
            (
                recorded(include_str!("../testdata/kvm-with-vmx.json")),
                "intel",
            ),
        ]
    }

    /// The answer without nesting, with one more bit in ECX of one leaf.
    fn with_bit(function: u32, bit: u32) -> Probe {
        let mut leaves = without_nesting();
        let leaf = leaves.iter_mut().find(|leaf| leaf.function == function);
        leaf.unwrap().ecx |= 1 << bit;
        Probe::Supported(leaves)
    }

    #[test]
    fn a_kvm_that_cannot_nest_is_not_used() {
        let probe = Probe::Supported(without_nesting());
        assert!(matches!(choose(Accel::Auto, &probe), Ok(Choice::Tcg(_))));
        let error = choose(Accel::Kvm, &probe).unwrap_err().to_string();
        assert!(error.contains("neither VMX nor SVM"), "{error}");
    }

    #[test]
    fn nested_kvm_is_used_unless_told_otherwise() {
        let bits = [(1, 5, "intel"), (0x8000_0001, 2, "amd")];
        let made_up = bits.map(|(function, bit, vendor)| (with_bit(function, bit), vendor));
        let recorded = nesting().map(|(leaves, vendor)| (Probe::Supported(leaves), vendor));
        for (probe, vendor) in made_up.into_iter().chain(recorded) {
            assert_eq!(choose(Accel::Auto, &probe).unwrap(), Choice::Kvm(vendor));
            assert_eq!(choose(Accel::Kvm, &probe).unwrap(), Choice::Kvm(vendor));
            assert!(matches!(choose(Accel::Tcg, &probe), Ok(Choice::Tcg(_))));
        }
    }

    #[test]
    fn other_bits_and_other_leaves_do_not_count() {
        // CPUID.01H:ECX[2] is DTES64; CPUID Fn8000_0001 ECX[5] is ABM.
        for (function, bit) in [(1, 2), (0x8000_0001, 5), (7, 5)] {
            let choice = choose(Accel::Auto, &with_bit(function, bit));
            assert!(matches!(choice, Ok(Choice::Tcg(_))), "{function:#x} {bit}");
        }
    }

    #[test]
    fn no_kvm_at_all() {
        let probe = Probe::Unusable("/dev/kvm: No such file or directory".into());
        assert!(matches!(choose(Accel::Auto, &probe), Ok(Choice::Tcg(why)) if why.contains("kvm")));
        assert!(choose(Accel::Kvm, &probe).is_err());
    }
}
