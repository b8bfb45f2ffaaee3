//! `console`.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Result;

use crate::device::Device;
use crate::output;

/// How often the ring is looked at. Looking costs no exit.
const POLL: Duration = Duration::from_millis(50);

/// `cloister console NAME [-f]`.
pub(super) fn show(device: &Device, name: &str, follow: bool, json: bool) -> Result<()> {
    let partition = device.partition(name)?;
    let mut next = 0;
    loop {
        let mut bytes = Vec::new();
        next = device.console(partition.index, next, &mut bytes)?;
        let text = plain(&bytes);
        if json && !follow {
            return output::json(&serde_json::json!({ "name": name, "console": text }));
        }
        if json && !text.is_empty() {
            output::json_line(&serde_json::json!({ "name": name, "console": text }))?;
        } else if !text.is_empty() {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
        if !follow {
            return Ok(());
        }
        std::thread::sleep(POLL);
    }
}

/// A partition's bytes, without those that would command the terminal.
pub(super) fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let clean = |c: char| match c {
        '\n' | '\t' => c,
        c if c.is_control() => '?',
        c => c,
    };
    text.chars().map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_partition_commands_the_terminal() {
        assert_eq!(plain(b"a\x1b[2Jb\n\tc\xff"), "a?[2Jb\n\tc\u{fffd}");
    }
}
