//! `siltstone serve`: stand-in until the server is merged.

use std::process::ExitCode;

/// Arguments of `serve`.
#[derive(clap::Args, Debug)]
pub(super) struct ServeArgs {}

/// Runs a server.
pub(super) fn serve(_args: ServeArgs) -> Result<ExitCode, String> {
    Err("the server is not here yet".to_owned())
}
