//! The Cloister hypervisor: the image that GRUB boots.
fn main() {}
