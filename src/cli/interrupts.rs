//! Ctrl-C, listened for from the beginning of a command: one that comes while nobody waits is not lost. SIGTERM, too, where a
//! command has something to take away before it ends.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::CliError;

/// Ctrl-C, as often as it comes, and perhaps SIGTERM.
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Option<Signal>,
}

impl Interrupts {
    /// Begins to listen; from here on Ctrl-C no longer ends the process by itself.
    pub(super) fn listen() -> Result<Self, CliError> {
        Ok(Self {
            interrupt: watch(SignalKind::interrupt(), "Ctrl-C")?,
            terminate: None,
        })
    }

    /// As [`Interrupts::listen`]; SIGTERM no longer ends the process by itself either.
    pub(super) fn listen_to_terminate_too() -> Result<Self, CliError> {
        Ok(Self {
            terminate: Some(watch(SignalKind::terminate(), "SIGTERM")?),
            ..Self::listen()?
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            Some(()) = self.interrupt.recv() => {}
            Some(()) = recv(&mut self.terminate) => {}
            else => std::future::pending::<()>().await,
        }
    }
}

fn watch(kind: SignalKind, name: &str) -> Result<Signal, CliError> {
    signal(kind).map_err(|error| CliError::Failed(format!("cannot watch for {name}: {error}")))
}

async fn recv(signal: &mut Option<Signal>) -> Option<()> {
    signal.as_mut()?.recv().await
}
