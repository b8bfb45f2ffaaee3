//! Fixed-work-quantum loop that measures every gap: reads the time-stamp
//! counter again and again, and whatever took the core away in between shows
//! as a gap. `options` lists the arguments.
//!
//! Exit codes: 0 done, 1 the dataplane mode was refused, 2 bad arguments.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use cloister_runtime::cpu::rdtsc;
use cloister_runtime::{Dataplane, Partition, entry, finish, interrupts, println, set_dataplane};
use program_spin::gaps::Gaps;
use program_spin::options::Options;

entry!(main);

/// Iterations before the measurement, which find the threshold.
const WARM_UP: u64 = 4096;

fn main(partition: &Partition) -> u64 {
    let name = Name(*partition);
    let options = match Options::parse(partition.args(), partition.allowed()) {
        Ok(options) => options,
        Err(error) => {
            println!("{name}: {error}");
            return 2;
        }
    };
    if !options.flags.is_empty()
        && let Err(error) = set_dataplane(options.flags)
    {
        println!("{name}: set_dataplane({:?}): {error}", options.flags);
        return 1;
    }
    println!(
        "{name}: start quanta={} work={} flags={:#x}",
        options.quanta,
        options.work,
        options.flags.bits()
    );

    let mut warm_up = Gaps::new(0);
    measure(&mut warm_up, WARM_UP, rdtsc());
    let threshold = options.gap.unwrap_or(warm_up.median().saturating_mul(10));
    let mut gaps = Gaps::new(threshold);
    let iterations = spin(&name, &options, &mut gaps);
    report(&name, &gaps);

    let counters = partition.own_counters();
    println!(
        "{name}: exits since quiesce {}",
        counters.since_quiesce.load(Relaxed)
    );
    if !options.flags.is_empty()
        && let Err(error) = set_dataplane(Dataplane::empty())
    {
        println!("{name}: leaving the dataplane mode: {error}");
        return 1;
    }
    println!(
        "{name}: done iterations={iterations} min={} max={} since_quiesce={} interrupts={} delivered={}",
        gaps.min,
        gaps.max,
        counters.since_quiesce.load(Relaxed),
        counters.interrupts_since_quiesce.load(Relaxed),
        interrupts::total(),
    );
    finish(0)
}

/// All quanta; returns the iterations made.
fn spin(name: &Name, options: &Options, gaps: &mut Gaps) -> u64 {
    let mut quanta = 0u64;
    // As many quanta at a stretch as nothing is printed in between.
    let stretch = match (options.report, options.quanta) {
        (0, 0) => u64::MAX,
        (0, all) => all,
        (report, _) => report,
    };
    let mut last = rdtsc();
    loop {
        let now = match options.quanta {
            0 => stretch,
            all => stretch.min(all - quanta),
        };
        last = measure(gaps, now.saturating_mul(options.work), last);
        quanta = quanta.saturating_add(now);
        if options.quanta != 0 && quanta >= options.quanta {
            return quanta.saturating_mul(options.work);
        }
        println!(
            "{name}: quanta={quanta} min={} max={} over={}",
            gaps.min, gaps.max, gaps.over
        );
        // What printing took is no gap.
        last = last.max(rdtsc());
    }
}

/// `iterations` of the loop, the first gap from `last`; returns the last
/// reading. Touches nothing but the counter and `gaps`.
#[inline(never)]
fn measure(gaps: &mut Gaps, iterations: u64, mut last: u64) -> u64 {
    let mut local = gaps.clone();
    for _ in 0..iterations {
        let now = rdtsc();
        local.add(now.wrapping_sub(last));
        last = now;
    }
    *gaps = local;
    last
}

fn report(name: &Name, gaps: &Gaps) {
    println!(
        "{name}: gaps iterations={} min={} max={} median<={} over {} cycles={}",
        gaps.count(),
        gaps.min,
        gaps.max,
        gaps.median(),
        gaps.threshold(),
        gaps.over
    );
    for (from, to, count) in gaps.histogram() {
        println!("{name}: gaps {from}..={to} cycles: {count}");
    }
}

/// `spin`, or `core N: spin` where there are several.
struct Name(Partition);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.cores() > 1 {
            write!(f, "core {}: ", self.0.core())?;
        }
        f.write_str("spin")
    }
}
