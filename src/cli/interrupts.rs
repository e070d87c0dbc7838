//! Ctrl-C, listened for from the beginning of a command: one that comes while nobody waits is not lost.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::CliError;

/// Ctrl-C, as often as it comes.
pub(super) struct Interrupts(Signal);

impl Interrupts {
    /// Begins to listen; from here on Ctrl-C no longer ends the process by itself.
    pub(super) fn listen() -> Result<Self, CliError> {
        match signal(SignalKind::interrupt()) {
            Ok(signal) => Ok(Self(signal)),
            Err(error) => Err(CliError::Failed(format!("cannot watch for Ctrl-C: {error}"))),
        }
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}
