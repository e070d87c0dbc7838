//! `siltstone completion`: a script that teaches a shell the commands and flags.

use std::process::ExitCode;

use clap_complete::Shell;

use super::{CliError, output};

/// Arguments of `completion`.
#[derive(clap::Args, Debug)]
pub(super) struct CompletionArgs {
    /// Which shell
    shell: Shell,
}

/// Prints the script.
pub(super) fn run(args: &CompletionArgs, command: &mut clap::Command) -> Result<ExitCode, CliError> {
    // Made in memory first: the generator panics when its writer fails, and a closed pipe is no bug.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "siltstone", &mut script);
    output::write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
