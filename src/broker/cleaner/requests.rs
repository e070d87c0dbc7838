//! What is asked about compaction and what is answered: plain values, the same for every door.

use crate::broker::{PartitionArchive, TopicHold};
use crate::storage::DamagedPlace;
use crate::types::{Offset, PartitionId, Timestamp, TopicName};

/// A wish to compact partitions of a topic now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompactNow {
    /// Which topic.
    pub topic: TopicName,
    /// Which partitions; empty means all.
    pub partitions: Vec<PartitionId>,
}

/// How long the answer may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CompactWait {
    /// As long as the work takes.
    UntilDone,
    /// At most so many milliseconds; the work goes on.
    AtMostMs(u64),
}

/// How a command stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompactionJob {
    /// Its number, to ask again.
    pub handle: u64,
    /// Which topic.
    pub topic: TopicName,
    /// Ascending by number.
    pub partitions: Vec<PartitionJob>,
}

impl CompactionJob {
    /// Returns true once every partition is done or has failed.
    pub fn is_over(&self) -> bool {
        self.partitions.iter().all(PartitionJob::is_over)
    }
}

impl PartitionJob {
    /// Returns true once it is done or has failed.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, JobState::Done { .. } | JobState::Failed { .. })
    }
}

/// One partition of a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionJob {
    /// Which.
    pub partition: PartitionId,
    /// How far it is.
    pub state: JobState,
    /// Bytes of its log when the work began.
    pub before_bytes: u64,
    /// Bytes of its log now, or when it was done.
    pub after_bytes: u64,
    /// Passes that came to their end.
    pub passes: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Records with a value that the last pass kept.
    pub values_kept: u64,
    /// Tombstones that the last pass kept.
    pub tombstones_kept: u64,
    /// Records that all passes dropped.
    pub records_dropped: u64,
}

/// How far a partition of a command is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JobState {
    /// A thread will take it.
    Waiting,
    /// A pass is under way.
    Running {
        /// Bytes read and written so far.
        done_bytes: u64,
        /// Bytes to read and write in all, estimated.
        total_bytes: u64,
    },
    /// It is compacted, as far as it may be.
    Done {
        /// Why not further, if not to the end.
        left: Option<String>,
    },
    /// It could not be done. The schedule tries again by itself.
    Failed {
        /// What went wrong.
        reason: String,
    },
}

/// What is known of the compaction of one partition.
#[derive(Clone, PartialEq, Debug)]
pub struct CompactionExplanation {
    /// Which.
    pub partition: PartitionId,
    /// The first offset of the log.
    pub log_start: Offset,
    /// Everything before it is clean.
    pub cleaner_point: Offset,
    /// A pass would go no further.
    pub first_uncleanable: Offset,
    /// The first offset of the segment that takes appends.
    pub active_start: Offset,
    /// The next offset to be assigned.
    pub log_end: Offset,
    /// Bytes that are clean.
    pub clean_bytes: u64,
    /// Bytes that are dirty and may be cleaned.
    pub dirty_bytes: u64,
    /// Bytes that may not be cleaned yet.
    pub uncleanable_bytes: u64,
    /// Dirty bytes by clean and dirty bytes.
    pub dirty_ratio: f64,
    /// From which ratio on a pass is worth it.
    pub min_dirty_ratio: f64,
    /// How long ago the oldest dirty record was appended, in milliseconds, or somewhat longer. Whether it, or anything, is
    /// shadowed is not known before a pass; what is, is so for no longer than this.
    pub oldest_dirty_age_ms: Option<i64>,
    /// Live keys and tombstones, see [`KeyCounts::exactness`]; unknown until a pass came to its end.
    pub keys: Option<KeyCounts>,
    /// The last pass that came to its end, since the start.
    pub last_pass: Option<LastPass>,
    /// What went wrong since.
    pub last_error: Option<PassError>,
    /// The pass under way.
    pub running: Option<Running>,
    /// When the next pass begins, as far as time alone decides; now, where one is due.
    pub next_run: Option<Timestamp>,
    /// Why no pass runs now; `None` while one does, or is about to.
    pub why_not_now: Option<String>,
    /// Until then the promise of `max.compaction.lag.ms` holds without a pass.
    pub promise_deadline: Option<Timestamp>,
    /// Set while that promise is broken, whatever broke it; while the I/O budget would break it, and the pass goes beyond the
    /// budget; and where the settings leave no room for it.
    pub budget_alarm: Option<String>,
}

/// How many keys a log holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyCounts {
    /// Keys whose newest record has a value.
    pub live: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Whether that is so, or was so up to the cleaner point.
    pub exactness: Exactness,
}

/// How much a count can be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exactness {
    /// The log is clean to its end, and the pass that made it so counted all of it.
    Exact,
    /// Counted by the last pass; what was written since is not in it, and what was deleted since is.
    Estimated,
}

/// A pass that came to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LastPass {
    /// When it began.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Bytes by which the log became smaller.
    pub saved_bytes: u64,
    /// Records kept.
    pub records_kept: u64,
    /// Records dropped.
    pub records_dropped: u64,
    /// Places that are not sound batches, kept byte for byte.
    pub damaged_places: u64,
    /// The first of them.
    pub damaged: Vec<DamagedPlace>,
    /// Set where the map did not hold all keys.
    pub rounds_left: Option<RoundsLeft>,
}

/// Why one pass was not enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoundsLeft {
    /// How many more are needed, estimated.
    pub estimate: u32,
    /// The keys that the map holds.
    pub map_keys: u64,
}

/// A pass that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PassError {
    /// When it began.
    pub at: Timestamp,
    /// What went wrong, and on which file.
    pub reason: String,
    /// Tries that failed in a row.
    pub failures: u32,
    /// When it is tried again.
    pub retry_at: Timestamp,
}

/// A pass under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Running {
    /// When the work began.
    pub since: Timestamp,
    /// Bytes read and written so far.
    pub done_bytes: u64,
    /// Bytes to read and write in all, estimated.
    pub total_bytes: u64,
}

/// A partition's log, segment by segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogDescription {
    /// Which.
    pub partition: PartitionId,
    /// In the order of their offsets.
    pub segments: Vec<LogSegment>,
    /// The first offset that can be read.
    pub log_start: Offset,
    /// Everything before it is clean.
    pub cleaner_point: Offset,
    /// Below it no transaction is open.
    pub last_stable: Offset,
    /// The first offset that cannot be read yet.
    pub high_watermark: Offset,
    /// Everything before it is on disk.
    pub recovery_point: Offset,
    /// The next offset to be assigned.
    pub log_end: Offset,
    /// History before it may be compacted.
    pub compacted_below: Offset,
    /// Tombstones before it may be gone.
    pub tombstones_gone_below: Offset,
    /// Ranges that no policy takes anything from.
    pub holds: Vec<TopicHold>,
    /// The first offset on the local disk; what lies before it is only in the archive.
    pub local_start: Offset,
    /// How it stands in the archive, if it has to do with one.
    pub archive: Option<PartitionArchive>,
}

/// One segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogSegment {
    /// The first offset that may lie in it.
    pub base: Offset,
    /// The offset after its last.
    pub next: Offset,
    /// Bytes of its batches.
    pub size_bytes: u64,
    /// When its first batch was appended, where known.
    pub first_append: Option<Timestamp>,
    /// When its last batch was appended, where known.
    pub last_append: Option<Timestamp>,
    /// Where it stands.
    pub state: SegmentState,
}

/// Where a segment stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegmentState {
    /// Sealed, and clean as a whole.
    Clean,
    /// Sealed, with something that no pass has seen.
    Dirty,
    /// It takes appends.
    Active,
}
