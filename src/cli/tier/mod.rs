//! `siltstone tier`: what is in the object store.
//!
//! Each subcommand has a file of its own. What is not here: anything but the arguments' way to them.

mod verify;

use std::process::ExitCode;

use super::{CliError, connect};

/// Subcommands of `tier`.
#[derive(clap::Subcommand, Debug)]
pub(super) enum TierCommand {
    /// Check that an archive holds what it says it holds, without a server
    Verify(verify::VerifyArgs),
}

/// Runs the command.
pub(super) fn run(command: TierCommand) -> Result<ExitCode, CliError> {
    match command {
        TierCommand::Verify(args) => connect::block_on(verify::run(args)),
    }
}
