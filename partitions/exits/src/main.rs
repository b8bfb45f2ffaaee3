//! Provokes the VM exits its arguments name.
fn main() {}
