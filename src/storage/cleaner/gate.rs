//! The gate: every byte that a pass reads or writes goes through it, so that a pass stops soon when it should.
//!
//! What is not here: how fast a pass may go. The caller's budget says so, by taking its time or by saying stop.

use std::path::Path;

use crate::storage::StoreError;

use super::super::maintenance::Maintenance;

/// What a budget says about bytes that are about to be read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// Go on.
    Go,
    /// End the pass.
    Stop,
}

/// Asked before each chunk, with its size in bytes. It may take its time to answer.
pub type Budget<'a> = &'a mut dyn FnMut(u64) -> Pace;

/// Why a pass did not come to its end. What it had replaced until then stays replaced, all else is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// The disk refused.
    #[error(transparent)]
    Storage(#[from] StoreError),
    /// The budget said stop.
    #[error("stopped by its budget")]
    Stopped,
    /// Somebody else needs the segments: retention, a repair. Begin again afterwards.
    #[error("interrupted, something else changes the segments")]
    Interrupted,
    /// The topic's policy does not compact.
    #[error("the topic's cleanup.policy does not compact")]
    Policy,
    /// The partition is closed or removed.
    #[error("the partition is closed")]
    Closed,
}

/// See the module.
pub(super) struct Gate<'a> {
    pub(super) budget: Budget<'a>,
    pub(super) maintenance: &'a Maintenance,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
}

impl Gate<'_> {
    pub(super) fn read(&mut self, len: usize) -> Result<(), CompactError> {
        let bytes = len as u64;
        self.pass(bytes)?;
        self.read_bytes += bytes;
        Ok(())
    }

    pub(super) fn write(&mut self, len: usize) -> Result<(), CompactError> {
        let bytes = len as u64;
        self.pass(bytes)?;
        self.written_bytes += bytes;
        Ok(())
    }

    fn pass(&mut self, bytes: u64) -> Result<(), CompactError> {
        if self.maintenance.is_wanted() {
            return Err(CompactError::Interrupted);
        }
        match (self.budget)(bytes) {
            Pace::Go => Ok(()),
            Pace::Stop => Err(CompactError::Stopped),
        }
    }
}

/// Adds what was tried on which path to an I/O error.
pub(super) trait Tried<T> {
    fn tried(self, action: &'static str, path: &Path) -> Result<T, CompactError>;
}

impl<T> Tried<T> for std::io::Result<T> {
    fn tried(self, action: &'static str, path: &Path) -> Result<T, CompactError> {
        self.map_err(|source| {
            CompactError::Storage(StoreError::Io {
                action,
                path: path.to_path_buf(),
                source,
            })
        })
    }
}
