//! Fixed-work-quantum loop that measures every gap.
fn main() {}
