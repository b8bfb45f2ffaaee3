//! Fixed-work-quantum loop that measures every gap.
#![no_std]
#![no_main]
#![forbid(unsafe_code)]
use cloister_runtime::{Partition, entry, println, set_dataplane, Dataplane};
entry!(main);
fn main(partition: &Partition) -> u64 {
    println!("hello {:?}", set_dataplane(Dataplane::STRICT));
    partition.number("a", 1).unwrap_or(3)
}
