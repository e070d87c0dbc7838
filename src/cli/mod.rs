//! The command line.

pub mod serve;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A log you can query.
#[derive(Parser, Debug)]
#[command(name = "siltstone", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the server
    Serve(serve::ServeArgs),
}

/// Runs the command that the arguments name.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => serve::serve(args).unwrap_or_else(|error| {
            // Nothing is left to be told when standard error is gone.
            let _ = writeln!(std::io::stderr(), "siltstone: {error}");
            error.exit_code()
        }),
    }
}
