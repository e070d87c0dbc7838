//! Fetch: from given offsets of any number of partitions, with Kafka's limits, waiting for data as asked.
//!
//! Targets are read in their order and share `max_bytes`. While nothing has been read, the first batch of a partition comes
//! whole, however large; after that only what fits. A fetch is answered at once when `min_bytes` are there, when a target
//! failed, or when it shall not wait; else it sleeps until a watermark it waits for moves, reads again, and answers at the
//! latest when its time is over. Bytes are counted as read, with the aborted transactions named beside them, so `min_bytes` is
//! exact and no answer is longer than was asked for.
//!
//! Readers see up to the high watermark, or the last stable offset. An offset up to the log end is none to complain about:
//! there is just nothing yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::storage::{AbortedTransaction, FirstBatch, Read, Slice, WatermarkView};
use crate::types::{Isolation, Offset, TopicName};

use super::core::Core;
use super::requests::{Aborted, Chunk, Fetch, FetchTarget};
use super::served::Served;
use super::{Error, translate};

/// The most that one fetch returns, whatever it asks for, unless one batch is larger: Kafka's `fetch.max.bytes`.
pub const FETCH_BYTES_MAX: usize = 55 << 20;

/// A target whose partition was found, or why not.
pub(super) type Resolved = (FetchTarget, Result<Arc<Served>, Error>);

/// What one pass of reading gave.
struct Pass {
    chunks: Vec<Result<Chunk, Error>>,
    bytes: usize,
}

impl Core {
    /// See [`super::Broker::fetch`].
    pub(super) async fn fetch(self: &Arc<Self>, fetch: Fetch) -> Vec<Result<Chunk, Error>> {
        let count = fetch.targets.len();
        match self.fetch_all(fetch).await {
            Ok(chunks) => chunks,
            Err(error) => vec![Err(error); count],
        }
    }

    async fn fetch_all(self: &Arc<Self>, fetch: Fetch) -> Result<Vec<Result<Chunk, Error>>, Error> {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(fetch.max_wait_ms.into());
        let limits = Limits {
            max_bytes: fetch.max_bytes.min(FETCH_BYTES_MAX),
            isolation: fetch.isolation,
            max_decompressed_bytes: self.config.max_decompressed_bytes,
        };
        let min_bytes = fetch.min_bytes.clamp(1, limits.max_bytes.max(1));
        let resolved: Vec<Resolved> = fetch
            .targets
            .into_iter()
            .map(|target| self.resolve(target))
            .collect();
        let resolved = Arc::new(resolved);

        let pass = self.pass(&resolved, limits).await?;
        if pass.is_answer(min_bytes) || fetch.max_wait_ms == 0 || resolved.is_empty() {
            return Ok(pass.chunks);
        }
        let wait = self
            .waits
            .register(resolved.iter().filter_map(|(target, served)| {
                let served = served.as_ref().ok()?;
                Some((Arc::clone(served), target.offset))
            }))?;
        let stopping = self.gate.stopping();
        let mut stopping = std::pin::pin!(stopping);
        loop {
            // Registered first, read after: what came in between is seen.
            let pass = self.pass(&resolved, limits).await?;
            if pass.is_answer(min_bytes) {
                return Ok(pass.chunks);
            }
            tokio::select! {
                () = wait.rung() => {}
                () = tokio::time::sleep_until(deadline) => return Ok(pass.chunks),
                () = &mut stopping => return Ok(pass.chunks),
            }
        }
    }

    fn resolve(&self, target: FetchTarget) -> Resolved {
        let served = TopicName::new(&target.topic)
            .map_err(|_| Error::UnknownTopic {
                topic: target.topic.clone(),
            })
            .and_then(|name| self.topics.find(&name))
            .and_then(|topic| topic.partition(target.partition).map(Arc::clone));
        (target, served)
    }

    /// Reads all targets once; off this thread when there may be anything to read. What left the local disk between a look and its
    /// read is looked at again.
    async fn pass(self: &Arc<Self>, resolved: &Arc<Vec<Resolved>>, limits: Limits) -> Result<Pass, Error> {
        loop {
            let local_starts = local_starts(resolved);
            let pass = self.pass_once(resolved, limits).await?;
            let is_cold = |chunk: &Result<Chunk, Error>| matches!(chunk, Err(Error::ArchiveOnly { .. }));
            let moved = self::local_starts(resolved) != local_starts;
            if self.archive.is_none() || !moved || !pass.chunks.iter().any(is_cold) {
                return Ok(pass);
            }
        }
    }

    async fn pass_once(
        self: &Arc<Self>,
        resolved: &Arc<Vec<Resolved>>,
        limits: Limits,
    ) -> Result<Pass, Error> {
        let started = Instant::now();
        let mut cold = self.cold_chunks(resolved, limits).await;
        let to_read = resolved.iter().any(|(target, served)| {
            served
                .as_ref()
                .is_ok_and(|served| limits.bound(&served.log.watermarks()) > target.offset)
        });
        let pass = if to_read {
            let resolved = Arc::clone(resolved);
            self.blocking(move |_| Ok(limits.read_all(&resolved, &mut cold)))
                .await?
        } else {
            limits.read_all(resolved, &mut cold)
        };
        self.metrics.fetch_latency.record(started.elapsed());
        self.metrics
            .fetch_bytes
            .inc_by(u64::try_from(pass.bytes).unwrap_or(u64::MAX));
        Ok(pass)
    }
}

fn local_starts(resolved: &[Resolved]) -> Vec<Offset> {
    let local_start = |served: &Arc<Served>| served.log.watermarks().local_start;
    resolved
        .iter()
        .filter_map(|(_, served)| served.as_ref().ok().map(local_start))
        .collect()
}

impl Pass {
    fn is_answer(&self, min_bytes: usize) -> bool {
        // Passed over what is missing at the end of the archive: the next fetch begins behind it.
        let goes_on = |chunk: &Chunk| {
            chunk.batches.is_empty() && chunk.next_offset > chunk.from && chunk.next_offset < chunk.until
        };
        let told = |chunk: &Result<Chunk, Error>| chunk.as_ref().map_or(true, goes_on);
        self.bytes >= min_bytes || self.chunks.iter().any(told)
    }
}

/// What holds for a fetch as a whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max_bytes: usize,
    pub(super) isolation: Isolation,
    pub(super) max_decompressed_bytes: u32,
}

impl Limits {
    pub(super) fn bound(self, marks: &WatermarkView) -> Offset {
        bound(marks, self.isolation)
    }

    /// Reads what is local; `cold` is what was read from the archive, by place, and as much more than an answer takes.
    fn read_all(self, resolved: &[Resolved], cold: &mut HashMap<usize, Result<Chunk, Error>>) -> Pass {
        let mut bytes = 0;
        let mut chunks = Vec::with_capacity(resolved.len());
        for (index, (target, served)) in resolved.iter().enumerate() {
            let chunk = match (cold.remove(&index), served) {
                (Some(chunk), _) => chunk.map(|mut chunk| {
                    let first = FirstBatch::after(bytes);
                    chunk.cut_to(target.max_bytes.min(self.max_bytes.saturating_sub(bytes)), first);
                    chunk
                }),
                (None, Ok(served)) => self.read_one(target, served, bytes),
                (None, Err(error)) => Err(error.clone()),
            };
            bytes += chunk.as_ref().map_or(0, Chunk::size_bytes);
            chunks.push(chunk);
        }
        Pass { chunks, bytes }
    }

    fn read_one(self, target: &FetchTarget, served: &Served, bytes_so_far: usize) -> Result<Chunk, Error> {
        if let Some(error) = served.closed() {
            return Err(error);
        }
        let marks = served.log.watermarks();
        if target.offset < marks.log_start || target.offset > marks.log_end {
            return Err(out_of_range(served, target.offset, &marks));
        }
        let stretch = Stretch {
            read: Read {
                from: target.offset,
                until: self.bound(&marks),
                times: None,
                max_bytes: target.max_bytes.min(self.max_bytes.saturating_sub(bytes_so_far)),
                first: FirstBatch::after(bytes_so_far),
            },
            isolation: self.isolation,
            max_decompressed_bytes: self.max_decompressed_bytes,
        };
        stretch.chunk(served)
    }
}

/// How far a reader sees.
pub(super) fn bound(marks: &WatermarkView, isolation: Isolation) -> Offset {
    match isolation {
        Isolation::ReadUncommitted => marks.high_watermark,
        Isolation::ReadCommitted => marks.last_stable,
    }
}

/// The error for an offset that cannot be read.
pub(super) fn out_of_range(served: &Served, offset: Offset, marks: &WatermarkView) -> Error {
    Error::OffsetOutOfRange {
        partition: served.id().clone(),
        offset,
        log_start: marks.log_start,
        high_watermark: marks.high_watermark,
    }
}

/// One read of one partition, within what its reader may see.
#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) read: Read,
    pub(super) isolation: Isolation,
    pub(super) max_decompressed_bytes: u32,
}

impl Stretch {
    /// Makes the answer of what was read from the archive.
    pub(super) fn answer(self, served: &Served, slice: Slice, aborted: Vec<AbortedTransaction>) -> Chunk {
        let Read {
            from,
            until,
            times,
            max_bytes,
            first,
        } = self.read;
        let log = &served.log;
        let marks = log.watermarks();
        let named = |aborted: AbortedTransaction| Aborted {
            producer_id: aborted.producer_id,
            first_offset: aborted.first_offset,
        };
        // Asked after the read: what a pass took away before it is told.
        let below = log.compacted_below();
        let mut chunk = Chunk {
            partition: served.id().clone(),
            batches: slice.bytes,
            from,
            until,
            times,
            aborted: aborted.into_iter().map(named).collect(),
            next_offset: slice.next_offset,
            behind: slice.behind,
            high_watermark: marks.high_watermark,
            last_stable: marks.last_stable,
            log_start: marks.log_start,
            compacted_below: below.records,
            tombstones_gone_below: below.tombstones,
            max_decompressed_bytes: self.max_decompressed_bytes,
        };
        chunk.cut_to(max_bytes, first);
        chunk
    }

    /// Reads it. May touch a disk, unless `until` is not past `from`.
    pub(super) fn chunk(self, served: &Served) -> Result<Chunk, Error> {
        let log = &served.log;
        let Read { from, until, .. } = self.read;
        let marks = log.watermarks();
        let failed = |error| translate::read(served.id(), error, marks.high_watermark);
        let (slice, aborted) = if from >= until {
            (Slice::nothing(from), Vec::new())
        } else {
            match self.isolation {
                Isolation::ReadCommitted => log.read_committed(&self.read).map_err(failed)?,
                Isolation::ReadUncommitted => (log.read(&self.read).map_err(failed)?, Vec::new()),
            }
        };
        Ok(self.answer(served, slice, aborted))
    }
}
