//! What is asked of the broker and what it answers: plain values, the same for every door.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use crate::record::{Codec, Header, ProducerStamp};
use crate::types::{
    Isolation, LeaderEpoch, Offset, PartitionId, Timestamp, TopicId, TopicName, TopicPartition,
};

use super::Error;
use super::archive::PartitionArchive;

/// When a write is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Acks {
    /// Past the high watermark: as durable as the topic's `durability` says.
    #[default]
    All,
    /// Appended.
    Leader,
    /// Not at all.
    None,
}

/// A record to be written. Without a timestamp it gets the broker's clock.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NewRecord {
    /// Decides the partition.
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Milliseconds since the Unix epoch.
    pub timestamp: Option<Timestamp>,
    /// In order.
    pub headers: Vec<Header>,
}

/// Plain records for one topic.
#[derive(Clone, Debug)]
pub struct NewRecords {
    /// Where to.
    pub topic: TopicName,
    /// Absent: chosen by key, or one per request for records without.
    pub partition: Option<PartitionId>,
    /// In order; not empty.
    pub records: Vec<NewRecord>,
    /// Needs `partition`.
    pub producer: Option<ProducerStamp>,
    /// Of the batch that is built, unless the topic has its own.
    pub codec: Codec,
}

/// Where records came to lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset of the last record.
    pub last_offset: Offset,
    /// The time every record got, of a topic with `LogAppendTime`.
    pub log_append_time: Option<Timestamp>,
    /// The partition's log start offset.
    pub log_start: Offset,
    /// Whether this was written now or by an earlier try.
    pub novelty: Novelty,
}

/// Whether a batch was new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Novelty {
    /// Written now.
    New,
    /// Written by an earlier try; nothing was appended.
    Duplicate,
}

/// One read of one partition within a fetch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchTarget {
    /// Which topic. Any text: an unknown or impossible name is an error of this target alone.
    pub topic: String,
    /// Which partition.
    pub partition: PartitionId,
    /// From where.
    pub offset: Offset,
    /// At most this much, whole batches; the first batch of the fetch is returned even if larger.
    pub max_bytes: usize,
}

/// A fetch over any number of partitions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// In the order in which they share `max_bytes`.
    pub targets: Vec<FetchTarget>,
    /// Wait until this much is there.
    pub min_bytes: usize,
    /// At most this much in all.
    pub max_bytes: usize,
    /// How long to wait, in milliseconds.
    pub max_wait_ms: u32,
    /// How far the reader sees.
    pub isolation: Isolation,
}

/// Which partitions of a topic a question is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AskedPartitions {
    /// None named means all.
    pub named: Vec<PartitionId>,
    /// Of those, from this one on.
    pub from: PartitionId,
    /// At most so many of them.
    pub at_most: usize,
}

impl AskedPartitions {
    /// Every partition of the topic.
    pub fn all() -> Self {
        Self {
            named: Vec::new(),
            from: PartitionId(0),
            at_most: usize::MAX,
        }
    }
}

/// A stretch of one partition: whole batches lying back to back, the very bytes of the log.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Of which partition.
    pub partition: TopicPartition,
    /// The batches; may be empty.
    pub batches: Bytes,
    /// Records before this offset were not asked for (the first batch may begin earlier).
    pub from: Offset,
    /// Records from this offset on were not asked for (the last batch may reach beyond).
    pub until: Offset,
    /// Only records with a timestamp in this range were asked for.
    pub times: Option<Range<Timestamp>>,
    /// With `ReadCommitted`: the aborted transactions that overlap.
    pub aborted: Vec<Aborted>,
    /// Where the next read goes on.
    pub next_offset: Offset,
    /// Where the log goes on behind the batches, by what lies there; where nobody looked, what the last batch says.
    pub behind: Offset,
    /// The partition's watermarks when this was read.
    pub high_watermark: Offset,
    /// See `high_watermark`.
    pub last_stable: Offset,
    /// See `high_watermark`.
    pub log_start: Offset,
    /// Records before it may have been compacted away.
    pub compacted_below: Offset,
    /// Tombstones before it may be gone.
    pub tombstones_gone_below: Offset,
    /// The most that one batch may decompress to when its records are read.
    pub max_decompressed_bytes: u32,
}

/// A transaction whose records a committed reader drops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Aborted {
    /// Whose records.
    pub producer_id: crate::types::ProducerId,
    /// From here on, to the producer's abort marker.
    pub first_offset: Offset,
}

/// Where one partition of a read begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadStart {
    /// The first record that can be read.
    #[default]
    Earliest,
    /// Only what is written after the call.
    Latest,
    /// This offset.
    Offset(Offset),
    /// Exactly the records with this timestamp or a later one.
    Time(Timestamp),
}

/// Where a read ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadEnd {
    /// The end of the log as of the call.
    #[default]
    Now,
    /// Before this offset, in each partition, or at the end of the log as of the call if that comes first.
    Offset(Offset),
    /// As `Now`, and only records with an earlier timestamp.
    Time(Timestamp),
    /// Never: waits for new records.
    Follow,
}

/// A read over partitions of one topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadSpec {
    /// Which topic.
    pub topic: TopicName,
    /// Which partitions, each with its own start if wanted; empty means all.
    pub partitions: Vec<(PartitionId, Option<ReadStart>)>,
    /// Where the others begin.
    pub start: ReadStart,
    /// Where it ends.
    pub end: ReadEnd,
    /// Positions from a resume token: they override where to begin, not the lower time bound.
    pub resume: Vec<(PartitionId, Offset)>,
    /// How far the reader sees.
    pub isolation: Isolation,
    /// Size of a chunk to aim for, in bytes.
    pub chunk_bytes: usize,
}

/// One step of a read.
#[derive(Clone, Debug)]
pub struct ReadStep {
    /// Of which partition.
    pub partition: PartitionId,
    /// Its records, possibly none.
    pub chunk: Chunk,
    /// Partitions that have come further since the step before, this one among them, and where they stand;
    /// [`super::ReadStream::positions`] tells of all.
    pub moved: Vec<(PartitionId, Offset)>,
    /// Whether more comes.
    pub progress: Progress,
}

/// Whether a read has delivered everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// More may come.
    More,
    /// This was the last step: every record asked for has been delivered.
    Complete,
}

/// Which offset is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OffsetQuery {
    /// The first that can be read.
    Earliest,
    /// Where the next record will be read from.
    Latest,
    /// The first record that has the greatest timestamp.
    MaxTimestamp,
    /// The first record with this timestamp or a later one.
    Time(Timestamp),
}

/// An offset found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoundOffset {
    /// In which partition.
    pub partition: PartitionId,
    /// `None` when no record matches.
    pub offset: Option<Offset>,
    /// The record's timestamp, where one was found by it.
    pub timestamp: Option<Timestamp>,
    /// The epoch under which that part of the log was written.
    pub leader_epoch: Option<LeaderEpoch>,
}

/// A topic to be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewTopic {
    /// Its name; any text, checked.
    pub name: String,
    /// `None`: the server's `num_partitions`.
    pub partitions: Option<i32>,
    /// Kafka's setting names.
    pub config: BTreeMap<String, String>,
}

/// A change of settings.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfigChange {
    /// New values.
    pub set: BTreeMap<String, String>,
    /// Names to give back to their default.
    pub unset: Vec<String>,
}

/// Whether an administrative request is carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Execution {
    /// Checked and done.
    Apply,
    /// Only checked.
    ValidateOnly,
}

/// A topic in a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicSummary {
    /// Its name.
    pub name: TopicName,
    /// Its id.
    pub id: TopicId,
    /// How many partitions.
    pub partitions: i32,
}

/// Everything about a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TopicDescription {
    /// Name, id and count.
    pub summary: TopicSummary,
    /// Ascending by number.
    pub partitions: Vec<PartitionDescription>,
    /// Every setting, ascending by name.
    pub config: Vec<ConfigEntry>,
}

/// Everything about a partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartitionDescription {
    /// Its number.
    pub partition: PartitionId,
    /// The first offset that can be read.
    pub log_start: Offset,
    /// Below it no transaction is open.
    pub last_stable: Offset,
    /// The first offset that cannot be read yet.
    pub high_watermark: Offset,
    /// The next offset to be assigned.
    pub log_end: Offset,
    /// Everything before it is on disk.
    pub recovery_point: Offset,
    /// How many segments.
    pub segments: u64,
    /// Bytes of their batches.
    pub size_bytes: u64,
    /// Least timestamp of its records, where known.
    pub least_timestamp: Option<Timestamp>,
    /// Greatest timestamp of its records, where known.
    pub greatest_timestamp: Option<Timestamp>,
    /// Why it refuses writes, while it does.
    pub write_refusal: Option<String>,
    /// The first offset on the local disk; what lies before it is only in the archive.
    pub local_start: Offset,
    /// How it stands in the archive, if it has to do with one.
    pub archive: Option<PartitionArchive>,
}

/// Where a setting's value comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigSource {
    /// Built in.
    Default,
    /// The server's configuration.
    Server,
    /// The topic's own.
    Topic,
}

/// A setting of a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigEntry {
    /// Kafka's name.
    pub name: &'static str,
    /// Its value as text.
    pub value: String,
    /// Where it comes from.
    pub source: ConfigSource,
    /// One line.
    pub doc: &'static str,
}

/// What was brought in from a foreign directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adopted {
    /// First offset that can be read.
    pub log_start: Offset,
    /// The next offset to be assigned.
    pub log_end: Offset,
    /// How many segments.
    pub segments: u64,
    /// How many batches.
    pub batches: u64,
    /// How many records.
    pub records: u64,
    /// Bytes of the batches.
    pub size_bytes: u64,
    /// Bytes at the end that were no whole, sound batch and were left out.
    pub dropped_tail_bytes: u64,
    /// Offsets from the log start on that no batch spans: compaction took them, or a segment is missing.
    pub missing_offsets: u64,
}

/// One partition's share of a request of plain records.
#[derive(Debug)]
pub struct Placed<A> {
    /// Which partition.
    pub partition: PartitionId,
    /// Which records of the request, ascending, counted from 0; empty means all.
    pub indexes: Vec<u32>,
    /// Its acknowledgement or what went wrong.
    pub outcome: Result<A, Error>,
}
