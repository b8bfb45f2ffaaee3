//! The time-stamp counter, in which the hypervisor tells moments.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The counter now.
pub(crate) fn now() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and Linux lets processes use
    // it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Its frequency in Hz: what the hypervisor was told (`known`), or if that is
/// 0, what is measured once against the clock.
pub(crate) fn frequency(known: u64) -> u64 {
    static MEASURED: OnceLock<u64> = OnceLock::new();
    if known == 0 {
        *MEASURED.get_or_init(measure)
    } else {
        known
    }
}

fn measure() -> u64 {
    const TIME: Duration = Duration::from_millis(50);
    let (clock, before) = (Instant::now(), now());
    std::thread::sleep(TIME);
    let cycles = u128::from(now().wrapping_sub(before));
    let nanoseconds = clock.elapsed().as_nanos().max(1);
    u64::try_from(cycles * 1_000_000_000 / nanoseconds)
        .unwrap_or(u64::MAX)
        .max(1)
}

/// `cycles` in microseconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "for people, and a format whose times are fractions"
)]
pub(crate) fn microseconds(cycles: u64, hz: u64) -> f64 {
    cycles as f64 * 1e6 / hz.max(1) as f64
}
