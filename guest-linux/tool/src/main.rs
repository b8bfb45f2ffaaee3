//! `cloister`: what an operator in Linux does with the partitions next door.
//!
//! Everything goes through the virtual PCI function that the hypervisor puts
//! on Linux's bus (`cloister_abi::control`): what is read costs no VM exit, on
//! no core; what is done is one store.

mod address;
mod channels;
mod cli;
mod device;
mod failure;
mod mapping;
mod output;
mod rings;
mod signals;
mod snapshot;
mod symbols;
mod tsc;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = cli::Cli::parse();
    match verbs::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A reader that has seen enough (`cloister trace | head`) is no
            // failure.
            if output::is_broken_pipe(&error) {
                return ExitCode::SUCCESS;
            }
            let status = failure::status(&error);
            if arguments.json {
                let error = format!("{error:#}");
                eprintln!(
                    "{}",
                    serde_json::json!({ "error": error, "status": status })
                );
            } else {
                eprintln!("cloister: {error:#}");
            }
            ExitCode::from(status)
        }
    }
}
