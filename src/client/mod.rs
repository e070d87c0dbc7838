//! The client: producer, reader and admin over one shared connection.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use siltstone::client::{Client, ProducerOptions, ProducerRecord, ReadSpec};
//! use tokio_stream::StreamExt;
//!
//! let client = Client::connect("127.0.0.1:9095").await?;
//! let mut producer = client.producer("flights", ProducerOptions::default()).await?;
//! let record = ProducerRecord { value: Some(b"hello"), ..ProducerRecord::default() };
//! let delivery = producer.send(record).await?; // in a batch
//! println!("written at {:?}", delivery.await?.offset); // in the log
//! producer.close().await?;
//!
//! let mut records = client.read("flights", ReadSpec::default()).await?.into_records();
//! while let Some(read) = records.try_next().await? {
//!     println!("{:?}", read.record.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Invariants
//! - Records travel as record batches in both directions, the same bytes that lie in the log.
//! - Every error says whether a retry may help ([`Error::is_retriable`]).
//! - Nothing waits without an end, but for what nobody has written yet: connections, calls, acknowledgements and returns after a
//!   loss have deadlines.
//! - What runs in the background belongs to a producer or a reader, in the tokio runtime it was made in, and ends with it.
//!
//! What is not here: anything of the server; a client knows its words (`proto`) and its batches (`record`) alone.

mod admin;
mod compaction;
mod connection;
mod endpoint;
mod error;
mod fetcher;
mod filter;
mod later;
mod offsets;
mod producer;
mod read_spec;
mod reader;
mod record_stream;
mod retention;

pub use admin::{
    Adopted, ConfigChanges, ConfigEntry, ConfigSource, InternalTopics, PartitionArchive,
    PartitionDescription, TopicDescription, TopicSummary,
};
pub use compaction::{
    Compaction, CompactionExplanation, CompactionState, DamagedPlace, KeyCounts, LastPass,
    PartitionCompaction, PassError, RunningPass,
};
pub use connection::{Client, ConnectOptions, TlsIdentity};
pub use endpoint::{Security, ServerAddress};
pub use error::{Error, ErrorKind, Refusal, Written};
pub use filter::{Chunk, ChunkRecords, CompactedBelow};
pub use offsets::{DeleteBefore, FoundOffset, OffsetQuery};
pub use producer::{
    Acknowledged, Acks, Clock, Delivery, PartitionChoice, Partitioner, Producer, ProducerMetrics,
    ProducerOptions, ProducerRecord,
};
pub use read_spec::{ReadEnd, ReadSpec, ReadStart, ResumeToken, ResumeTokenError};
pub use reader::{Connection, Reader};
pub use record_stream::{ReadRecord, RecordStream};
pub use retention::{DeletionReason, HeldRange, Hold, RetentionPreview, SegmentDeletion, Stay};

#[cfg(all(test, feature = "server"))]
mod delivery_tests;
#[cfg(all(test, feature = "server"))]
mod producer_tests;
#[cfg(all(test, feature = "server"))]
mod reader_tests;
#[cfg(all(test, feature = "server"))]
pub(crate) mod testing;
