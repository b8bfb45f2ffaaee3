//! The hypervisor's own faults: the rules of its page tables hold, and the
//! dump tells where it was.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::{Outcome, partitions};

use crate::counting::exits;

/// Kind, how the dump begins, and a function that its backtrace must name.
const KINDS: [(&str, &str, &str); 4] = [
    ("write-code", "vector 14 error 0x3", "provoke::write_code"),
    ("run-data", "vector 14 error 0x11", "bring_up"),
    ("stack", "vector 8 error 0x0", "provoke::run_over"),
    ("panic", "fault=panic was asked for", "provoke::on_request"),
];

/// Each fault ends the run with registers and a backtrace whose addresses have
/// names; the twin that asks for none runs to its end.
pub(crate) fn dumped(bench: &Bench) -> Result<()> {
    let system = || bench.system(partitions([exits("quiet", 0, "cpuid=1")]));
    for (kind, begins, function) in KINDS {
        let ended = system()
            .hypervisor_words(&format!("fault={kind}"))
            .run_to_end()?
            .outcome(Outcome::HypervisorPanic)?;
        let console = ended.hypervisor_console();
        let missing = [begins, "backtrace", function]
            .into_iter()
            .find(|words| !console.contains(words));
        let message = format!("{kind}: the dump lacks {:?}", missing.unwrap_or(""));
        ended.check(missing.is_none(), message)?;
    }
    system()
        .run_to_end()?
        .completed()?
        .partition("quiet")?
        .finished(0)?;
    Ok(())
}
