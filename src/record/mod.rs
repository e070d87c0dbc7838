//! Record batches: pure bytes in, values out.
//!
//! A [`RecordBatch`] is Kafka's record batch v2 as bytes. This module reads it ([`Batches`], [`Records`]), checks one that
//! comes from outside ([`accept`]), and makes new ones ([`BatchBuilder`], [`BatchRebuild`], [`TransactionEnd`]).
//!
//! ```text
//!  untrusted bytes -- accept --> Accepted -- stamped_prefix + after_prefix --> segment file
//!  plain records   -- BatchBuilder --^
//!  segment bytes   -- Batches --> RecordBatch -- records --> Record
//!                                     `-- open --> Glance -- BatchRebuild (the cleaner) --> RecordBatch
//! ```
//!
//! ```
//! use siltstone::record::{BatchBuilder, BatchOptions, Codec, DecompressLimit};
//! use siltstone::types::{LeaderEpoch, Offset, Timestamp};
//!
//! let mut builder = BatchBuilder::new(BatchOptions { codec: Codec::Zstd, ..BatchOptions::default() });
//! builder.append(Some(Timestamp(1_357_034_400_000)), Some(b"N14228"), Some(b"EWR to IAH"), &[])?;
//! let batch = builder.build()?.stamped(Offset(40), LeaderEpoch(1));
//!
//! let record = batch.records(DecompressLimit(1 << 20))?.next().expect("there is one")?;
//! assert_eq!(record.offset, Offset(40));
//! assert_eq!(record.key.as_deref(), Some(&b"N14228"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Invariants
//! - No decoder panics, reads past its input, or allocates more than its input plus a stated bound.
//! - A batch that passed the door is never encoded again on its way through: the bytes after its first 16 stay as they are.
//! - Every record of an [`Accepted`] was read to its last byte, and the batch's greatest timestamp is the true one.
//!
//! What is not here: files, clocks, topics, producer state, and offsets other than those in the bytes.

mod accept;
mod accepted;
mod batch;
mod builder;
mod codec;
mod control;
mod crc;
mod damage;
mod header;
mod partitioner;
#[expect(
    clippy::module_inception,
    reason = "of all that is told of batches, this file tells of one record"
)]
mod record;
mod rejection;
#[cfg(test)]
mod testing;
mod transaction_end;
mod varint;

pub use accept::{KeyRule, Rules, accept};
pub use accepted::Accepted;
pub use batch::{Batches, Glance, Glances, PartwiseCheck, Payload, RecordBatch, Records};
pub use builder::{BatchBuilder, BatchOptions, BatchRebuild, BuildError, Stamping, Transactional};
pub use codec::{Codec, CodecError, DecompressLimit, UnknownCodec};
pub use control::ControlMarker;
pub use damage::{Damage, RecordFault};
pub use header::{BatchHeader, HEADER_LEN, PREFIX_LEN, ProducerStamp, TimestampType};
pub use partitioner::partition_for_key;
pub use record::{Header, Record};
pub use rejection::{BatchFault, RecordError, RecordErrors, RecordReason, Rejection};
pub use transaction_end::{Outcome, TransactionEnd};

/// Greatest size of a batch in a log, in bytes: one said to be larger is damage. Topics may admit up to this; Kafka's own
/// limit, `max.message.bytes`, is 1 MiB unless raised.
pub const MAX_BATCH_BYTES: u32 = 512 << 20;
