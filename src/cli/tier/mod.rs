//! `siltstone tier`: what is in the object store.
//!
//! Each subcommand has a file of its own. What is not here: anything but the arguments' way to them.

#[cfg(feature = "tier")]
mod restore;
mod status;
#[cfg(feature = "tier")]
mod verify;

#[cfg(feature = "tier")]
use std::io::IsTerminal as _;
use std::process::ExitCode;

#[cfg(feature = "tier")]
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

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
    /// Make a data directory of what an archive has, without a server
    #[cfg(feature = "tier")]
    Restore(restore::RestoreArgs),
}

/// Runs the command.
pub(super) fn run(command: TierCommand, server: &ServerArgs) -> Result<ExitCode, CliError> {
    match command {
        TierCommand::Status(args) => connect::block_on(status::run(args, server)),
        #[cfg(feature = "tier")]
        TierCommand::Verify(args) => connect::block_on(verify::run(args)),
        #[cfg(feature = "tier")]
        TierCommand::Restore(args) => connect::block_on(restore::run(args)),
    }
}

/// A bar on standard error, if that is a terminal.
#[cfg(feature = "tier")]
fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} segments {msg}")
        .expect("the template is well formed");
    ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style)
}
