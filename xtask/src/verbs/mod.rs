//! One file per verb.

pub(crate) mod bench;
pub(crate) mod bochs;
pub(crate) mod check;
pub(crate) mod image;
pub(crate) mod qemu_nested;
pub(crate) mod run_options;
pub(crate) mod test;
