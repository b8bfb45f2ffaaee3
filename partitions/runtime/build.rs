//! Hands `program.ld` to every program that links this crate.
//!
//! The script is named as a library: Cargo passes the search path and the
//! library's name on to whatever depends on this crate, which it does not do
//! with link arguments, and the linker reads a text file among its inputs as a
//! linker script. So a program needs no build script of its own.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=program.ld");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let folder = env::var("CARGO_MANIFEST_DIR").expect("Cargo sets CARGO_MANIFEST_DIR");
        println!("cargo::rustc-link-search=native={folder}");
        println!("cargo::rustc-link-lib=dylib:+verbatim=program.ld");
    }
}
