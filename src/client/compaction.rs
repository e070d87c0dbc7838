//! Compaction by command, and what the server says of its own.

use super::{Client, Error};
use crate::proto::v1;
use crate::types::{Offset, PartitionId, Timestamp};

/// How a command to compact stands.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// let compaction = client.compact_now("planes").await?;
/// let compaction = client.compaction_of(compaction.handle, 10_000).await?;
/// println!("{}", if compaction.complete { "done" } else { "under way" });
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compaction {
    /// To ask again.
    pub handle: u64,
    /// True when every partition is done or has failed.
    pub complete: bool,
    /// Ascending by number.
    pub partitions: Vec<PartitionCompaction>,
}

/// One partition of a command.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// for partition in client.compact_now("planes").await?.partitions {
///     println!("{}: {} of {} bytes left", partition.partition, partition.after_bytes, partition.before_bytes);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionCompaction {
    /// Its number.
    pub partition: PartitionId,
    /// How far it is.
    pub state: CompactionState,
    /// Bytes of the log when the work began.
    pub before_bytes: i64,
    /// Bytes of the log when it ended.
    pub after_bytes: i64,
    /// Passes that came to their end.
    pub passes: i32,
    /// Bytes read.
    pub read_bytes: i64,
    /// Bytes written.
    pub written_bytes: i64,
    /// Records with a value that the last pass kept.
    pub values_kept: i64,
    /// Tombstones that the last pass kept.
    pub tombstones_kept: i64,
    /// Records that all passes dropped.
    pub records_dropped: i64,
}

/// How far a partition is.
///
/// ```
/// use siltstone::client::CompactionState;
///
/// fn line(state: &CompactionState) -> String {
///     match state {
///         CompactionState::Waiting => "waiting".to_owned(),
///         CompactionState::Running { done_bytes, total_bytes } => format!("{done_bytes} of {total_bytes} bytes"),
///         CompactionState::Done(why_not_all) => why_not_all.clone().unwrap_or("done".to_owned()),
///         CompactionState::Failed(why) => format!("failed: {why}"),
///     }
/// }
/// assert_eq!(line(&CompactionState::Done(None)), "done");
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CompactionState {
    /// A thread of the server will take it.
    Waiting,
    /// A pass is under way.
    Running {
        /// Bytes so far.
        done_bytes: i64,
        /// Bytes in all, estimated.
        total_bytes: i64,
    },
    /// Compacted; the text says why not to the end, where it is not.
    Done(Option<String>),
    /// Why it failed.
    Failed(String),
}

/// What is known of the compaction of a partition.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// for partition in client.explain_compaction("planes").await? {
///     println!("{:.2} dirty; {:?}", partition.dirty_ratio, partition.why_not_now);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct CompactionExplanation {
    /// Its number.
    pub partition: PartitionId,
    /// The first offset of the log.
    pub log_start: Offset,
    /// Everything before it is clean.
    pub cleaner_point: Offset,
    /// A pass would go no further.
    pub first_uncleanable: Offset,
    /// Where the segment begins that takes appends.
    pub active_start: Offset,
    /// Where the next record goes.
    pub log_end: Offset,
    /// Bytes that are clean.
    pub clean_bytes: i64,
    /// Bytes that a pass may clean.
    pub dirty_bytes: i64,
    /// Bytes that a pass may not clean yet.
    pub uncleanable_bytes: i64,
    /// Dirty bytes by clean and dirty bytes.
    pub dirty_ratio: f64,
    /// From which ratio on a pass is worth it.
    pub min_dirty_ratio: f64,
    /// How long ago the oldest dirty record was appended.
    pub oldest_dirty_age_ms: Option<i64>,
    /// Live keys and tombstones, once a pass counted.
    pub keys: Option<KeyCounts>,
    /// The last pass since the server's start.
    pub last_pass: Option<LastPass>,
    /// What went wrong since.
    pub last_error: Option<PassError>,
    /// The pass under way.
    pub running: Option<RunningPass>,
    /// When the next begins, as far as time alone decides.
    pub next_run: Option<Timestamp>,
    /// Why none runs now.
    pub why_not_now: Option<String>,
    /// Until then the promise of `max.compaction.lag.ms` holds without a pass.
    pub promise_deadline: Option<Timestamp>,
    /// Set while the I/O budget would break it.
    pub budget_alarm: Option<String>,
}

/// How many keys a log holds.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// for partition in client.explain_compaction("planes").await? {
///     if let Some(keys) = partition.keys {
///         println!("{}{} keys", if keys.exact { "" } else { "about " }, keys.live);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyCounts {
    /// Keys whose newest record has a value.
    pub live: i64,
    /// Tombstones.
    pub tombstones: i64,
    /// False where records were written since they were counted.
    pub exact: bool,
}

/// A pass that came to its end.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// for partition in client.explain_compaction("planes").await? {
///     if let Some(pass) = partition.last_pass {
///         println!("{} bytes saved in {} ms", pass.saved_bytes, pass.took_ms);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastPass {
    /// When it began.
    pub began: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: i64,
    /// Bytes read.
    pub read_bytes: i64,
    /// Bytes written.
    pub written_bytes: i64,
    /// Bytes by which the log became smaller.
    pub saved_bytes: i64,
    /// Records kept.
    pub records_kept: i64,
    /// Records dropped.
    pub records_dropped: i64,
    /// Places that are not sound batches.
    pub damaged_places: i64,
    /// How many more passes are needed, estimated.
    pub rounds_left: i64,
    /// The keys that the map holds, where it did not hold all.
    pub map_keys: i64,
    /// The first of the damaged places.
    pub damaged: Vec<DamagedPlace>,
}

/// Bytes of a log that are not sound batches.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// for pass in client.explain_compaction("planes").await?.into_iter().filter_map(|one| one.last_pass) {
///     for place in pass.damaged {
///         println!("{} bytes at {} of {}: {}", place.len_bytes, place.position, place.path, place.reason);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedPlace {
    /// The file, on the server.
    pub path: String,
    /// Where in it, in bytes.
    pub position: i64,
    /// How many bytes.
    pub len_bytes: i64,
    /// The first offset that may be affected.
    pub offset: Offset,
    /// Which check failed.
    pub reason: String,
}

/// A pass that failed.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// for error in client.explain_compaction("planes").await?.into_iter().filter_map(|one| one.last_error) {
///     println!("{} times: {}; again at {}", error.failures, error.reason, error.retry_at);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PassError {
    /// When.
    pub at: Timestamp,
    /// What went wrong.
    pub reason: String,
    /// Failures in a row.
    pub failures: i32,
    /// When it is tried again.
    pub retry_at: Timestamp,
}

/// A pass under way.
///
/// ```no_run
/// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
/// for pass in client.explain_compaction("planes").await?.into_iter().filter_map(|one| one.running) {
///     println!("{} of {} bytes since {}", pass.done_bytes, pass.total_bytes, pass.since);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunningPass {
    /// Since when.
    pub since: Timestamp,
    /// Bytes so far.
    pub done_bytes: i64,
    /// Bytes in all, estimated.
    pub total_bytes: i64,
}

impl Client {
    /// Begins to compact all partitions of a topic; returns at once.
    ///
    /// ```no_run
    /// # async fn example(client: &siltstone::client::Client) -> Result<(), siltstone::client::Error> {
    /// let mut compaction = client.compact_now("planes").await?;
    /// while !compaction.complete {
    ///     compaction = client.compaction_of(compaction.handle, 10_000).await?;
    /// }
    /// for partition in &compaction.partitions {
    ///     println!("{}: {} bytes, were {}", partition.partition, partition.after_bytes, partition.before_bytes);
    /// }
    /// println!("{:?}", client.explain_compaction("planes").await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a topic that is not compacted.
    pub async fn compact_now(&self, topic: &str) -> Result<Compaction, Error> {
        self.compaction(v1::CompactNowRequest {
            topic: topic.to_owned(),
            max_wait_ms: Some(0),
            ..v1::CompactNowRequest::default()
        })
        .await
    }

    /// Returns how a command stands: when all is done, or after `max_wait_ms`.
    ///
    /// # Errors
    /// `InvalidArgument` for a handle that the server does not know, or no longer.
    pub async fn compaction_of(&self, handle: u64, max_wait_ms: u32) -> Result<Compaction, Error> {
        self.compaction(v1::CompactNowRequest {
            handle: Some(handle),
            max_wait_ms: Some(max_wait_ms),
            ..v1::CompactNowRequest::default()
        })
        .await
    }

    async fn compaction(&self, request: v1::CompactNowRequest) -> Result<Compaction, Error> {
        let mut page = self.answer(self.admin().compact_now(request)).await?;
        let (handle, complete) = (page.handle, page.complete);
        let mut partitions = page.partitions;
        let mut first_partition = 0;
        while let Some(next) = page.next_partition {
            first_partition = self.further(&first_partition, next)?;
            let request = v1::CompactNowRequest {
                handle: Some(handle),
                max_wait_ms: Some(0),
                first_partition,
                ..v1::CompactNowRequest::default()
            };
            page = self.answer(self.admin().compact_now(request)).await?;
            partitions.extend(std::mem::take(&mut page.partitions));
        }
        Ok(Compaction {
            handle,
            complete,
            partitions: partitions.into_iter().map(partition).collect(),
        })
    }

    /// Explains the compaction of all partitions of a topic.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn explain_compaction(&self, topic: &str) -> Result<Vec<CompactionExplanation>, Error> {
        let mut request = v1::ExplainCompactionRequest {
            topic: topic.to_owned(),
            ..v1::ExplainCompactionRequest::default()
        };
        let mut explained = Vec::new();
        loop {
            let page = self
                .answer(self.admin().explain_compaction(request.clone()))
                .await?;
            explained.extend(page.partitions.into_iter().map(explanation));
            match page.next_partition {
                None => return Ok(explained),
                Some(next) => request.first_partition = self.further(&request.first_partition, next)?,
            }
        }
    }
}

fn partition(one: v1::PartitionCompaction) -> PartitionCompaction {
    let state = match one.state() {
        v1::CompactionState::Waiting => CompactionState::Waiting,
        v1::CompactionState::Running => CompactionState::Running {
            done_bytes: one.done_bytes,
            total_bytes: one.total_bytes,
        },
        v1::CompactionState::Done => CompactionState::Done(said(one.reason)),
        v1::CompactionState::Failed => CompactionState::Failed(one.reason),
    };
    PartitionCompaction {
        partition: PartitionId(one.partition),
        state,
        before_bytes: one.before_bytes,
        after_bytes: one.after_bytes,
        passes: one.passes,
        read_bytes: one.read_bytes,
        written_bytes: one.written_bytes,
        values_kept: one.values_kept,
        tombstones_kept: one.tombstones_kept,
        records_dropped: one.records_dropped,
    }
}

fn explanation(told: v1::CompactionExplanation) -> CompactionExplanation {
    CompactionExplanation {
        partition: PartitionId(told.partition),
        log_start: Offset(told.log_start_offset),
        cleaner_point: Offset(told.cleaner_point),
        first_uncleanable: Offset(told.first_uncleanable_offset),
        active_start: Offset(told.active_start_offset),
        log_end: Offset(told.log_end_offset),
        clean_bytes: told.clean_bytes,
        dirty_bytes: told.dirty_bytes,
        uncleanable_bytes: told.uncleanable_bytes,
        dirty_ratio: told.dirty_ratio,
        min_dirty_ratio: told.min_dirty_ratio,
        oldest_dirty_age_ms: told.oldest_dirty_age_ms,
        keys: told.keys.map(|keys| KeyCounts {
            live: keys.live,
            tombstones: keys.tombstones,
            exact: keys.exact,
        }),
        last_pass: told.last_pass.map(last_pass),
        last_error: told.last_error.map(|error| PassError {
            at: Timestamp(error.at_ms),
            reason: error.reason,
            failures: error.failures,
            retry_at: Timestamp(error.retry_at_ms),
        }),
        running: told.running.map(|running| RunningPass {
            since: Timestamp(running.since_ms),
            done_bytes: running.done_bytes,
            total_bytes: running.total_bytes,
        }),
        next_run: told.next_run_ms.map(Timestamp),
        why_not_now: said(told.why_not_now),
        promise_deadline: told.promise_deadline_ms.map(Timestamp),
        budget_alarm: said(told.budget_alarm),
    }
}

fn last_pass(pass: v1::LastPass) -> LastPass {
    LastPass {
        began: Timestamp(pass.began_ms),
        took_ms: pass.took_ms,
        read_bytes: pass.read_bytes,
        written_bytes: pass.written_bytes,
        saved_bytes: pass.saved_bytes,
        records_kept: pass.records_kept,
        records_dropped: pass.records_dropped,
        damaged_places: pass.damaged_places,
        rounds_left: pass.rounds_left,
        map_keys: pass.map_keys,
        damaged: pass.damaged.into_iter().map(damaged_place).collect(),
    }
}

fn damaged_place(place: v1::DamagedPlace) -> DamagedPlace {
    DamagedPlace {
        path: place.path,
        position: place.position,
        len_bytes: place.len_bytes,
        offset: Offset(place.offset),
        reason: place.reason,
    }
}

fn said(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}
