//! The storm: what Linux does on housekeeping cores that interrupts an
//! isolated one, and a table of who was interrupted by it.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};

use crate::{Ended, System};

/// Runs in Linux.
const SCRIPT: &str = include_str!("storm/storm.sh");
/// Kernel modules that the script loads.
const MODULES: [&str; 2] = ["dummy", "kvm-amd"];

/// One action of the storm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Its name in the script.
    pub name: String,
    /// Exit status of its commands: 0 if it could be done.
    pub status: i32,
    /// Interrupts of all kinds that the watched core took meanwhile.
    pub interrupts: u64,
}

/// Kernel command line that isolates `core` as far as Linux can.
#[must_use]
pub fn isolate(core: u32) -> String {
    format!("isolcpus=nohz,domain,managed_irq,{core} nohz_full={core} rcu_nocbs={core}")
}

/// Runs the storm in the Linux of `system`. Interrupts of core `watched` are
/// counted, while a busy loop runs on it (but for the last action); core `offline` is taken offline and
/// back.
///
/// # Errors
/// The run fails, or the script does not come to its end.
pub fn run(system: System, watched: u32, offline: u32) -> Result<(Ended, Vec<Action>)> {
    let system = MODULES
        .iter()
        .fold(system, |system, module| system.kernel_module(module));
    let ended = system
        .linux_file("storm.sh", 0o644, SCRIPT.as_bytes())
        .run(&format!("sh /storm.sh {watched} {offline}"))?
        .completed()?;
    let actions = parse(ended.linux_console()).map_err(|error| ended.failure(error))?;
    Ok((ended, actions))
}

/// The actions that a console tells of.
fn parse(console: &str) -> Result<Vec<Action>> {
    let mut actions = Vec::new();
    for line in console.lines().map(str::trim) {
        let Some(line) = line.strip_prefix("storm: ") else {
            continue;
        };
        if line == "over" {
            return Ok(actions);
        }
        if line.starts_with("said:") {
            continue;
        }
        let action = action(line).with_context(|| format!("not understood: {line:?}"))?;
        actions.push(action);
    }
    ensure!(false, "the storm did not come to its end");
    Ok(actions)
}

fn action(line: &str) -> Option<Action> {
    let mut words = line.split_whitespace();
    let name = words.next()?.to_owned();
    let status = words.next()?.strip_prefix("status=")?.parse().ok()?;
    let interrupts = words.next()?.strip_prefix("interrupts=")?.parse().ok()?;
    Some(Action {
        name,
        status,
        interrupts,
    })
}

/// One column of the table: its heading, and a storm each or one figure for
/// all.
#[derive(Clone, Copy, Debug)]
pub enum Column<'a> {
    /// What was counted around each action.
    Counted(&'a str, &'a [Action]),
    /// A counter that only rises and was this much at the end: if it is 0, it
    /// was 0 for each action.
    AtTheEnd(&'a str, u64),
}

/// The storms side by side, as a Markdown table.
#[must_use]
pub fn table(names: &[Action], columns: &[Column<'_>]) -> String {
    let mut text = String::from("| action on a housekeeping core |");
    for column in columns {
        let (Column::Counted(heading, _) | Column::AtTheEnd(heading, _)) = column;
        // Writing to a String does not fail.
        let _ = write!(text, " {heading} |");
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(columns.len()));
    for Action { name, .. } in names {
        let _ = write!(text, "\n| {name} |");
        for column in columns {
            let cell = match column {
                Column::Counted(_, actions) => cell(actions, name),
                Column::AtTheEnd(_, total) => total.to_string(),
            };
            let _ = write!(text, " {cell} |");
        }
    }
    text.push('\n');
    text
}

fn cell(actions: &[Action], name: &str) -> String {
    match actions.iter().find(|action| action.name == name) {
        None => "-".into(),
        Some(action) if action.status == 0 => action.interrupts.to_string(),
        Some(action) => format!("{} (refused)", action.interrupts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "storm: nothing status=0 interrupts=0\r\nnoise\r\n\
                           storm: kvm-load status=1 interrupts=7\r\nstorm: said: no\r\n";

    #[test]
    fn what_the_script_prints() {
        assert!(parse(CONSOLE).is_err());
        let actions = parse(&format!("{CONSOLE}storm: over\r\n")).unwrap();
        assert_eq!(actions.len(), 2);
        assert_eq!((actions[1].status, actions[1].interrupts), (1, 7));
        assert!(parse("storm: nothing interrupts=0\nstorm: over").is_err());
    }

    #[test]
    fn columns_side_by_side() {
        let actions = parse(&format!("{CONSOLE}storm: over")).unwrap();
        let text = table(
            &actions,
            &[
                Column::Counted("Linux", &actions),
                Column::AtTheEnd("partition", 0),
            ],
        );
        assert!(text.contains("| nothing | 0 | 0 |"), "{text}");
        assert!(text.contains("| kvm-load | 7 (refused) | 0 |"), "{text}");
    }
}
