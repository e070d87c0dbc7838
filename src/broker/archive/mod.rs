//! The archive: which topics go to the bucket and when, what leaves the local disk then, and reading what only the bucket has.
//!
//! ```text
//!   a roll, every second --- work: which partition; seal it if the bucket is too far behind --- upload --- manifest
//!                             |                                                                            |
//!                             |-- upkeep: catalog, log starts, what is swept, what nobody names            |
//!                             `-- retention (broker, storage): what is there may leave the local disk <----'
//!   fetch, read, lookup --- cold: what lies below the local start
//!   a stop --- work: the rest, for half a minute        every half minute --- is the bucket still ours?
//! ```
//!
//! | lock | guards | held across |
//! |---|---|---|
//! | `partitions` | which partitions have something to do with the bucket | memory work |
//! | `Tiered::ledger` | a partition's manifest as it is written; taken out by whoever writes | memory work: it is out meanwhile |
//! | `Tiered::seen` | the manifest as readers see it | memory work |
//! | `looked` | manifests that a start has read, until it knows the partitions | memory work |
//! | `followed` | topics of another server's catalog when it was last looked at | memory work |
//! | `catalog_state` | failures of the work on the catalog | memory work |
//! | `Tiered::state` | failures, what is stuck, when to try again | memory work |
//!
//! Invariants
//! - Nothing of it is in the way of an append: it reads sealed files, and seals as a full segment does.
//! - A topic is in the catalog before its first segment is in the bucket.
//! - The local part of a segment leaves only after the manifest names it.
//! - Whoever learns that another server owns the bucket publishes nothing any more, and the server stops.
//!
//! A server may also show the archive of another (`mount`): then of all this only `cold` is at work.
//!
//! What is not here: the bucket's format and calls (`tier`), what is sealed, safe and due (`storage`).

#[cfg(not(feature = "tier"))]
mod absent;
#[cfg(feature = "tier")]
mod bucket;
#[cfg(feature = "tier")]
mod cold;
#[cfg(feature = "tier")]
mod mount;
mod patterns;
#[cfg(feature = "tier")]
mod restore;
#[cfg(feature = "tier")]
mod start;
#[cfg(feature = "tier")]
mod status;
#[cfg(feature = "tier")]
mod take_over;
#[cfg(feature = "tier")]
mod upkeep;
#[cfg(feature = "tier")]
mod work;

use std::time::Duration;

use crate::storage::LogConfig;
use crate::types::{Offset, PartitionId, Timestamp, TopicName};

use super::BrokerConfig;
use super::settings::TopicConfig;

#[cfg(not(feature = "tier"))]
pub(super) use absent::Archive;
#[cfg(feature = "tier")]
pub(super) use bucket::Archive;
pub use patterns::TopicPatterns;
#[cfg(feature = "tier")]
pub(super) use restore::Job as RestoreJob;
#[cfg(feature = "tier")]
pub use restore::{RestoreProgress, RestoreReport, RestoredTopic};

/// Whether a server with an empty data directory takes what the archive has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Restore {
    /// It does not.
    #[default]
    Off,
    /// It does; compacted topics come to the local disk, the rest is read from the archive.
    Cold,
    /// It does, and everything comes to the local disk first.
    Download,
}

/// What a server does with its archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Access {
    /// It owns it.
    #[default]
    Own,
    /// It shows another server's, and writes nothing.
    Read,
}

/// Where and what a server archives.
#[derive(Clone, Debug)]
pub struct ArchiveConfig {
    /// The bucket's address; `None`: there is no archive.
    pub url: Option<String>,
    /// Topics that go there unless they say otherwise.
    pub topics: TopicPatterns,
    /// Bytes sent there in a second at most, by all uploads together; 0 is no limit.
    pub upload_max_bytes_per_second: u64,
    /// How long an object stays after the manifest let it go, for readers of an older one.
    pub sweep_delay: Duration,
    /// Whether an empty data directory is filled from the archive.
    pub restore: Restore,
    /// Whether it is this server's archive.
    pub access: Access,
    /// A bucket that is open already; `url` is then no more than its name.
    #[cfg(feature = "tier")]
    pub store: Option<crate::tier::TierStore>,
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        Self {
            url: None,
            topics: TopicPatterns::everything(),
            upload_max_bytes_per_second: 0,
            sweep_delay: Duration::from_secs(60 * 60),
            restore: Restore::Off,
            access: Access::Own,
            #[cfg(feature = "tier")]
            store: None,
        }
    }
}

impl BrokerConfig {
    /// Tells whether segments of a topic go to the bucket.
    pub(super) fn archives(&self, topic: &TopicName, config: &TopicConfig) -> bool {
        let by_rule = || topic.is_internal() || self.archive.topics.matches(topic.as_str());
        self.archive.url.is_some() && config.archived.unwrap_or_else(by_rule)
    }

    /// Returns what storage is told of a partition.
    pub(super) fn log_config(
        &self,
        topic: &TopicName,
        config: &TopicConfig,
        partition: PartitionId,
    ) -> LogConfig {
        LogConfig {
            archived: self.archives(topic, config).then_some(config.local_retention),
            ..config.log_config(self.max_decompressed_bytes, partition)
        }
    }
}

/// How a partition stands in the archive.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PartitionArchive {
    /// The offset after the last that the bucket has; `None` when it has nothing.
    pub end: Option<Offset>,
    /// Segments in the bucket.
    pub segments: u64,
    /// Bytes of their batches.
    pub size_bytes: u64,
    /// Bytes that are not there yet.
    pub lag_bytes: u64,
    /// When the oldest of them was appended.
    pub lag_since: Option<Timestamp>,
    /// Bytes of the upload under way that were sent, while there is one.
    pub uploading_bytes: Option<u64>,
    /// Tries that failed one after the other.
    pub failures: u32,
    /// What the last of them said, or what keeps the partition from going on; with no failures, what a read of the archive came to that none of
    /// the same place has got over since.
    pub trouble: Option<String>,
    /// It does not go on until a person has looked.
    pub is_stuck: bool,
}
