//! Reading on, wherever it lies: what left the local disk comes from the archive, the rest from the log, and one read does not mix them.
//!
//! A log's local start may rise between a look at it and the read. Then storage says so, and the read is done again, from the archive.
//!
//! What is not here: how the archive is read (`archive/cold.rs`).

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{FutureExt as _, StreamExt as _, stream};

use crate::storage::{FirstBatch, Found, Read};
use crate::types::{Offset, Timestamp};

use super::archive::Archive;
use super::core::Core;
use super::fetch::{Limits, Resolved, Stretch};
use super::requests::Chunk;
use super::served::Served;
use super::{Error, translate};

/// Partitions of one fetch that are read from the archive at the same time.
const COLD_AT_ONCE: usize = 16;
/// Each of them reads at least so much, as far as the fetch takes it.
const COLD_SHARE: usize = 64 << 10;

impl Core {
    /// Reads one stretch, from the archive or the log.
    pub(super) async fn chunk(
        self: &Arc<Self>,
        served: &Arc<Served>,
        stretch: impl Fn() -> Stretch,
    ) -> Result<Chunk, Error> {
        loop {
            let local_start = served.log.watermarks().local_start;
            if let Some(archive) = self.archive_for(served, &stretch().read) {
                return cold_chunk(archive, served, stretch()).await;
            }
            let (local, asked) = (Arc::clone(served), stretch());
            let chunk = self.blocking(move |_| asked.chunk(&local)).await;
            let has_moved = served.log.watermarks().local_start > local_start;
            if !(self.archive.is_some() && has_moved && matches!(chunk, Err(Error::ArchiveOnly { .. }))) {
                return chunk;
            }
        }
    }

    /// Returns the archive if a read begins there.
    fn archive_for(&self, served: &Served, read: &Read) -> Option<&Arc<Archive>> {
        let marks = served.log.watermarks();
        let is_cold = read.from >= marks.log_start && read.from < marks.local_start && read.from < read.until;
        self.archive.as_ref().filter(|_| is_cold)
    }

    /// Reads those targets of a fetch that begin in the archive, several at once; by their places. Together they read about as much as the
    /// fetch returns at most.
    pub(super) async fn cold_chunks(
        &self,
        resolved: &[Resolved],
        limits: Limits,
    ) -> HashMap<usize, Result<Chunk, Error>> {
        let mut jobs = Vec::new();
        let mut is_first = true;
        for (index, (target, served)) in resolved.iter().enumerate() {
            let Ok(served) = served else { continue };
            let read = Read {
                from: target.offset,
                until: limits.bound(&served.log.watermarks()),
                times: None,
                max_bytes: target.max_bytes.min(limits.max_bytes),
                first: FirstBatch::after(usize::from(!is_first)),
            };
            is_first &= read.from >= read.until;
            if served.closed().is_none()
                && let Some(archive) = self.archive_for(served, &read)
            {
                jobs.push((index, Arc::clone(served), Arc::clone(archive), read));
            }
        }
        let share = (limits.max_bytes / jobs.len().max(1)).max(COLD_SHARE.min(limits.max_bytes));
        let read = jobs.into_iter().map(|(index, served, archive, read)| {
            let stretch = Stretch {
                read: Read {
                    max_bytes: read.max_bytes.min(share),
                    ..read
                },
                isolation: limits.isolation,
                max_decompressed_bytes: limits.max_decompressed_bytes,
            };
            async move { (index, cold_chunk(&archive, &served, stretch).await) }.boxed()
        });
        let read: Vec<_> = read.collect();
        stream::iter(read).buffer_unordered(COLD_AT_ONCE).collect().await
    }

    /// Finds the first record from the log start on and below `bound` with this timestamp or a later one, in what is there.
    pub(super) async fn find_time(
        self: &Arc<Self>,
        served: &Arc<Served>,
        at: Timestamp,
        bound: Offset,
    ) -> Result<Option<Found>, Error> {
        let max_bytes = self.config.max_decompressed_bytes;
        loop {
            let marks = served.log.watermarks();
            if let Some(archive) = self
                .archive
                .as_ref()
                .filter(|_| marks.log_start < marks.local_start)
            {
                let range = marks.log_start..bound.min(marks.local_start);
                let found = archive.find_time(served, (at, range), max_bytes).await?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            let local = Arc::clone(served);
            let found = self.blocking(move |core| {
                let from = core.local_from(&local, marks.local_start);
                let found = local.log.find_time_from(at, from, bound);
                found.map_err(|error| translate::read(local.id(), error, bound))
            });
            match found.await {
                Err(Error::ArchiveOnly { .. }) if self.archive.is_some() => {}
                found => return found,
            }
        }
    }

    /// Finds the first record from the log start on and below `bound` that has the greatest timestamp.
    pub(super) async fn find_max_timestamp(
        self: &Arc<Self>,
        served: &Arc<Served>,
        bound: Offset,
    ) -> Result<Option<Found>, Error> {
        let max_bytes = self.config.max_decompressed_bytes;
        loop {
            let marks = served.log.watermarks();
            let mut cold = None;
            if let Some(archive) = self
                .archive
                .as_ref()
                .filter(|_| marks.log_start < marks.local_start)
            {
                let range = marks.log_start..bound.min(marks.local_start);
                cold = archive.find_max_timestamp(served, range, max_bytes).await?;
            }
            let asked = Arc::clone(served);
            let local = self.blocking(move |core| {
                let from = core.local_from(&asked, marks.local_start);
                let found = asked.log.find_max_timestamp_from(from, bound);
                found.map_err(|error| translate::read(asked.id(), error, bound))
            });
            let local = match local.await {
                Err(Error::ArchiveOnly { .. }) if self.archive.is_some() => continue,
                local => local?,
            };
            return Ok(match (cold, local) {
                (Some(cold), Some(local)) if local.timestamp > cold.timestamp => Some(local),
                (cold, local) => cold.or(local),
            });
        }
    }

    /// Where a search of the local log begins; without an archive at the log start, so that what is missing is told.
    fn local_from(&self, served: &Served, local_start: Offset) -> Offset {
        match self.archive {
            Some(_) => local_start,
            None => served.log.watermarks().log_start,
        }
    }
}

/// Reads a stretch that begins in the archive, up to the local start. Where there is nothing in it the answer is empty, and says where
/// reading goes on.
async fn cold_chunk(archive: &Arc<Archive>, served: &Arc<Served>, stretch: Stretch) -> Result<Chunk, Error> {
    let local_start = served.log.watermarks().local_start;
    let read = Read {
        until: stretch.read.until.min(local_start),
        ..stretch.read.clone()
    };
    let (slice, aborted) = archive.read(served, &read, stretch.isolation).await?;
    Ok(stretch.answer(served, slice, aborted))
}
