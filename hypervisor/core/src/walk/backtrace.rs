//! Stack backtrace of a guest by its frame pointers.

use cloister_abi::BACKTRACE_FRAMES;

use super::canonical;

/// Return addresses of 64-bit code that keeps frame pointers, innermost first;
/// the first is `rip` itself. `read` reads the 8 bytes at an 8-byte-aligned
/// guest-virtual address.
///
/// The walk ends at the first frame that is not believable (a frame pointer
/// that is not canonical, not aligned or not above the one before, a return
/// address that is 0 or not canonical, memory that cannot be read), and after
/// [`BACKTRACE_FRAMES`] addresses.
pub fn backtrace(
    mut read: impl FnMut(u64) -> Option<u64>,
    rip: u64,
    rbp: u64,
) -> heapless::Vec<u64, BACKTRACE_FRAMES> {
    let mut frames = heapless::Vec::new();
    let mut address = rip;
    let mut frame = rbp;
    while frames.push(address).is_ok() {
        let Some(step) = next(&mut read, frame) else {
            break;
        };
        address = step.0;
        if address == 0 || !canonical(address, 57) {
            break;
        }
        // The outermost address is good even if its own frame is not.
        frame = if step.1 > frame { step.1 } else { 0 };
    }
    frames
}

/// Return address and saved frame pointer of the frame at `frame`.
fn next(read: &mut impl FnMut(u64) -> Option<u64>, frame: u64) -> Option<(u64, u64)> {
    if frame == 0 || !frame.is_multiple_of(8) || !canonical(frame, 57) {
        return None;
    }
    let saved = read(frame)?;
    let address = read(frame.checked_add(8)?)?;
    Some((address, saved))
}
