//! `siltstone serve`: stand-in until the server is merged.

use std::process::ExitCode;

/// Arguments of `serve`.
#[derive(clap::Args, Debug)]
pub struct ServeArgs {}

/// Why the server did not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is none.
    #[error("the server is not part of this build")]
    Absent,
}

impl ServeError {
    /// Returns the code that the process ends with.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::FAILURE
    }
}

/// Runs a server.
///
/// # Errors
/// [`ServeError`].
pub fn serve(_args: ServeArgs) -> Result<ExitCode, ServeError> {
    Err(ServeError::Absent)
}
