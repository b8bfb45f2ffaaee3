//! `cargo xtask VERB`.

mod verbs;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, boots and tests Cloister.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    QemuNested(verbs::qemu_nested::Arguments),
    Bochs(verbs::bochs::Arguments),
    Test(verbs::test::Arguments),
    Check(verbs::check::Arguments),
    Image(verbs::image::Arguments),
    Bench(verbs::bench::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::QemuNested(arguments) => arguments.run(),
        Verb::Bochs(arguments) => arguments.run(),
        Verb::Test(arguments) => arguments.run(),
        Verb::Check(arguments) => arguments.run(),
        Verb::Image(arguments) => arguments.run(),
        Verb::Bench(arguments) => arguments.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
