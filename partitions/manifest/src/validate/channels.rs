//! Channels: two ends that exist, and a possible size.

use super::Sink;
use super::limits::{MAX_CHANNEL_SIZE, MAX_CHANNELS_SIZE, MIN_CHANNEL_SIZE};
use crate::model::{LINUX, Manifest};
use crate::problem::Problem;
use crate::size::Size;

pub(super) fn check(manifest: &Manifest, sink: Sink<'_>) {
    sizes(manifest, sink);
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

fn sizes(manifest: &Manifest, sink: Sink<'_>) {
    let mut all = 0_u64;
    for (index, channel) in manifest.channels.iter().enumerate() {
        let key = format_args!("channel[{index}].size");
        let size = channel.size;
        let wrong = if size < MIN_CHANNEL_SIZE {
            "too small"
        } else if size > MAX_CHANNEL_SIZE {
            "too large"
        } else if !size.is_power_of_two() {
            "no power of two"
        } else {
            let before = all;
            all = all.saturating_add(size);
            if all > MAX_CHANNELS_SIZE && before <= MAX_CHANNELS_SIZE {
                sink(Problem::error(
                    key,
                    format_args!(
                        "with this the channels have {}; give them {} together at most",
                        Size(all),
                        Size(MAX_CHANNELS_SIZE)
                    ),
                ));
            }
            continue;
        };
        sink(Problem::error(
            key,
            format_args!(
                "{} is {wrong}; use a power of two from {} to {}",
                Size(size),
                Size(MIN_CHANNEL_SIZE),
                Size(MAX_CHANNEL_SIZE)
            ),
        ));
    }
}
