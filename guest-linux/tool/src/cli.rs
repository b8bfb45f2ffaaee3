//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Sees and controls Cloister's partitions from Linux.
#[derive(Debug, Parser)]
#[command(
    name = "cloister",
    version,
    propagate_version = true,
    after_help = "Exit status: 0 done; 1 failed; 2 wrong usage; 3 no Cloister here, or not root; \
                  4 no such partition; 5 the hypervisor refused; 6 not done in time."
)]
pub(crate) struct Cli {
    /// Print JSON, for machines to read.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Every partition on one line.
    List,
    /// All about one partition: cores, exits by reason, the last violation.
    Show {
        /// The partition.
        name: String,
    },
    /// Start a partition from its pristine image.
    Start {
        /// The partition. It must not run.
        name: String,
    },
    /// Stop a partition.
    Stop {
        /// The partition. It must run.
        name: String,
    },
    /// Stop a partition if it runs, and start it from its pristine image.
    Restart {
        /// The partition.
        name: String,
    },
    /// Give a stopped partition another program.
    Load {
        /// The partition. It must not run.
        name: String,
        /// The program: a static ELF64 file for x86-64.
        file: PathBuf,
    },
    /// Show the dataplane flags of a partition's cores, or impose DEBUG.
    Flags {
        /// The partition.
        name: String,
        /// Trace every exit of it from now on ("debug"), or no longer ("none").
        #[arg(long, value_name = "FLAG", value_parser = ["debug", "none"])]
        set: Option<String>,
    },
    /// What a partition has printed.
    Console {
        /// The partition.
        name: String,
        /// Go on until interrupted.
        #[arg(short, long)]
        follow: bool,
    },
    /// Live counters of every core.
    ///
    /// On a terminal a screen, until "q"; otherwise text, or with --json one
    /// line for each reading.
    Top {
        /// Seconds between two readings.
        #[arg(short, long, default_value_t = 1.0, value_parser = seconds)]
        interval: f64,
        /// Print so many readings instead of showing a screen. When standard
        /// output is no terminal, the default is 1.
        #[arg(short = 'n', long)]
        count: Option<u64>,
    },
    /// Traced exits, decoded: of cores under DEBUG, or that the manifest
    /// watches.
    Trace {
        /// Only this partition's.
        name: Option<String>,
        /// Go on until interrupted.
        #[arg(short, long)]
        follow: bool,
        /// With --follow: stop after so long.
        #[arg(long, value_name = "S", value_parser = seconds, requires = "follow")]
        seconds: Option<f64>,
        /// Write them to FILE ("-" is standard output) as Chrome trace events,
        /// which ui.perfetto.dev and chrome://tracing open. With --follow, all
        /// from now on until interrupted.
        #[arg(long, value_name = "FILE")]
        perfetto: Option<PathBuf>,
    },
    /// Messages to and from partitions.
    Channel {
        #[command(subcommand)]
        verb: ChannelVerb,
    },
    /// Who interrupts one of Linux's own CPUs: DEBUG on it for a while.
    ///
    /// Each source of interrupts with its count, the longest time for which it
    /// took the CPU away, and who sent it. To measure that time, a loop of this
    /// tool runs on the CPU meanwhile; --passive leaves the CPU to what runs
    /// there. DEBUG ends with the tool, even if it is killed.
    Watch {
        /// The CPU, as Linux counts them.
        #[arg(long, value_name = "N")]
        cpu: u32,
        /// For how long; or until interrupted.
        #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = seconds)]
        seconds: f64,
        /// Count only, and measure nothing.
        #[arg(long)]
        passive: bool,
    },
    /// Stop, start and restart a partition over and over, and say how long each
    /// call took.
    ///
    /// Times are TSC cycles: of the call, and from the call until it had its
    /// effect.
    Cycle {
        /// The partition.
        name: String,
        /// How often.
        #[arg(short = 'n', long, default_value_t = 100)]
        rounds: u64,
        /// Load this program each time it is stopped.
        #[arg(long, value_name = "FILE")]
        load: Option<PathBuf>,
    },
    /// Validate a system file.
    Check {
        /// The system file (TOML).
        file: PathBuf,
    },
    /// Compile a system file to the manifest that the hypervisor reads.
    Compile {
        /// The system file (TOML).
        file: PathBuf,
        /// Where to write the manifest.
        #[arg(short, long, default_value = "manifest")]
        output: PathBuf,
    },
    /// What this machine has and lacks for Cloister.
    Hardware,
    /// Print the completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, of all or of one verb: cloister man | man -l -
    Man {
        /// The verb.
        verb: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ChannelVerb {
    /// Linux's channels.
    List,
    /// Send one message.
    Send {
        /// The channel.
        name: String,
        /// The message.
        text: String,
        /// Seconds to wait for room.
        #[arg(long, default_value_t = 5.0, value_parser = seconds)]
        timeout: f64,
    },
    /// Print the messages that are there, one on a line.
    Receive {
        /// The channel.
        name: String,
        /// Go on until interrupted.
        #[arg(short, long)]
        follow: bool,
        /// Stop after so many messages.
        #[arg(short = 'n', long)]
        count: Option<u64>,
    },
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=3600.0).contains(&value) => Ok(value),
        _ => Err("a number of seconds from 0 to 3600".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn intervals() {
        assert!(seconds("0.5").is_ok());
        for wrong in ["-1", "nan", "inf", "x", "1e9"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
