//! Faults of the hypervisor on request: the word `fault=KIND` on its
//! Multiboot2 line has it break one of its own rules once everything stands,
//! to see that the rule holds and that the dump tells what happened.

use core::hint::black_box;

use crate::arch::console;

/// Does what `command_line` asks for, if anything.
pub(crate) fn on_request(command_line: &str) {
    let wanted = command_line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("fault="));
    match wanted {
        None => {}
        Some("write-code") => write_code(),
        Some("run-data") => run_data(),
        Some("stack") => {
            log::error!("the stack had no end: {}", run_over(u64::MAX));
        }
        Some("panic") => panic!("fault=panic was asked for"),
        Some(other) => {
            log::warn!("fault={other} means nothing: write-code, run-data, stack or panic do");
        }
    }
}

/// Code is not writable.
#[inline(never)]
fn write_code() {
    let code = black_box(console::lock as *const () as *mut u8);
    // SAFETY: none: the page tables are to refuse it, and this is the end.
    unsafe { code.write_volatile(0) };
}

/// Data is not executable.
#[inline(never)]
fn run_data() {
    static RETURN: [u8; 1] = [0xc3];
    // SAFETY: none: the page tables are to refuse it, and this is the end.
    let data = unsafe { core::mem::transmute::<*const u8, extern "sysv64" fn()>(RETURN.as_ptr()) };
    black_box(data)();
}

/// A stack has a guard page below it.
#[expect(unconditional_recursion, reason = "that is the point")]
#[inline(never)]
fn run_over(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    run_over(depth.wrapping_sub(1)).wrapping_add(frame[1])
}
