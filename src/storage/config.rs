//! Settings of one log: the part of a topic's settings that concerns storage, already validated.

use std::sync::Arc;

use super::hold::Hold;

/// How old data leaves a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CleanupPolicy {
    /// It does not.
    Keep,
    /// By age and size.
    Delete,
    /// All but the newest record of each key.
    Compact,
    /// Both.
    CompactAndDelete,
}

impl CleanupPolicy {
    /// True where the newest record of each key is what stays, so that every record needs a key.
    pub fn compacts(self) -> bool {
        matches!(self, Self::Compact | Self::CompactAndDelete)
    }

    /// True where age and size delete.
    pub fn deletes(self) -> bool {
        matches!(self, Self::Delete | Self::CompactAndDelete)
    }
}

/// When age and size delete, where the policy has them delete; `None` is "never".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Retention {
    /// Segments older than so many milliseconds go.
    pub ms: Option<i64>,
    /// The oldest segments go while the log keeps at least so many bytes.
    pub bytes: Option<u64>,
}

/// When and how keys are compacted, where the policy has them compacted.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Compaction {
    /// Share of the log, 0.0 to 1.0, that must be dirty before a pass is worth it.
    pub min_dirty_ratio: f64,
    /// So many milliseconds after its append a record is safe from compaction.
    pub min_lag_ms: i64,
    /// So many milliseconds after the append of a newer record of its key at the latest a record is gone; `i64::MAX` is no promise.
    pub max_lag_ms: i64,
    /// How long a tombstone stays after the pass that met it first, in milliseconds.
    pub delete_retention_ms: i64,
}

impl Default for Compaction {
    fn default() -> Self {
        Self {
            min_dirty_ratio: 0.5,
            min_lag_ms: 0,
            max_lag_ms: i64::MAX,
            delete_retention_ms: 24 * 60 * 60 * 1000,
        }
    }
}

/// Which confirmation moves the high watermark (DESIGN invariant 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// The append; the sync follows `flush.ms` and `flush.messages`.
    Written,
    /// A group-committed sync.
    Synced,
}

/// Settings of one log, under the meanings of Kafka's topic settings.
#[derive(Clone, PartialEq, Debug)]
pub struct LogConfig {
    /// Greatest size of a segment's `.log`, in bytes.
    pub segment_bytes: u32,
    /// Greatest span of a segment, in milliseconds.
    pub segment_ms: i64,
    /// Up to so many milliseconds are taken off `segment_ms`, differently for each segment.
    pub segment_jitter_ms: i64,
    /// Greatest size of each index, in bytes.
    pub segment_index_bytes: u32,
    /// Bytes of log between two index entries.
    pub index_interval_bytes: u32,
    /// What moves the high watermark.
    pub durability: Durability,
    /// With [`Durability::Written`]: sync after so many records; `i64::MAX` is never.
    pub flush_messages: i64,
    /// With [`Durability::Written`]: sync so many milliseconds after the append; `i64::MAX` is never.
    pub flush_ms: i64,
    /// Forget a producer so many milliseconds after its last batch.
    pub producer_id_expiration_ms: i64,
    /// Greatest decompressed size of one batch when its records must be looked at, in bytes.
    pub max_decompressed_bytes: u32,
    /// How old data leaves.
    pub cleanup: CleanupPolicy,
    /// When it is deleted.
    pub retention: Retention,
    /// When it is compacted.
    pub compaction: Compaction,
    /// Ranges that no policy takes anything from.
    pub holds: Arc<[Hold]>,
    /// Of a log whose sealed segments go to the archive: when they leave the local disk once they are there.
    pub archived: Option<Retention>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 60 * 60 * 1000,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            durability: Durability::Synced,
            flush_messages: i64::MAX,
            flush_ms: i64::MAX,
            producer_id_expiration_ms: 24 * 60 * 60 * 1000,
            max_decompressed_bytes: 64 << 20,
            cleanup: CleanupPolicy::Delete,
            retention: Retention::default(),
            compaction: Compaction::default(),
            holds: Arc::default(),
            archived: None,
        }
    }
}
