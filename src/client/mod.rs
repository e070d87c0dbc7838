//! The client: producer, reader and admin over one shared connection.
//!
//! ```no_run
//! # async fn example() -> Result<(), siltstone::client::Error> {
//! use siltstone::client::{Client, ProducerOptions, ProducerRecord, ReadSpec};
//!
//! let client = Client::connect("127.0.0.1:9095").await?;
//! let mut producer = client.producer("flights", ProducerOptions::default()).await?;
//! producer.send(ProducerRecord { value: Some(b"hello"), ..ProducerRecord::default() }).await?;
//! producer.close().await?;
//!
//! let mut reader = client.read("flights", ReadSpec::default()).await?;
//! while let Some(chunk) = reader.next().await? {
//!     for record in reader.records(&chunk) {
//!         println!("{:?}", record?.value);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Invariants
//! - Records travel as record batches in both directions, the same bytes that lie in the log.
//! - Every error says whether a retry may help ([`Error::is_retriable`]).
//!
//! What is not here: anything of the server; a client knows its words (`proto`) and its batches (`record`) alone.

mod admin;
mod compaction;
mod connection;
mod endpoint;
mod error;
mod filter;
mod offsets;
mod producer;
mod reader;
mod retention;

pub use admin::{
    Adopted, ConfigChanges, ConfigEntry, ConfigSource, InternalTopics, PartitionArchive,
    PartitionDescription, TopicDescription, TopicSummary,
};
pub use compaction::{
    Compaction, CompactionExplanation, CompactionState, KeyCounts, LastPass, PartitionCompaction, PassError,
    RunningPass,
};
pub use connection::{Client, ConnectOptions, TlsIdentity};
pub use endpoint::{Security, ServerAddress};
pub use error::{Error, ErrorKind, Refusal, Written};
pub use filter::{Chunk, ChunkRecords, CompactedBelow};
pub use offsets::{FoundOffset, OffsetQuery};
pub use producer::{Acks, Clock, Producer, ProducerOptions, ProducerRecord, ProducerSummary};
pub use reader::{Connection, ReadEnd, ReadSpec, ReadStart, Reader, ResumeToken, ResumeTokenError};
pub use retention::{DeletionReason, HeldRange, Hold, RetentionPreview, SegmentDeletion, Stay};

#[cfg(all(test, feature = "server"))]
mod producer_tests;
#[cfg(all(test, feature = "server"))]
mod reader_tests;
#[cfg(all(test, feature = "server"))]
pub(crate) mod testing;
