//! Reading what only the bucket has: the same answers as from the local log.
//!
//! A read ends within [`COLD_DEADLINE`], whatever the store does. One whose object is gone is done again by the manifest of now: the
//! cleaner or retention may have exchanged it.
//!
//! **Aborted transactions** of a cold range may have ended in a segment that is still local, or leave it meanwhile. So the local ones are
//! looked at first, and the manifest that is current afterwards: between the two no marker is missed.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::broker::Error;
use crate::broker::served::Served;
use crate::broker::translate;
use crate::record::{DecompressLimit, RecordBatch};
use crate::storage::{AbortedTransaction, FirstBatch, Found, Read, Slice};
use crate::tier::{ColdLog, FindTime, TierError, Trouble};
use crate::types::{Isolation, Offset, Timestamp};

use super::bucket::{Archive, Tiered, Unread, told};

/// How long a read may take.
const COLD_DEADLINE: Duration = Duration::from_secs(60);
/// Bytes that are read at once where all records of a range are looked at.
const LOOK_BYTES: usize = 1 << 20;

impl Archive {
    /// Reads batches from the bucket; names the aborted transactions that overlap them where `isolation` asks for that.
    ///
    /// # Errors
    /// [`Error::ArchiveUnavailable`], which a retry may mend; [`Error::Damaged`] names the object.
    pub(in crate::broker) async fn read(
        &self,
        served: &Arc<Served>,
        read: &Read,
        isolation: Isolation,
    ) -> Result<(Slice, Vec<AbortedTransaction>), Error> {
        let work = async {
            let look = |cold: Arc<ColdLog>| {
                let read = read.clone();
                async move { cold.read(&read).await }.boxed()
            };
            let slice = self.with_cold(served, look).await?;
            let aborted = match isolation {
                Isolation::ReadCommitted if !slice.bytes.is_empty() => {
                    self.aborted(served, read.from..slice.next_offset).await?
                }
                _ => Vec::new(),
            };
            Ok((slice, aborted))
        };
        let done = self.within(served, work).await;
        self.note_read(served, read, &done);
        match &done {
            Ok((slice, _)) => {
                self.metrics.tier_cold_reads.inc();
                let bytes = u64::try_from(slice.bytes.len()).unwrap_or(u64::MAX);
                self.metrics.tier_cold_bytes.inc_by(bytes);
            }
            Err(_) => {
                self.metrics.tier_cold_failures.inc();
            }
        }
        done
    }

    /// Keeps for the status what a read of the archive failed of, until one of the same place does not.
    fn note_read<T>(&self, served: &Served, read: &Read, done: &Result<(Slice, T), Error>) {
        let Some(tiered) = self.of(served) else { return };
        let mut state = tiered.state.lock();
        match done {
            Ok((slice, _)) => {
                let is_mended = |unread: &Unread| {
                    !unread.is_lost || (read.from..slice.next_offset).contains(&unread.from)
                };
                if state.unread.as_ref().is_some_and(is_mended) {
                    state.unread = None;
                }
            }
            Err(error) => {
                let is_lost = matches!(error, Error::Damaged { .. });
                // What is lost is not forgotten for what only did not answer.
                if is_lost || state.unread.as_ref().is_none_or(|unread| !unread.is_lost) {
                    state.unread = Some(Unread {
                        from: read.from,
                        reason: error.to_string(),
                        is_lost,
                    });
                }
            }
        }
    }

    /// Finds the first record of a range of offsets with this timestamp or a later one.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(in crate::broker) async fn find_time(
        &self,
        served: &Arc<Served>,
        (at, range): (Timestamp, Range<Offset>),
        max_decompressed_bytes: u32,
    ) -> Result<Option<Found>, Error> {
        let find = FindTime {
            at,
            from: range.start,
            bound: range.end,
            max_decompressed_bytes,
        };
        let look = |cold: Arc<ColdLog>| async move { cold.find_time(&find).await }.boxed();
        self.within(served, self.with_cold(served, look)).await
    }

    /// Finds the first record of a range of offsets that has the greatest timestamp in it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(in crate::broker) async fn find_max_timestamp(
        &self,
        served: &Arc<Served>,
        range: Range<Offset>,
        max_decompressed_bytes: u32,
    ) -> Result<Option<Found>, Error> {
        let Some(tiered) = self.of(served) else {
            return Err(nowhere(served, range.start));
        };
        let manifest = tiered.manifest();
        let reached = |base: Offset, next: Offset| next > range.start && base < range.end;
        let mut greatest = None;
        for segment in manifest.segments().values() {
            let (base, next) = (segment.id.base, segment.next_offset());
            if !reached(base, next) || segment.summary.greatest_timestamp <= greatest {
                continue;
            }
            greatest = if base >= range.start && next <= range.end {
                segment.summary.greatest_timestamp
            } else {
                let part = base.max(range.start)..next.min(range.end);
                let look = |cold: Arc<ColdLog>| {
                    let part = part.clone();
                    async move { greatest_in(&cold, &part, max_decompressed_bytes).await }.boxed()
                };
                let found = self.within(served, self.with_cold(served, look)).await?;
                found.max(greatest)
            };
        }
        match greatest {
            Some(at) => self.find_time(served, (at, range), max_decompressed_bytes).await,
            None => Ok(None),
        }
    }

    async fn aborted(
        &self,
        served: &Arc<Served>,
        range: Range<Offset>,
    ) -> Result<Vec<AbortedTransaction>, Error> {
        let (local, asked) = (Arc::clone(served), range.clone());
        let local = tokio::task::spawn_blocking(move || local.log.aborted(&asked)).await;
        let marks = served.log.watermarks();
        let mut all = match local {
            Ok(found) => found.map_err(|error| translate::read(served.id(), error, marks.high_watermark))?,
            Err(_) => return Err(Error::ShuttingDown),
        };
        let look = |cold: Arc<ColdLog>| {
            let range = range.clone();
            async move { cold.aborted(&range).await }.boxed()
        };
        all.extend(self.with_cold(served, look).await?);
        all.sort_by_key(|aborted| (aborted.first_offset, aborted.producer_id));
        all.dedup_by_key(|aborted| (aborted.first_offset, aborted.producer_id));
        Ok(all)
    }

    /// Looks by the manifest of now, and once more if an object was exchanged meanwhile.
    async fn with_cold<T>(
        &self,
        served: &Served,
        look: impl Fn(Arc<ColdLog>) -> BoxFuture<'static, Result<T, TierError>> + Send,
    ) -> Result<T, Error> {
        let tiered: Arc<Tiered> = self
            .of(served)
            .ok_or_else(|| nowhere(served, served.log.watermarks().log_start))?;
        let cold = tiered.cold();
        let first = look(Arc::clone(&cold)).await;
        let error = match first {
            Err(error) if error.trouble() == Some(Trouble::NotFound) => error,
            done => return done.map_err(|error| told(served.id(), &error)),
        };
        let now = tiered.cold();
        if Arc::ptr_eq(&cold, &now) {
            return Err(told(served.id(), &error));
        }
        look(now).await.map_err(|error| told(served.id(), &error))
    }

    async fn within<T>(
        &self,
        served: &Served,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let work = async {
            let _turn = self.cold_reads.acquire().await;
            work.await
        };
        match tokio::time::timeout(COLD_DEADLINE, work).await {
            Ok(done) => done,
            Err(_) => Err(Error::ArchiveUnavailable {
                target: served.id().to_string(),
                reason: format!("{} gave nothing within {} s", self.store, COLD_DEADLINE.as_secs()),
            }),
        }
    }
}

/// The error for what is neither local nor in the bucket.
fn nowhere(served: &Served, offset: Offset) -> Error {
    Error::ArchiveOnly {
        partition: served.id().clone(),
        offset,
        local_start: served.log.watermarks().local_start,
    }
}

/// Looks at every record of a range.
async fn greatest_in(
    cold: &ColdLog,
    range: &Range<Offset>,
    max_decompressed_bytes: u32,
) -> Result<Option<Timestamp>, TierError> {
    let (mut from, mut greatest) = (range.start, None);
    while from < range.end {
        let read = Read {
            from,
            until: range.end,
            times: None,
            max_bytes: LOOK_BYTES,
            first: FirstBatch::Whole,
        };
        let slice = cold.read(&read).await?;
        for batch in crate::record::Batches::over(slice.bytes.clone(), 0).flatten() {
            greatest = greatest.max(greatest_of(&batch.1, range, max_decompressed_bytes));
        }
        from = slice.next_offset;
    }
    Ok(greatest)
}

/// The batch was found sound when it was read; what cannot be decoded has no time.
fn greatest_of(batch: &RecordBatch, range: &Range<Offset>, max_decompressed_bytes: u32) -> Option<Timestamp> {
    if batch.header().is_control() {
        return None;
    }
    let records = batch.records(DecompressLimit(max_decompressed_bytes)).ok()?;
    let inside = records.flatten().filter(|record| range.contains(&record.offset));
    inside.filter_map(|record| record.timestamp).max()
}
