//! What every manifest must fulfil, whatever the machine. The host runs it
//! before anything boots, the hypervisor again on what it was handed.

mod channels;
mod cpus;
mod devices;
pub mod limits;
mod linux;
pub(crate) mod machine;
mod memory;
mod names;
mod ports;
#[cfg(test)]
mod tests;

use cloister_abi::Dataplane;

use crate::model::{Manifest, OnViolation};
use crate::problem::{Problem, Severity};

type Sink<'a> = &'a mut dyn FnMut(Problem);

/// Finds all that is wrong, errors and warnings.
pub fn problems(manifest: &Manifest, sink: &mut dyn FnMut(Problem)) {
    something_runs(manifest, sink);
    names::check(manifest, sink);
    cpus::check(manifest, sink);
    memory::check(manifest, sink);
    linux::check(manifest, sink);
    ports::check(manifest, sink);
    devices::check(manifest, sink);
    violations(manifest, sink);
    channels::check(manifest, sink);
}

/// Whether a machine may run it, as far as can be said without the machine.
///
/// # Errors
/// The first error that [`problems`] finds.
#[expect(
    clippy::result_large_err,
    reason = "there is no heap to box it in; made once at boot"
)]
pub fn validate(manifest: &Manifest) -> Result<(), Problem> {
    first_error(|sink| problems(manifest, sink))
}

#[expect(
    clippy::result_large_err,
    reason = "there is no heap to box it in; made once at boot"
)]
fn first_error(check: impl FnOnce(Sink<'_>)) -> Result<(), Problem> {
    let mut first = None;
    check(&mut |problem| {
        if problem.severity == Severity::Error && first.is_none() {
            first = Some(problem);
        }
    });
    first.map_or(Ok(()), Err)
}

fn something_runs(manifest: &Manifest, sink: Sink<'_>) {
    if manifest.linux.is_some() {
        return;
    }
    if manifest.partitions.is_empty() {
        sink(Problem::error(
            format_args!("partition"),
            format_args!("nothing to run; add a [linux] table or a [[partition]] table"),
        ));
    } else if !manifest
        .partitions
        .iter()
        .any(|partition| partition.autostart)
    {
        sink(Problem::error(
            format_args!("partition"),
            format_args!(
                "without [linux] nobody can start these partitions; \
                 set autostart = true in one of them, or add a [linux] table"
            ),
        ));
    }
}

fn violations(manifest: &Manifest, sink: Sink<'_>) {
    for (index, partition) in manifest.partitions.iter().enumerate() {
        if matches!(partition.on_violation, OnViolation::Restart { max: 0, .. }) {
            sink(Problem::error(
                format_args!("partition[{index}].max_restarts"),
                format_args!("0 restarts is no restart; write on_violation = \"stop\" instead"),
            ));
        }
        let strict = partition.dataplane.contains(Dataplane::STRICT);
        if partition.on_violation != OnViolation::Stop && !strict {
            sink(Problem::warning(
                format_args!("partition[{index}].on_violation"),
                format_args!(
                    "has no effect, as the partition may not ask for STRICT; \
                     add \"strict\" to its dataplane, or leave on_violation out"
                ),
            ));
        }
    }
}
