//! The gate: every byte that a pass reads or writes goes through it, and so does every file that it has freed, so that a pass
//! stops soon when it should, and lets others at the segments between two chunks.
//!
//! While its turn is lent, retention may take segments away from the beginning of the log. What a pass is at is lost then only
//! if the first of its segments ([`Gate::needs`]) is gone: it goes on with those that are left.
//!
//! What is not here: how fast a pass may go. The caller's budget says so, by taking its time or by saying stop.

use std::path::Path;

use crate::storage::StoreError;
use crate::types::{Offset, Timestamp};

use super::super::maintenance::Maintenance;

/// What a pass asks its budget about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// So many bytes are about to be read or written.
    Bytes(u64),
    /// The space of a file has just been freed. That cannot be done in parts, and a disk that is told of free space may keep
    /// every sync waiting for as long as it takes.
    Freed,
}

/// What a budget says about a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// Go on.
    Go,
    /// Go on; clients are at the disk, too: have what is written on it before more is written.
    Gently,
    /// Ask once more about the same step. The log is left to others meanwhile, so that the answer may take its time.
    Linger,
    /// End the pass.
    Stop,
}

/// Asked before each chunk, and after each file that was freed. It may take its time to answer.
pub type Budget<'a> = &'a mut dyn FnMut(Step) -> Pace;

/// How what is written gets to the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Writing {
    /// In steps, while more is written.
    Freely,
    /// At once.
    Gently,
}

/// Why a pass did not come to its end. What it had replaced until then stays replaced, all else is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// The disk refused.
    #[error(transparent)]
    Storage(#[from] StoreError),
    /// The budget said stop.
    #[error("stopped by its budget")]
    Stopped,
    /// Somebody else needs the segments: other settings, a removal. Begin again afterwards.
    #[error("interrupted, something else changes the segments")]
    Interrupted,
    /// The topic's policy does not compact.
    #[error("the topic's cleanup.policy does not compact")]
    Policy,
    /// The partition is closed or removed.
    #[error("the partition is closed")]
    Closed,
}

/// Bytes of a log that the disk does not give.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct UnreadPlace {
    pub(super) position: u64,
    pub(super) len_bytes: u64,
    /// The least offset that may be in them.
    pub(super) offset: Offset,
}

/// Leaves the log to others while the work runs; returns where it begins then.
pub(super) type Lend<'a> = &'a mut dyn FnMut(&mut dyn FnMut()) -> Result<Offset, CompactError>;

/// See the module.
pub(super) struct Gate<'a> {
    budget: Budget<'a>,
    maintenance: &'a Maintenance,
    lend: Lend<'a>,
    /// What ends at or before it is gone, as far as is known here.
    log_start: Offset,
    /// The end of the first segment that the work at hand needs.
    needs: Offset,
    lost: bool,
    unread: Option<UnreadPlace>,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    /// The earliest time at which something that stays may go.
    pub(super) next_horizon: Option<Timestamp>,
}

impl<'a> Gate<'a> {
    pub(super) fn new(budget: Budget<'a>, maintenance: &'a Maintenance, lend: Lend<'a>) -> Self {
        Self {
            budget,
            maintenance,
            lend,
            log_start: Offset::ZERO,
            needs: Offset(i64::MAX),
            lost: false,
            unread: None,
            read_bytes: 0,
            written_bytes: 0,
            next_horizon: None,
        }
    }

    /// From here on the work at hand needs the segment that ends at `end`, and later ones. Returns false if it is gone.
    pub(super) fn needs(&mut self, end: Offset) -> bool {
        self.needs = end;
        end > self.log_start
    }

    /// Tells once whether the work at hand ended because its first segment is gone.
    pub(super) fn take_lost(&mut self) -> bool {
        std::mem::take(&mut self.lost)
    }

    /// The disk does not give these bytes of a log.
    pub(super) fn could_not_read(&mut self, place: UnreadPlace) {
        self.unread = Some(place);
    }

    /// Tells once whether the work at hand ended because a log could not be read, and where.
    pub(super) fn take_unread(&mut self) -> Option<UnreadPlace> {
        self.unread.take()
    }

    pub(super) fn read(&mut self, len: usize) -> Result<(), CompactError> {
        let bytes = len as u64;
        self.pass(Step::Bytes(bytes))?;
        self.read_bytes += bytes;
        Ok(())
    }

    pub(super) fn write(&mut self, len: usize) -> Result<Writing, CompactError> {
        let bytes = len as u64;
        let writing = self.pass(Step::Bytes(bytes))?;
        self.written_bytes += bytes;
        Ok(writing)
    }

    /// Asked between two pieces of work: no segment is needed.
    pub(super) fn freed(&mut self) -> Result<(), CompactError> {
        self.needs = Offset(i64::MAX);
        self.pass(Step::Freed)?;
        Ok(())
    }

    fn pass(&mut self, step: Step) -> Result<Writing, CompactError> {
        if self.maintenance.is_wanted() {
            return Err(CompactError::Interrupted);
        }
        if self.maintenance.is_wanted_to_delete() {
            let maintenance = self.maintenance;
            // Until it has the turn, which is a moment.
            let log_start = (self.lend)(&mut || {
                while maintenance.is_wanted_to_delete() {
                    std::thread::yield_now();
                }
            })?;
            self.begins_at(log_start)?;
        }
        let mut pace = (self.budget)(step);
        if pace == Pace::Linger {
            let budget = &mut *self.budget;
            let log_start = (self.lend)(&mut || pace = budget(step))?;
            self.begins_at(log_start)?;
        }
        match pace {
            Pace::Go | Pace::Linger => Ok(Writing::Freely),
            Pace::Gently => Ok(Writing::Gently),
            Pace::Stop => Err(CompactError::Stopped),
        }
    }

    fn begins_at(&mut self, log_start: Offset) -> Result<(), CompactError> {
        self.log_start = log_start;
        if self.needs > log_start {
            return Ok(());
        }
        self.lost = true;
        Err(CompactError::Interrupted)
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
