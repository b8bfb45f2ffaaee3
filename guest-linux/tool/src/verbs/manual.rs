//! `completion` and `man`, made from the command line's own description.

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output;

/// `cloister completion SHELL`.
pub(super) fn completion(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "cloister", &mut script);
    output::text(&String::from_utf8(script)?)
}

/// `cloister man [VERB]`.
pub(super) fn page(verb: Option<&str>) -> Result<()> {
    let mut command = Cli::command();
    command.build();
    let command = match verb {
        None => command,
        Some(verb) => command
            .find_subcommand(verb)
            .with_context(|| format!("there is no verb \"{verb}\""))?
            .clone(),
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    output::text(&String::from_utf8(page)?)
}
