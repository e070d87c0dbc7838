//! `siltstone tier`: what is in the object store.
//!
//! Each subcommand has a file of its own. What is not here: anything but the arguments' way to them.

mod status;
#[cfg(feature = "tier")]
mod verify;

use std::process::ExitCode;

use super::CliError;
use super::connect::{self, ServerArgs};

/// Subcommands of `tier`.
#[derive(clap::Subcommand, Debug)]
pub(super) enum TierCommand {
    /// Tell how far the archive of a server is, and what is wrong with it
    Status(status::StatusArgs),
    /// Check that an archive holds what it says it holds, without a server
    #[cfg(feature = "tier")]
    Verify(verify::VerifyArgs),
}

/// Runs the command.
pub(super) fn run(command: TierCommand, server: &ServerArgs) -> Result<ExitCode, CliError> {
    match command {
        TierCommand::Status(args) => connect::block_on(status::run(args, server)),
        #[cfg(feature = "tier")]
        TierCommand::Verify(args) => connect::block_on(verify::run(args)),
    }
}
