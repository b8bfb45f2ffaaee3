//! Processors that lack what Cloister needs: each is refused by name.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::partitions;

use crate::counting::exits;

/// A processor as each machine is told to have it, and what the hypervisor
/// must say.
type Lacking = (&'static [&'static str], &'static [&'static str]);

const AMD: &[Lacking] = &[
    (&["-cpu", "max,-svm"], &["SVM", "Fn8000_0001"]),
    (&["-cpu", "max,-npt"], &["nested paging", "Fn8000_000A"]),
];

/// Bochs' models with long mode: without VMX; without EPT; without
/// "unrestricted guest".
const INTEL: &[Lacking] = &[
    (
        &["cpu: model=p4_prescott_celeron_336"],
        &["no VMX", "leaf 1, ECX bit 5"],
    ),
    (
        &["cpu: model=core2_penryn_t9600"],
        &["IA32_VMX", "MSR 0x48", "bit"],
    ),
    (
        &["cpu: model=corei5_lynnfield_750"],
        &["unrestricted guest", "bit 7", "MSR 0x48b"],
    ),
];

/// What is missing, by its CPUID bit, or by MSR and bit.
pub(crate) fn refused(bench: &Bench) -> Result<()> {
    for (arguments, words) in bench.choose(AMD, INTEL) {
        let system = bench.system(partitions([exits("exits", 0, "cpuid=1")]));
        arguments
            .iter()
            .fold(system, |system, argument| system.machine_argument(argument))
            .run_refused()?
            .refused(words)?;
    }
    Ok(())
}
