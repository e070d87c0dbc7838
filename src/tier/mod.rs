//! The tier: sealed segments in an object store, for good.
//!
//! ```text
//!   upload (a sealed segment -> object, manifest)         read (batches and times from cold segments)     verify (all of it)
//!                                                         download (a segment's files, as they were)
//!      |        |                                            |            |                                 | root_hash
//!      |   object_writer --- object: one segment, whole -----'     chunk_cache - disk_cache       verify_object - log_check
//!      |   batch_check: is it sound?
//!      |                                                                  |                                 |
//!   ledger: numbered objects, created only if absent                      |
//!      manifest (segments of a partition)  catalog (topics)  epoch (who owns the bucket)
//!      |                                                                  |
//!   store: put, get, list with deadlines  -- address (s3, gs, az, file, memory)  keys (what lies where)
//! ```
//!
//! Invariants
//! - Objects are created, never written over; what makes a change true is one small object at a number that was free.
//! - Object first, manifest next, anything local last. So a crash leaves an object too many, never one too few.
//! - The bytes of a log are uploaded as they are; whoever reads the object reads what was stored.
//! - Whoever finds an entry of a greater epoch has been replaced and stops writing.
//! - No bytes of the bucket panic us, or make us allocate more than a small multiple of what was asked for.
//!
//! What leaks, and is found by looking for objects that no manifest names: an upload that was cut off before its manifest entry; parts
//! of a large upload, where the store keeps such, until a rule of the bucket removes them; a few bytes of a probe.
//!
//! What is not here: when to upload, which partitions, how fast, and what of the local disk may go (`broker`).

mod address;
mod batch_check;
mod catalog;
mod chunk_cache;
mod copy;
mod disk_cache;
mod download;
mod epoch;
mod error;
#[cfg(test)]
mod golden_tests;
mod keys;
mod ledger;
mod ledger_entry;
mod log_check;
mod manifest;
mod object;
mod object_writer;
mod pace;
mod read;
mod recent;
mod root_hash;
mod state;
mod store;
#[cfg(test)]
pub(crate) mod testing;
mod upload;
mod verify;
mod verify_object;

pub use catalog::{ArchivedTopic, Catalog, CatalogEdit};
pub use chunk_cache::{CacheLimits, ChunkCache};
pub use download::{Download, Downloaded};
pub use epoch::{Claim, Claimant, Claims, Owner};
pub use error::{Retry, TierError, Trouble};
pub use keys::{CATALOG, EPOCHS, ObjectId, PROBE, PartitionKey, TOPICS, number_of, numbered};
pub use ledger::{Appended, Author, Head, Ledger, newest};
pub use ledger_entry::{EntryDamage, Form, LedgerEntry, LedgerKind, WriterId};
pub use manifest::{Manifest, ManifestEdit, TieredSegment, Waiting};
pub use object::{CHUNK_BYTES, Footer, ObjectDamage, Section, SectionKind, TRAILER_LEN, Trailer};
pub use object_writer::{ObjectFacts, ObjectWriter, Tail, WriteError};
pub use pace::Pace;
pub use read::{ColdLog, FindTime, read_footer};
pub use root_hash::Hash;
pub use state::{Contradiction, State};
pub use store::{CallLimits, LargePut, Listed, Listing, Published, TierStore};
pub use upload::{Replacement, SealedSegment, SectionSource, Ticket, Uploaded, Uploader};
pub use verify::{Counts, Depth, Finding, FindingKind, Report, Told, VerifyOptions, verify};
pub use verify_object::{check_object, read_lone_footer};
