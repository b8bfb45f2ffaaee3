//! Stack backtrace of a Linux kernel that keeps no frame pointers, as those of
//! distributions: what on its stack looks like a return address.

use cloister_abi::BACKTRACE_FRAMES;

/// Kernel text and modules lie above (Linux, Documentation/x86/x86_64/mm.rst).
const KERNEL_TEXT: u64 = 0xffff_ffff_8000_0000;
/// Words of the stack that are looked at.
const DEPTH: u64 = 160;

/// `rip`, and then the addresses on the stack from `rsp` on that lie in kernel
/// text behind a CALL. What is left over of earlier calls can be among them, as
/// with the `?` of Linux's own traces. `read` reads the 8 bytes at an
/// 8-byte-aligned guest-virtual address; `code` the 7 bytes before one.
pub fn scan(
    mut read: impl FnMut(u64) -> Option<u64>,
    mut code: impl FnMut(u64) -> Option<[u8; 7]>,
    rip: u64,
    rsp: u64,
) -> heapless::Vec<u64, BACKTRACE_FRAMES> {
    let mut frames = heapless::Vec::new();
    let _ = frames.push(rip);
    if rip < KERNEL_TEXT || !rsp.is_multiple_of(8) {
        return frames;
    }
    for word in 0..DEPTH {
        let Some(value) = rsp.checked_add(word * 8).and_then(&mut read) else {
            break;
        };
        let called =
            value > KERNEL_TEXT && code(value).is_some_and(|before| follows_call(value, before));
        if called && frames.push(value).is_err() {
            break;
        }
    }
    frames
}

/// Whether the bytes before `address` end in a CALL: near relative to kernel
/// text, or indirect through a register or memory (Intel SDM vol. 2, "CALL").
fn follows_call(address: u64, before: [u8; 7]) -> bool {
    let [a, b, c, d, e, f, g] = before;
    if c == 0xe8 {
        let offset = i64::from(i32::from_le_bytes([d, e, f, g]));
        return address.wrapping_add_signed(offset) >= KERNEL_TEXT;
    }
    // FF /2: the opcode's place depends on what the operand takes.
    let indirect = |opcode: u8, operand: u8, modes: &[u8]| {
        opcode == 0xff && operand >> 3 & 7 == 2 && modes.contains(&(operand >> 6))
    };
    indirect(f, g, &[0, 3])
        || indirect(e, f, &[1])
        || indirect(b, c, &[0, 2])
        || indirect(a, b, &[2])
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    const TEXT: u64 = 0xffff_ffff_8100_0000;

    fn with(stack: &[u64], rip: u64, rsp: u64) -> Vec<u64> {
        let read = |address: u64| {
            let index = usize::try_from(address.wrapping_sub(0x1000) / 8).ok()?;
            stack.get(index).copied()
        };
        // A call ends at every address that ends in 5.
        let code = |address: u64| (address & 0xf == 5).then_some([0, 0, 0xe8, 0, 1, 0, 0]);
        scan(read, code, rip, rsp).to_vec()
    }

    #[test]
    fn return_addresses_are_found_among_other_words() {
        let stack = [7, TEXT + 0x15, TEXT + 0x14, 0x15, TEXT + 0x25];
        let found = with(&stack, TEXT, 0x1000);
        assert_eq!(found, [TEXT, TEXT + 0x15, TEXT + 0x25]);
        assert_eq!(with(&stack, TEXT, 0x1010), [TEXT, TEXT + 0x25]);
    }

    #[test]
    fn user_code_and_bad_stacks_give_only_rip() {
        assert_eq!(with(&[TEXT + 5], 0x40_0000, 0x1000), [0x40_0000]);
        assert_eq!(with(&[TEXT + 5], TEXT, 0x1001), [TEXT]);
        assert_eq!(with(&[TEXT + 5], TEXT, u64::MAX - 7), [TEXT]);
    }

    #[test]
    fn at_most_sixteen() {
        assert_eq!(with(&[TEXT + 5; 100], TEXT, 0x1000).len(), BACKTRACE_FRAMES);
    }

    #[test]
    fn calls() {
        assert!(follows_call(TEXT, [0, 0, 0xe8, 0, 0, 1, 0]));
        assert!(!follows_call(TEXT, [0, 0, 0xe8, 0, 0, 0, 0x80]));
        // call rax; call [rax+8]; call [rip+x]; call [rsp+x].
        assert!(follows_call(TEXT, [0, 0, 0, 0, 0, 0xff, 0xd0]));
        assert!(follows_call(TEXT, [0, 0, 0, 0, 0xff, 0x50, 8]));
        assert!(follows_call(TEXT, [0, 0xff, 0x15, 0, 0, 0, 0]));
        assert!(follows_call(TEXT, [0xff, 0x94, 0x24, 0, 0, 0, 0]));
        assert!(!follows_call(TEXT, [0x90; 7]));
    }
}
