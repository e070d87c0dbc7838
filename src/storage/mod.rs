//! The log on disk: formats, state and, above them, segments and partitions.
//!
//! Invariants
//! - No clock, no runtime, no network: time comes in as a value, a need for cold data goes out as one.
//! - Every format is bytes in, values out: big-endian; over any bytes no panic, and no more memory than a small multiple
//!   of the input's length.
//! - `-1` and other sentinels of Kafka's formats stop here: inside, what may be missing is an `Option`.
//!
//! What is not here: what is in a batch (`record`), what asks for a batch (`broker`).

mod append_times;
mod checkpoint;
mod epochs;
mod fields;
mod manifest;
mod meta_properties;
mod offset_index;
mod partition_metadata;
mod producer_snapshot;
mod producers;
mod segment_summary;
mod time_index;
mod txn_index;
mod uuid_text;

pub use append_times::{AppendSample, AppendTimes, MAX_APPEND_SAMPLES};
pub use checkpoint::{
    CheckpointDamage, EpochEntry, decode_epochs, decode_offsets, encode_epochs, encode_offsets, write_atomic,
};
pub use epochs::{EpochChange, EpochEnd, LeaderEpochs};
pub use manifest::{
    Closed, Contradiction, DecodedManifest, MANIFEST_FILE_NAME, Manifest, ManifestDamage, ManifestRecord,
    TailDamage, TailReason,
};
pub use meta_properties::{DirectoryId, MetaProperties, MetaPropertiesDamage, MetaVersion, NodeId};
pub use offset_index::{
    IndexCadence, IndexEntry, OffsetEntry, OffsetIndex, OffsetIndexDamage, Position, RelativeOffset,
};
pub use partition_metadata::{PartitionMetadata, PartitionMetadataDamage};
pub use producer_snapshot::{LastBatch, ProducerEntry, SnapshotDamage, decode_snapshot, encode_snapshot};
pub use producers::{
    BATCHES_PER_PRODUCER, CompletedTransaction, CoordinatorEpoch, MAX_PRODUCERS, Marker, MarkerProtocol,
    Origin, Outcome, Placed, ProducerBatch, ProducerError, Producers, Transactional, Verdict,
};
pub use segment_summary::{Extensions, ExtensionsFull, SegmentFlags, SegmentSummary};
pub use time_index::{TimeEntry, TimeIndex, TimeIndexDamage, TimeIndexTail};
pub use txn_index::{AbortedTransaction, Overlap, Search, TxnIndex, TxnIndexDamage};
pub use uuid_text::UuidTextError;
