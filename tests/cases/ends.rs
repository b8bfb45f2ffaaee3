//! How partitions and the machine end.

use anyhow::Result;
use cloister_tests::cases::Bench;
use cloister_tests::partitions as alone;

use crate::counting::exits;
use crate::strict::neighbour;

/// Exit code of a program that panicked.
const PANIC: u64 = 0xffff_ffff;
/// Exit code after an exception that nobody foresaw, minus its vector.
const EXCEPTION: u64 = 0xe000;
const UD: u64 = 6;

/// Each end that a program can come to, beside a neighbour that notices none.
pub(crate) fn partitions(bench: &Bench) -> Result<()> {
    let ended = bench
        .system(alone([
            neighbour(0),
            exits("triple", 1, "cpuid=1 triple"),
            exits("foreign", 2, "foreign=0xc0000000"),
            exits("crash", 3, "crash"),
            exits("panic", 4, "panic"),
            exits("code", 5, "finish=7"),
            exits("args", 6, "no-such-word"),
        ]))
        .run_to_end()?
        .completed()?;
    ended
        .partition("neighbour")?
        .finished(0)?
        .since_quiesce(0)?
        .interrupts(0)?;
    ended
        .partition("triple")?
        .failed(&["triple fault", "rip 0x"])?
        .exits_of("triple-fault", 1)?;
    ended
        .partition("foreign")?
        .failed(&["0xc0000000", "does not own", "rip 0x"])?;
    ended
        .partition("crash")?
        .finished(EXCEPTION + UD)?
        .says("unhandled #UD")?
        .says("backtrace 0x")?;
    ended
        .partition("panic")?
        .finished(PANIC)?
        .says("panicked at")?
        .says("as the arguments say")?;
    ended.partition("code")?.finished(7)?.says("exits: ok")?;
    ended.partition("args")?.finished(2)?.says("no-such-word")?;
    Ok(())
}
