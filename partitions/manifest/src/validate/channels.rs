//! Channels: two ends that exist.

use super::Sink;
use crate::model::{LINUX, Manifest};
use crate::problem::Problem;

pub(super) fn check(manifest: &Manifest, sink: Sink<'_>) {
    for (index, channel) in manifest.channels.iter().enumerate() {
        let key = format_args!("channel[{index}].between");
        let [first, second] = &channel.between;
        if first == second {
            sink(Problem::error(
                key,
                format_args!("both ends are \"{first}\"; name two different ones"),
            ));
        }
        for end in &channel.between {
            if end == LINUX {
                if manifest.linux.is_none() {
                    sink(Problem::error(
                        key,
                        format_args!("there is no [linux] table; add one, or name two partitions"),
                    ));
                }
            } else if manifest.partition(end).is_none() {
                sink(Problem::error(
                    key,
                    format_args!(
                        "no partition is called \"{}\"; name \"linux\" or the name of a partition",
                        end.escape_debug()
                    ),
                ));
            }
        }
    }
}
