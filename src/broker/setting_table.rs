//! The table of topic settings: name, kind, default, broker-level names and a line of doc for each. It alone decides
//! which settings exist; `settings` reads it.
//!
//! Names and meanings are Kafka's. What differs, and why
//! - `retention.ms` is -1: this store keeps.
//! - `segment.bytes` may be as small as 16 KiB (Kafka 4: 1 MiB), so that a test needs little data for many segments.
//! - `segment.index.bytes` is at least 1 KiB, so that an index holds more than a few entries.
//! - `max.message.bytes` is at most 512 MiB: recovery takes a larger batch for damage.
//! - `min.insync.replicas` is 1: there is one copy, on disk.
//! - `durability` and `tier.max.lag.ms` are ours; `remote.storage.enable` is `auto` where nobody says otherwise.
//!
//! What is not here: Kafka's settings that would have no effect (`file.delete.delay.ms`, `preallocate`,
//! `unclean.leader.election.enable`, replication throttles, `compression.lz4.level`: lz4 has one level here); they are refused like unknown names, because accepting what
//! does nothing is a promise not kept.

use crate::record::MAX_BATCH_BYTES;

/// What values a setting takes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Kind {
    /// A whole number, both ends included.
    Whole {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// A number with a fraction, both ends included.
    Fraction {
        /// The least.
        min: f64,
        /// The greatest.
        max: f64,
    },
    /// One of these words.
    Word(&'static [&'static str]),
    /// Any of these words, joined by commas; none is allowed.
    Words(&'static [&'static str]),
}

/// A broker-level name under which the server's configuration may give a default.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Synonym {
    /// The name.
    pub name: &'static str,
    /// What its value is multiplied with to have the setting's unit; a negative value stays as it is.
    pub factor: i64,
}

/// One setting.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Setting {
    /// Kafka's topic-level name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// As text.
    pub default: &'static str,
    /// The first that the server's configuration sets wins; the topic-level name itself comes before all.
    pub synonyms: &'static [Synonym],
    /// One line.
    pub doc: &'static str,
}

pub(super) const CLEANUP_POLICY: &str = "cleanup.policy";
pub(super) const RETENTION_MS: &str = "retention.ms";
pub(super) const RETENTION_BYTES: &str = "retention.bytes";
pub(super) const SEGMENT_BYTES: &str = "segment.bytes";
pub(super) const SEGMENT_MS: &str = "segment.ms";
pub(super) const SEGMENT_JITTER_MS: &str = "segment.jitter.ms";
pub(super) const SEGMENT_INDEX_BYTES: &str = "segment.index.bytes";
pub(super) const INDEX_INTERVAL_BYTES: &str = "index.interval.bytes";
pub(super) const MAX_MESSAGE_BYTES: &str = "max.message.bytes";
pub(super) const COMPRESSION_TYPE: &str = "compression.type";
pub(super) const COMPRESSION_GZIP_LEVEL: &str = "compression.gzip.level";
pub(super) const COMPRESSION_ZSTD_LEVEL: &str = "compression.zstd.level";
pub(super) const TIMESTAMP_TYPE: &str = "message.timestamp.type";
pub(super) const TIMESTAMP_BEFORE_MAX_MS: &str = "message.timestamp.before.max.ms";
pub(super) const TIMESTAMP_AFTER_MAX_MS: &str = "message.timestamp.after.max.ms";
pub(super) const MIN_CLEANABLE_DIRTY_RATIO: &str = "min.cleanable.dirty.ratio";
pub(super) const MIN_COMPACTION_LAG_MS: &str = "min.compaction.lag.ms";
pub(super) const MAX_COMPACTION_LAG_MS: &str = "max.compaction.lag.ms";
pub(super) const DELETE_RETENTION_MS: &str = "delete.retention.ms";
pub(super) const FLUSH_MESSAGES: &str = "flush.messages";
pub(super) const FLUSH_MS: &str = "flush.ms";
pub(super) const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";
pub(super) const DURABILITY: &str = "durability";
pub(super) const REMOTE_STORAGE_ENABLE: &str = "remote.storage.enable";
pub(super) const LOCAL_RETENTION_MS: &str = "local.retention.ms";
pub(super) const LOCAL_RETENTION_BYTES: &str = "local.retention.bytes";
pub(super) const TIER_MAX_LAG_MS: &str = "tier.max.lag.ms";

/// What a topic admits, recovery must take for a batch and not for damage.
const MESSAGE_MAX: i64 = MAX_BATCH_BYTES as i64;
const INT_MAX: i64 = 2_147_483_647;
const LONG_MAX: &str = "9223372036854775807";
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

const fn whole(min: i64, max: i64) -> Kind {
    Kind::Whole { min, max }
}

const fn same_unit(name: &'static str) -> Synonym {
    Synonym { name, factor: 1 }
}

/// Every setting, ascending by name.
pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: CLEANUP_POLICY,
        kind: Kind::Words(&["delete", "compact"]),
        default: "delete",
        synonyms: &[same_unit("log.cleanup.policy")],
        doc: "How old data leaves: delete (by retention.*), compact (all but the newest of each key), both, or empty: never.",
    },
    Setting {
        name: COMPRESSION_GZIP_LEVEL,
        kind: whole(-1, 9),
        default: "-1",
        synonyms: &[],
        doc: "Level with which the server compresses by gzip, where it must; -1 is gzip's own default, else 1 to 9.",
    },
    Setting {
        name: COMPRESSION_TYPE,
        kind: Kind::Word(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]),
        default: "producer",
        synonyms: &[],
        doc: "Codec of stored batches; producer keeps each as it was sent.",
    },
    Setting {
        name: COMPRESSION_ZSTD_LEVEL,
        kind: whole(-131_072, 22),
        default: "3",
        synonyms: &[],
        doc: "Level with which the server compresses by zstd, where it must.",
    },
    Setting {
        name: DELETE_RETENTION_MS,
        kind: whole(0, i64::MAX),
        default: "86400000",
        synonyms: &[same_unit("log.cleaner.delete.retention.ms")],
        doc: "How long a tombstone stays readable after compaction met it, in milliseconds.",
    },
    Setting {
        name: DURABILITY,
        kind: Kind::Word(&["synced", "written"]),
        default: "synced",
        synonyms: &[],
        doc: "What acks=all waits for and readers see: synced to disk, or written to the operating system, where a power loss may take the newest records.",
    },
    Setting {
        name: FLUSH_MESSAGES,
        kind: whole(1, i64::MAX),
        default: LONG_MAX,
        synonyms: &[same_unit("log.flush.interval.messages")],
        doc: "With durability=written: sync at the latest after this many records.",
    },
    Setting {
        name: FLUSH_MS,
        kind: whole(0, i64::MAX),
        default: LONG_MAX,
        synonyms: &[
            same_unit("log.flush.interval.ms"),
            same_unit("log.flush.scheduler.interval.ms"),
        ],
        doc: "With durability=written: sync at the latest after this many milliseconds.",
    },
    Setting {
        name: INDEX_INTERVAL_BYTES,
        kind: whole(0, INT_MAX),
        default: "4096",
        synonyms: &[same_unit("log.index.interval.bytes")],
        doc: "Bytes of log between two entries of the offset index.",
    },
    Setting {
        name: LOCAL_RETENTION_BYTES,
        kind: whole(-2, i64::MAX),
        default: "-2",
        synonyms: &[same_unit("log.local.retention.bytes")],
        doc: "Size above which a partition's oldest segments leave the local disk once the archive has them, in bytes; -2 is retention.bytes, -1 keeps.",
    },
    Setting {
        name: LOCAL_RETENTION_MS,
        kind: whole(-2, i64::MAX),
        default: "-2",
        synonyms: &[same_unit("log.local.retention.ms")],
        doc: "Age above which segments leave the local disk once the archive has them, in milliseconds; -2 is retention.ms, -1 keeps.",
    },
    Setting {
        name: MAX_COMPACTION_LAG_MS,
        kind: whole(1, i64::MAX),
        default: LONG_MAX,
        synonyms: &[same_unit("log.cleaner.max.compaction.lag.ms")],
        doc: "How long a record may outlive a newer one of its key, in milliseconds; also caps segment.ms.",
    },
    Setting {
        name: MAX_MESSAGE_BYTES,
        kind: whole(0, MESSAGE_MAX),
        default: "1048588",
        synonyms: &[same_unit("message.max.bytes")],
        doc: "Largest batch admitted, in bytes, as stored: after compression.",
    },
    Setting {
        name: TIMESTAMP_AFTER_MAX_MS,
        kind: whole(0, i64::MAX),
        default: "3600000",
        synonyms: &[same_unit("log.message.timestamp.after.max.ms")],
        doc: "How far a record's timestamp may lie after the server's clock, in milliseconds.",
    },
    Setting {
        name: TIMESTAMP_BEFORE_MAX_MS,
        kind: whole(0, i64::MAX),
        default: LONG_MAX,
        synonyms: &[same_unit("log.message.timestamp.before.max.ms")],
        doc: "How far a record's timestamp may lie before the server's clock, in milliseconds.",
    },
    Setting {
        name: TIMESTAMP_TYPE,
        kind: Kind::Word(&["CreateTime", "LogAppendTime"]),
        default: "CreateTime",
        synonyms: &[same_unit("log.message.timestamp.type")],
        doc: "Whose time a record carries: its creator's, or the server's at the append.",
    },
    Setting {
        name: MIN_CLEANABLE_DIRTY_RATIO,
        kind: Kind::Fraction { min: 0.0, max: 1.0 },
        default: "0.5",
        synonyms: &[same_unit("log.cleaner.min.cleanable.ratio")],
        doc: "Share of the log that must be uncompacted before compaction looks at it.",
    },
    Setting {
        name: MIN_COMPACTION_LAG_MS,
        kind: whole(0, i64::MAX),
        default: "0",
        synonyms: &[same_unit("log.cleaner.min.compaction.lag.ms")],
        doc: "How long a record is safe from compaction, in milliseconds.",
    },
    Setting {
        name: MIN_INSYNC_REPLICAS,
        kind: whole(1, 1),
        default: "1",
        synonyms: &[],
        doc: "Copies that acks=all waits for; the disk is the one there is.",
    },
    Setting {
        name: REMOTE_STORAGE_ENABLE,
        kind: Kind::Word(&["auto", "true", "false"]),
        default: "auto",
        synonyms: &[],
        doc: "Whether segments go to the archive of a server that has one; auto is what the server's tier.topics says.",
    },
    Setting {
        name: RETENTION_BYTES,
        kind: whole(-1, i64::MAX),
        default: "-1",
        synonyms: &[same_unit("log.retention.bytes")],
        doc: "Size above which a partition's oldest segments are deleted, in bytes; -1 keeps.",
    },
    Setting {
        name: RETENTION_MS,
        kind: whole(-1, i64::MAX),
        default: "-1",
        synonyms: &[
            same_unit("log.retention.ms"),
            Synonym {
                name: "log.retention.minutes",
                factor: MINUTE_MS,
            },
            Synonym {
                name: "log.retention.hours",
                factor: HOUR_MS,
            },
        ],
        doc: "Age above which segments are deleted, in milliseconds; -1 keeps.",
    },
    Setting {
        name: SEGMENT_BYTES,
        kind: whole(16_384, INT_MAX),
        default: "1073741824",
        synonyms: &[same_unit("log.segment.bytes")],
        doc: "Size at which a new segment is begun, in bytes.",
    },
    Setting {
        name: SEGMENT_INDEX_BYTES,
        kind: whole(1_024, INT_MAX),
        default: "10485760",
        synonyms: &[same_unit("log.index.size.max.bytes")],
        doc: "Size of an index at which a new segment is begun, in bytes.",
    },
    Setting {
        name: SEGMENT_JITTER_MS,
        kind: whole(0, i64::MAX),
        default: "0",
        synonyms: &[
            same_unit("log.roll.jitter.ms"),
            Synonym {
                name: "log.roll.jitter.hours",
                factor: HOUR_MS,
            },
        ],
        doc: "Random part taken off segment.ms, so that partitions do not all roll at once, in milliseconds.",
    },
    Setting {
        name: SEGMENT_MS,
        kind: whole(1, i64::MAX),
        default: "604800000",
        synonyms: &[
            same_unit("log.roll.ms"),
            Synonym {
                name: "log.roll.hours",
                factor: HOUR_MS,
            },
        ],
        doc: "Age at which a new segment is begun, in milliseconds.",
    },
    Setting {
        name: TIER_MAX_LAG_MS,
        kind: whole(100, i64::MAX),
        default: "60000",
        synonyms: &[],
        doc: "How far the archive may be behind, in milliseconds: a segment is sealed for it when its first record is as old.",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_no_name_means_two_settings() {
        assert!(SETTINGS.is_sorted_by(|a, b| a.name < b.name));
        let mut names: Vec<_> = SETTINGS
            .iter()
            .flat_map(|setting| {
                std::iter::once(setting.name).chain(setting.synonyms.iter().map(|synonym| synonym.name))
            })
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
