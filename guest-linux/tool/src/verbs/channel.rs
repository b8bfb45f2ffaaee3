//! `channel`: messages to and from partitions.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cloister_channel::SendError;

use crate::channels::Channel;
use crate::failure::Failure;
use crate::output;
use crate::verbs::console::plain;

/// How often a channel is looked at. Looking costs no exit.
const POLL: Duration = Duration::from_millis(10);

/// `cloister channel list`.
pub(super) fn list(json: bool) -> Result<()> {
    let channels = Channel::all()?;
    if json {
        let list: Vec<_> = channels
            .iter()
            .map(|channel| {
                serde_json::json!({
                    "name": channel.name(),
                    "peer": channel.peer(),
                    "size": channel.size(),
                    "peer_starts": channel.peer_starts(),
                    "waiting": channel.is_waiting().ok(),
                    "function": channel.function(),
                })
            })
            .collect();
        return output::json(&list);
    }
    let head = [
        "name",
        "peer",
        "size",
        "starts of peer",
        "waiting",
        "function",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for channel in &channels {
        rows.push(vec![
            channel.name(),
            channel.peer(),
            format!("{}K", channel.size() >> 10),
            channel.peer_starts().to_string(),
            match channel.is_waiting() {
                Ok(true) => "yes".into(),
                Ok(false) => "no".into(),
                Err(error) => format!("{error:#}"),
            },
            channel.function(),
        ]);
    }
    output::text(&output::table(&rows))
}

/// `cloister channel send NAME TEXT`.
pub(super) fn send(name: &str, text: &str, patience: f64, json: bool) -> Result<()> {
    let channel = Channel::named(name)?;
    let memory = channel.for_sending()?;
    let mut sender = memory.sender().context("cannot send")?;
    let until = Instant::now() + Duration::from_secs_f64(patience);
    loop {
        match sender.send(text.as_bytes()) {
            Ok(()) => break,
            Err(SendError::Full) if Instant::now() < until => std::thread::sleep(POLL),
            Err(SendError::Full) => {
                let peer = channel.peer();
                let text = format!("{name} is full: {peer} takes nothing out");
                return Err(Failure::TooLate(text).into());
            }
            Err(error) => return Err(error).context(format!("cannot send to {name}")),
        }
    }
    if json {
        return output::json(&serde_json::json!({ "channel": name, "sent": text }));
    }
    Ok(())
}

/// `cloister channel receive NAME [-f]`. A message is taken out when it has
/// been printed: whoever is killed before loses none.
pub(super) fn receive(name: &str, follow: bool, count: Option<u64>, json: bool) -> Result<()> {
    let channel = Channel::named(name)?;
    let memory = channel.for_receiving()?;
    let mut receiver = memory.receiver().context("cannot receive")?;
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let printed = receiver.receive_with(|message| {
            let mut bytes = vec![0; message.len()];
            let text = plain(message.copy_to(&mut bytes));
            if json {
                output::json(&serde_json::json!({ "channel": name, "text": text }))
            } else {
                output::text(&format!("{text}\n"))
            }
        });
        match printed {
            Ok(Some(printed)) => {
                printed?;
                left -= 1;
            }
            Ok(None) if follow => std::thread::sleep(POLL),
            Ok(None) => break,
            Err(error) if follow => eprintln!("cloister: {name}: {error}"),
            Err(error) => return Err(error).context(format!("cannot receive from {name}")),
        }
    }
    Ok(())
}
