//! One file for each group of verbs.

mod channel;
mod console;
mod cycle;
mod hardware;
mod life;
mod list;
mod manual;
mod perfetto;
mod program;
mod system;
mod top;
mod trace;
mod watch;

use std::time::Duration;

use anyhow::Result;

use crate::cli::{ChannelVerb, Cli, Verb};
use crate::device::Device;

/// Does what the command line says.
///
/// # Errors
/// See [`crate::failure::Failure`]; others in words.
pub(crate) fn run(cli: &Cli) -> Result<()> {
    let json = cli.json;
    match &cli.verb {
        Verb::List => list::list(&Device::open()?, json),
        Verb::Show { name } => list::show(&Device::open()?, name, json),
        Verb::Start { name } => life::start(&Device::open()?, name, json),
        Verb::Stop { name } => life::stop(&Device::open()?, name, json),
        Verb::Restart { name } => life::restart(&Device::open()?, name, json),
        Verb::Load { name, file } => program::load(&Device::open()?, name, file, json),
        Verb::Flags { name, set } => life::flags(&Device::open()?, name, set.as_deref(), json),
        Verb::Console { name, follow } => console::show(&Device::open()?, name, *follow, json),
        Verb::Top { interval, count } => top::top(&Device::open()?, *interval, *count, json),
        Verb::Trace {
            name,
            follow,
            seconds,
            perfetto,
        } => trace::trace(
            &Device::open()?,
            &trace::Request {
                name: name.as_deref(),
                follow: *follow,
                limit: seconds.map(Duration::from_secs_f64),
                perfetto: perfetto.as_deref(),
                json,
            },
        ),
        Verb::Watch {
            cpu,
            seconds,
            passive,
        } => {
            let time = Duration::from_secs_f64(*seconds);
            watch::watch(&Device::open()?, *cpu, time, *passive, json)
        }
        Verb::Cycle { name, rounds, load } => {
            cycle::cycle(&Device::open()?, name, *rounds, load.as_deref(), json)
        }
        Verb::Channel { verb } => match verb {
            ChannelVerb::List => channel::list(json),
            ChannelVerb::Send {
                name,
                text,
                timeout,
            } => channel::send(name, text, *timeout, json),
            ChannelVerb::Receive {
                name,
                follow,
                count,
            } => channel::receive(name, *follow, *count, json),
        },
        Verb::Check { file } => system::check(file, json),
        Verb::Compile { file, output } => system::compile(file, output, json),
        Verb::Hardware => hardware::show(json),
        Verb::Completion { shell } => manual::completion(*shell),
        Verb::Man { verb } => manual::page(verb.as_deref()),
    }
}
