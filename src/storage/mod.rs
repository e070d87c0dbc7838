//! The log on disk: formats and state below, segments and partitions above them, the data directory on top.
//!
//! ```text
//!                    store (the data directory) -- open, close, commit, adopt
//!                      |
//!                  partition -- writer (appends) -- load, repair
//!                    |   |--- cleaner (compaction), archived (what goes to the archive)
//!                      |   `--- read (readers)       recovery, retain (by the plan of retention)
//!                  segment_list -- segment -- index_set
//!                                     |    `- walk (batch headers)
//!   epochs producers: state -- format (offset_index time_index txn_index manifest checkpoint ...): bytes in, values out
//! ```
//!
//! Invariants
//! - No clock, no runtime, no network: time comes in as a value, a need for cold data goes out as one.
//! - Every format is bytes in, values out: big-endian; over any bytes no panic, and no more memory than a small multiple
//!   of the input's length.
//! - `-1` and other sentinels of Kafka's formats stop here: inside, what may be missing is an `Option`.
//!
//! What is not here: what is in a batch (`record`), what asks for a batch (`broker`).

mod adopt;
#[cfg(test)]
mod adopt_tests;
mod anew;
mod archived;
mod checkpoints;
mod cleaner;
mod cleaner_state;
mod close;
mod commit;
mod config;
mod data_dir;
mod epoch_file;
mod epochs;
mod error;
mod examine;
#[cfg(test)]
mod fault_tests;
mod files;
mod format;
mod gap;
#[cfg(test)]
mod gap_tests;
#[cfg(test)]
mod golden_tests;
mod hold;
mod identity;
mod index_set;
mod journal;
mod load;
mod maintenance;
#[cfg(test)]
mod many_tests;
#[cfg(test)]
mod model_tests;
mod open;
mod partition;
mod partition_dir;
mod paths;
mod producers;
mod read;
#[cfg(test)]
mod read_tests;
mod recovery;
#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod refused_tests;
mod reindex;
mod repair;
mod restore;
mod retain;
mod retention;
mod scan;
mod segment;
mod segment_list;
mod spacing;
mod stamps;
mod standing;
mod store;
#[cfg(test)]
mod sweep_tests;
#[cfg(test)]
mod testing;
mod torn;
#[cfg(test)]
mod torn_tests;
mod turnover;
#[cfg(test)]
mod vanished_tests;
mod walk;
mod watermarks;
mod writer;

pub use adopt::{AdoptReport, Verified};
pub use archived::{ArchiveLag, ArchivedExtent, HandedOver, NextRewritten, NextToArchive, Rewritten};
pub use cleaner::{
    Bound, Budget, CompactError, CompactedBelow, CompactionView, Due, NotDue, OffsetMap, Pace, Pass, RollFor,
    Rolled, SegmentRole, SegmentView, Step, breaks_its_promise,
};
pub use cleaner_state::{DamagedPlace, MAX_DAMAGED_PLACES, PassFailure, PassReport, RecordCounts, Rounds};
pub use config::{CleanupPolicy, Compaction, Durability, LogConfig, Retention};
pub use data_dir::Removed;
pub use epochs::{EpochChange, EpochEnd, LeaderEpochs};
pub use error::{AppendError, ReadError, StartError, StoreError};
pub use format::append_times::{AppendSample, AppendTimes, FirstAppend, MAX_APPEND_SAMPLES};
pub use format::checkpoint::{
    CheckpointDamage, EpochEntry, decode_epochs, decode_offsets, encode_epochs, encode_offsets, put_in_place,
    write_atomic,
};
#[cfg(feature = "tier")]
pub(crate) use format::fields::Fields;
pub use format::manifest::{
    Closed, Contradiction, DecodedManifest, MANIFEST_FILE_NAME, Manifest, ManifestDamage, ManifestRecord,
    TailDamage, TailReason,
};
pub use format::meta_properties::{DirectoryId, MetaProperties, MetaPropertiesDamage, MetaVersion, NodeId};
pub use format::offset_index::{
    IndexCadence, IndexEntry, OffsetEntry, OffsetIndex, OffsetIndexDamage, Position, RelativeOffset,
};
pub use format::partition_metadata::{PartitionMetadata, PartitionMetadataDamage};
pub use format::producer_snapshot::{
    CoordinatorEpoch, LastBatch, ProducerEntry, SnapshotDamage, decode_snapshot, encode_snapshot,
};
pub use format::segment_summary::{Extensions, ExtensionsFull, SegmentFlags, SegmentSummary};
pub use format::time_index::{TimeEntry, TimeIndex, TimeIndexDamage, TimeIndexTail};
pub use format::txn_index::{AbortedTransaction, Overlap, Search, TxnIndex, TxnIndexDamage};
pub use format::uuid_text::UuidTextError;
pub use hold::Hold;
pub use open::PartitionSpec;
pub use partition::{Append, Partition, PartitionStats, SyncDue, Synced, Written};
pub use paths::SegmentFile;
pub use producers::{
    BATCHES_PER_PRODUCER, CompletedTransaction, MAX_PRODUCERS, Marker, MarkerProtocol, Origin, Outcome,
    Placed, ProducerBatch, ProducerError, Producers, Transactional, Verdict,
};
pub use read::{FirstBatch, Found, Read, Slice, first_record, may_match};
pub use restore::{
    CACHE_FOLDER, NewFile, Reserved, RestoreInto, RestoreMark, RestoredPartition, RestoredPlace, Restoring,
    missing_below,
};
pub use retain::Retained;
pub use retention::{
    Deletion, DeletionReason, LogFacts, RetentionPlan, SegmentFacts, Stay, plan, plan_local,
};
pub use store::{Closing, Store, StoreConfig};
pub use watermarks::WatermarkView;
