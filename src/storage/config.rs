//! Settings of one log: the part of a topic's settings that concerns storage, already validated.

/// Which confirmation moves the high watermark (DESIGN invariant 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// The append; the sync follows `flush.ms` and `flush.messages`.
    Written,
    /// A group-committed sync.
    Synced,
}

/// Settings of one log, under the meanings of Kafka's topic settings.
#[derive(Clone, PartialEq, Eq, Debug)]
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
        }
    }
}
