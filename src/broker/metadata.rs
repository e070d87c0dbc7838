//! What is known about topics and producer ids, kept in the store's own compacted topic `__siltstone_topics`, partition 0.
//!
//! | key | value | null value |
//! |---|---|---|
//! | a topic's name | JSON of [`TopicEntry`] | the topic is gone, its data too |
//! | `/producer-ids` | JSON of [`ProducerIdsEntry`] | not written |
//!
//! No topic's name has a slash, so the keys cannot meet. The newest value of a key counts. Every entry carries `version`: 1,
//! or 2 for a topic with holds, which a server that does not know them must not serve. A greater one stops the start with a
//! text that says so: a newer server wrote it.
//!
//! Deleting a topic
//! 1. Its entry is written with `state = deleting`, and synced. *If it dies before:* the topic is there.
//! 2. Its partitions are removed. *If it dies here:* the next start removes the rest, then goes on with 3.
//! 3. A tombstone is written, and synced. *If it dies before:* the next start removes nothing more and writes it.
//!
//! Creating a topic writes its entry, synced, before anything else of it exists: a directory without an entry is never ours.
//!
//! A write that failed may still be found by the next start. So what was true before it is remembered and written again, in
//! front of the next write or by [`MetadataLog::settle`], whichever comes first. Of a write that never reached the log nothing
//! is remembered, unless it was to take another back ([`MetadataLog::owe`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::record::{
    Accepted, BatchBuilder, BatchOptions, Batches, Codec, DecompressLimit, Stamping, Transactional,
};
use crate::storage::{AppendError, FirstBatch, Origin, Partition, Read, Store, StoreError};
use crate::types::{Offset, PartitionId, ProducerId, Timestamp, TopicId, TopicName, TopicPartition};

use super::disk::DiskGuard;
use super::holds::{HoldEntry, TopicHold};
use super::settings::TopicConfig;
use super::translate;
use super::{Error, served::Served};

/// The topic's name.
const TOPIC: &str = "__siltstone_topics";
/// Its id is the same in every store: it must be known before anything is read.
pub(super) const TOPIC_ID: TopicId = TopicId(*b"siltstone-topics");
/// Greater versions were written by a newer server.
const VERSION: u32 = 2;
/// Of entries without holds.
const VERSION_WITHOUT_HOLDS: u32 = 1;
const PRODUCER_IDS_KEY: &[u8] = b"/producer-ids";
const READ_BYTES: usize = 1 << 20;
/// Entries are not compressed; this bounds what damage can make us allocate.
const DECOMPRESS_LIMIT: DecompressLimit = DecompressLimit(16 << 20);

/// Returns topic and partition of the metadata.
pub(super) fn partition() -> TopicPartition {
    let topic = TopicName::new(TOPIC).expect("the name is valid");
    TopicPartition::new(topic, PartitionId(0))
}

/// Whether a topic is there or on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// It is there.
    Active,
    /// Its data is being removed.
    Deleting,
}

/// What is stored about a topic.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct TopicEntry {
    version: u32,
    /// 32 hexadecimal digits.
    id: String,
    /// How many.
    pub(super) partitions: i32,
    /// What the topic itself sets.
    pub(super) config: BTreeMap<String, String>,
    /// See [`State`].
    pub(super) state: State,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    holds: Vec<HoldEntry>,
}

impl TopicEntry {
    /// Describes an active topic.
    pub(super) fn active(id: TopicId, partitions: i32, config: &TopicConfig) -> Self {
        let holds: Vec<HoldEntry> = config.holds.iter().map(HoldEntry::from).collect();
        Self {
            version: if holds.is_empty() {
                VERSION_WITHOUT_HOLDS
            } else {
                VERSION
            },
            id: id.to_string(),
            partitions,
            config: config.overrides.clone(),
            state: State::Active,
            holds,
        }
    }

    /// Describes a topic as the archive's catalog has it, with what only the metadata tells, if that knows the topic.
    #[cfg(feature = "tier")]
    pub(super) fn archived(topic: &crate::tier::ArchivedTopic, known: Option<&Self>) -> Self {
        let partitions = known.map_or(0, |known| known.partitions);
        Self {
            version: known.map_or(VERSION_WITHOUT_HOLDS, |known| known.version),
            id: topic.id.to_string(),
            partitions: topic.partitions.max(partitions),
            config: topic.settings.clone(),
            state: State::Active,
            holds: known.map_or_else(Vec::new, |known| known.holds.clone()),
        }
    }

    /// Returns its holds.
    pub(super) fn holds(&self) -> Vec<TopicHold> {
        self.holds.iter().map(TopicHold::from).collect()
    }

    /// Returns this entry with `state = deleting`.
    pub(super) fn deleting(&self) -> Self {
        Self {
            state: State::Deleting,
            ..self.clone()
        }
    }

    /// Returns the id; `None` when it is not 32 hexadecimal digits.
    pub(super) fn topic_id(&self) -> Option<TopicId> {
        if self.id.len() != 32 || !self.id.is_ascii() {
            return None;
        }
        u128::from_str_radix(&self.id, 16)
            .ok()
            .map(|id| TopicId(id.to_be_bytes()))
    }
}

/// What is stored about producer ids.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct ProducerIdsEntry {
    version: u32,
    /// No id from this one on was ever given.
    next: i64,
}

/// What the metadata says, read at the start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Contents {
    /// By name.
    pub(super) topics: BTreeMap<TopicName, TopicEntry>,
    /// No id from this one on was ever given.
    pub(super) next_producer_id: i64,
    /// Topics that were there and are gone, as far as that still stands in the log.
    pub(super) removed: BTreeSet<TopicId>,
}

impl Contents {
    /// Takes in one record, newer than all before.
    fn apply(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), String> {
        let key = key.ok_or("a record has no key")?;
        if key == PRODUCER_IDS_KEY {
            let value = value.ok_or("the producer ids have no value")?;
            let entry: ProducerIdsEntry = parse(value)?;
            self.next_producer_id = checked_version(entry.version).map(|()| entry.next)?;
            return Ok(());
        }
        let text = std::str::from_utf8(key).map_err(|_| "a key is not UTF-8")?;
        let name = TopicName::new(text).map_err(|error| format!("key {text:?}: {error}"))?;
        let Some(value) = value else {
            let gone = self.topics.remove(&name);
            self.removed.extend(gone.and_then(|entry| entry.topic_id()));
            return Ok(());
        };
        let entry: TopicEntry = parse(value).map_err(|error| format!("topic {name}: {error}"))?;
        checked_version(entry.version)?;
        if entry.partitions < 1 || entry.topic_id().is_none() {
            return Err(format!(
                "topic {name}: {entry:?} has no valid id or number of partitions"
            ));
        }
        self.topics.insert(name, entry);
        Ok(())
    }
}

fn parse<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

fn checked_version(version: u32) -> Result<(), String> {
    if version > VERSION {
        return Err(format!(
            "an entry has version {version}, this server knows {VERSION}; start a newer server"
        ));
    }
    Ok(())
}

/// Reads everything the metadata partition holds.
///
/// # Errors
/// [`Error::Damaged`] names the offset and what is wrong there.
pub(super) fn read(log: &Partition) -> Result<Contents, Error> {
    let mut contents = Contents::default();
    let marks = log.watermarks();
    let mut from = marks.log_start;
    while from < marks.log_end {
        let read = Read {
            from,
            until: marks.log_end,
            times: None,
            max_bytes: READ_BYTES,
            first: FirstBatch::Whole,
        };
        let slice = log
            .read(&read)
            .map_err(|error| translate::read(log.id(), error, marks.high_watermark))?;
        apply_all(&mut contents, log.id(), slice.bytes)?;
        if slice.next_offset <= from {
            return Err(damaged(log.id(), from, "reading makes no progress"));
        }
        from = slice.next_offset;
    }
    Ok(contents)
}

/// Takes in all records of some batches.
///
/// # Errors
/// As [`read`].
pub(super) fn apply_all(
    contents: &mut Contents,
    partition: &TopicPartition,
    bytes: Bytes,
) -> Result<(), Error> {
    for batch in Batches::over(bytes, 0) {
        let (_, batch) = batch.map_err(|error| damaged(partition, Offset::ZERO, &error.to_string()))?;
        let at = batch.header().base_offset;
        batch
            .verify_crc()
            .map_err(|error| translate::damage(partition, at, &error))?;
        if batch.header().is_control() {
            continue;
        }
        for record in batch
            .records(DECOMPRESS_LIMIT)
            .map_err(|error| translate::damage(partition, at, &error))?
        {
            let record = record.map_err(|error| translate::damage(partition, at, &error))?;
            contents
                .apply(record.key.as_deref(), record.value.as_deref())
                .map_err(|reason| damaged(partition, record.offset, &reason))?;
        }
    }
    Ok(())
}

fn damaged(partition: &TopicPartition, at: Offset, reason: &str) -> Error {
    Error::Damaged {
        partition: partition.clone(),
        lost: None,
        reason: format!("topic metadata at offset {at}: {reason}"),
    }
}

/// One change of the metadata.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Change {
    key: Bytes,
    value: Option<Bytes>,
}

impl Change {
    /// A topic's new entry, or its tombstone.
    pub(super) fn topic(name: &TopicName, entry: Option<&TopicEntry>) -> Self {
        Self {
            key: Bytes::copy_from_slice(name.as_str().as_bytes()),
            value: entry.map(json),
        }
    }

    /// From this producer id on, none was ever given.
    pub(super) fn producer_ids(next: ProducerId) -> Self {
        let entry = ProducerIdsEntry {
            version: VERSION_WITHOUT_HOLDS,
            next: next.0,
        };
        Self {
            key: Bytes::from_static(PRODUCER_IDS_KEY),
            value: Some(json(&entry)),
        }
    }

    /// Returns the value: what [`MetadataLog::write`] wants as `before` of a later change.
    pub(super) fn into_value(self) -> Option<Bytes> {
        self.value
    }
}

fn json(entry: &impl Serialize) -> Bytes {
    serde_json::to_vec(entry)
        .expect("an entry of text and numbers is JSON")
        .into()
}

/// The write side of the metadata. One writer at a time: it lives under the admin lock.
#[derive(Debug)]
pub(super) struct MetadataLog {
    served: Arc<Served>,
    disk: Arc<DiskGuard>,
    /// What to write in front of the next change, because the log says, or a write that failed may have left, the contrary.
    corrections: BTreeMap<Bytes, Option<Bytes>>,
}

/// A write that was not made: why, and whether a start may find it all the same.
struct NotWritten {
    error: Error,
    may_be_found: bool,
}

impl MetadataLog {
    /// Writes to this partition; tells `disk` where there is no room.
    pub(super) fn new(served: Arc<Served>, disk: Arc<DiskGuard>) -> Self {
        Self {
            served,
            disk,
            corrections: BTreeMap::new(),
        }
    }

    /// Returns the partition.
    pub(super) fn served(&self) -> &Arc<Served> {
        &self.served
    }

    /// Writes `change` and syncs it; `before` is what was true of its key. Blocks for the disk.
    ///
    /// # Errors
    /// What the disk said; the change is then not made, and will not be found after the next successful write.
    pub(super) fn write(
        &mut self,
        change: Change,
        before: Option<Bytes>,
        store: &Store,
        now: Timestamp,
    ) -> Result<Offset, Error> {
        let corrections = self.corrections.iter().filter(|(key, _)| **key != change.key);
        let records = corrections.chain(std::iter::once((&change.key, &change.value)));
        let written = self.append(records, store, now);
        written
            .inspect(|_| self.corrections.clear())
            .map_err(|NotWritten { error, may_be_found }| {
                if may_be_found {
                    self.corrections.insert(change.key, before);
                }
                error
            })
    }

    /// Has `change` written in front of the next one, or by [`settle`](Self::settle): what it takes back must not be found by a
    /// later start.
    pub(super) fn owe(&mut self, change: Change) {
        self.corrections.insert(change.key, change.value);
    }

    /// Writes what is owed, and syncs it; `None` when that is nothing. Blocks for the disk.
    ///
    /// # Errors
    /// What the disk said; it is still owed.
    pub(super) fn settle(&mut self, store: &Store, now: Timestamp) -> Result<Option<Offset>, Error> {
        if self.corrections.is_empty() {
            return Ok(None);
        }
        let written = self.append(self.corrections.iter(), store, now);
        let high_watermark = written.map_err(|failed| failed.error)?;
        self.corrections.clear();
        Ok(Some(high_watermark))
    }

    fn append<'a>(
        &self,
        records: impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>,
        store: &Store,
        now: Timestamp,
    ) -> Result<Offset, NotWritten> {
        let log = &self.served.log;
        let batch = batch_of(records, now).map_err(|error| NotWritten {
            error,
            may_be_found: false,
        })?;
        let append = log.append(&batch, Origin::Coordinator, now);
        let append = append.map_err(|error| NotWritten {
            // A log that goes on took nothing of it. One that refuses writes for this very failure may hold a part.
            may_be_found: matches!(error, AppendError::Storage(_)) && log.refusal().is_some(),
            error: match error {
                AppendError::Storage(error) => self.told(&error),
                other => translate::append(log.id(), other),
            },
        })?;
        let synced = store
            .sync(std::slice::from_ref(log))
            .pop()
            .expect("one result for one partition");
        let error = match synced {
            Ok(synced) if synced.high_watermark > append.last_offset => return Ok(synced.high_watermark),
            Ok(_) => Error::WritesRefused {
                partition: log.id().clone(),
                reason: "the sync did not cover the change; try again".to_owned(),
            },
            Err(error) => self.told(&error),
        };
        Err(NotWritten {
            error,
            may_be_found: true,
        })
    }

    /// Returns what the caller is told of a disk that failed; a full one is told as that, and refuses produce from now on.
    fn told(&self, error: &StoreError) -> Error {
        if error.is_disk_full() {
            tracing::warn!(partition = %self.served.id(), %error, "no room for the topics' metadata");
            return self.disk.write_found_no_room();
        }
        translate::store(self.served.id(), error)
    }
}

fn batch_of<'a>(
    records: impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>,
    now: Timestamp,
) -> Result<Accepted, Error> {
    let invalid = |reason: String| Error::InvalidRequest { reason };
    let mut builder = BatchBuilder::new(BatchOptions {
        codec: Codec::None,
        level: None,
        stamping: Stamping::CreateTime,
        producer: None,
        transactional: Transactional::No,
    });
    for (key, value) in records {
        builder
            .append(Some(now), Some(key), value.as_deref(), &[])
            .map_err(|error| invalid(error.to_string()))?;
    }
    builder.build().map_err(|error| invalid(error.to_string()))
}

/// Returns an entry as it is stored: what [`MetadataLog::write`] wants as `before`.
pub(super) fn stored(entry: &TopicEntry) -> Bytes {
    json(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::settings::Settings;
    use crate::env::{CacheLimits, Call, Failure, Fault, FileCache, SimFs};
    use crate::storage::Hold;
    use crate::storage::{LogConfig, PartitionSpec, StoreConfig};

    const NOW: Timestamp = Timestamp(1);

    fn config() -> TopicConfig {
        let own = BTreeMap::from([("retention.ms".to_owned(), "7".to_owned())]);
        Settings::default().resolve(&own).expect("valid")
    }

    fn entry() -> TopicEntry {
        TopicEntry::active(TopicId([0xab; 16]), 3, &config())
    }

    fn apply(contents: &mut Contents, change: &Change) -> Result<(), String> {
        contents.apply(Some(&change.key), change.value.as_deref())
    }

    #[test]
    fn an_entry_is_stored_as_json_that_never_changes() {
        assert_eq!(
            String::from_utf8(json(&entry()).to_vec()).expect("UTF-8"),
            r#"{"version":1,"id":"abababababababababababababababab","partitions":3,"config":{"retention.ms":"7"},"state":"active"}"#
        );
    }

    #[test]
    fn holds_stand_in_an_entry_that_older_servers_refuse() {
        let mut config = config();
        config.holds = vec![
            TopicHold {
                name: "case 7".to_owned(),
                partition: Some(PartitionId(1)),
                range: Hold::Offsets(Offset(3)..Offset(9)),
            },
            TopicHold {
                name: "audit".to_owned(),
                partition: None,
                range: Hold::Times(Timestamp(5)..Timestamp(6)),
            },
        ];
        let entry = TopicEntry::active(TopicId([0xab; 16]), 3, &config);
        let text = String::from_utf8(json(&entry).to_vec()).expect("UTF-8");
        assert_eq!(
            text,
            r#"{"version":2,"id":"abababababababababababababababab","partitions":3,"config":{"retention.ms":"7"},"state":"active","holds":[{"name":"case 7","partition":1,"range":{"offsets":[3,9]}},{"name":"audit","partition":null,"range":{"times":[5,6]}}]}"#
        );
        let read: TopicEntry = parse(text.as_bytes()).expect("valid");
        assert_eq!(read.holds(), config.holds);
    }

    #[test]
    fn the_newest_value_of_a_key_counts_and_a_tombstone_removes() {
        let name = TopicName::new("a").expect("valid");
        let mut contents = Contents::default();
        apply(&mut contents, &Change::topic(&name, Some(&entry()))).expect("valid");
        apply(&mut contents, &Change::producer_ids(ProducerId(2000))).expect("valid");
        assert_eq!(contents.topics[&name].topic_id(), Some(TopicId([0xab; 16])));
        assert_eq!(contents.next_producer_id, 2000);
        apply(&mut contents, &Change::topic(&name, Some(&entry().deleting()))).expect("valid");
        assert_eq!(contents.topics[&name].state, State::Deleting);
        apply(&mut contents, &Change::topic(&name, None)).expect("valid");
        assert!(contents.topics.is_empty());
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        let error = |key: &str, value: &str| {
            Contents::default()
                .apply(Some(key.as_bytes()), Some(value.as_bytes()))
                .expect_err("must be refused")
        };
        assert!(
            error("a", "{}").starts_with("topic a: missing field"),
            "{}",
            error("a", "{}")
        );
        assert!(error("a/b", "{}").starts_with("key \"a/b\": "));
        assert_eq!(
            error("/producer-ids", r#"{"version":3,"next":5}"#),
            "an entry has version 3, this server knows 2; start a newer server"
        );
        let no_id = r#"{"version":1,"id":"+b","partitions":1,"config":{},"state":"active"}"#;
        assert!(error("a", no_id).contains("no valid id"));
    }

    fn guard() -> Arc<DiskGuard> {
        Arc::new(DiskGuard::new(std::path::Path::new("data"), 0))
    }

    fn open(fs: &SimFs) -> (Store, Arc<Partition>) {
        let limits = CacheLimits {
            open_files: 16,
            maps: 16,
            window_bytes: 1 << 20,
        };
        let files = Arc::new(FileCache::new(Arc::new(fs.clone()), limits));
        let config = StoreConfig {
            dir: "data".into(),
            threads: 1,
        };
        let store = Store::open(files, config).expect("opens");
        let spec = PartitionSpec {
            id: partition(),
            topic_id: TOPIC_ID,
            config: LogConfig::default(),
        };
        let log = store.open_partitions(vec![spec], NOW).remove(0);
        (store, log.expect("opens"))
    }

    #[test]
    fn only_what_may_lie_in_the_log_is_corrected_later() {
        let fs = SimFs::new();
        let (store, log) = open(&fs);
        let now = NOW;
        let mut metadata = MetadataLog::new(Served::new(Arc::clone(&log)), guard());
        let mut create = |name: &str| {
            let name = TopicName::new(name).expect("valid");
            let written = metadata.write(Change::topic(&name, Some(&entry())), None, &store, now);
            (written.is_ok(), metadata.corrections.len())
        };
        assert_eq!(create("there"), (true, 0));
        fs.inject(Fault {
            call: Call::SyncData,
            path_contains: "__siltstone_topics".to_owned(),
            times: 1,
            failure: Failure::LosesDirtyPages,
        });
        assert_eq!(create("a"), (false, 1), "it was appended, and the sync failed");
        assert_eq!(create("b"), (false, 1), "the log refuses: nothing was written");
        assert_eq!(create("c"), (false, 1));
        log.repair(now).expect("repaired");
        assert_eq!(create("d"), (true, 0));
        let topics = read(&log).expect("sound").topics;
        let names: Vec<_> = topics.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["d", "there"], "what failed is not found");
    }

    #[test]
    fn what_could_not_be_taken_back_is_owed_and_a_full_disk_is_told_as_one() {
        let fs = SimFs::new();
        let (store, log) = open(&fs);
        let disk = guard();
        let mut metadata = MetadataLog::new(Served::new(Arc::clone(&log)), Arc::clone(&disk));
        let name = TopicName::new("t").expect("valid");
        let create = Change::topic(&name, Some(&entry()));
        metadata.write(create, None, &store, NOW).expect("a good disk");
        for call in [Call::Write, Call::SyncData] {
            fs.inject(Fault {
                call,
                path_contains: "__siltstone_topics".to_owned(),
                times: 1,
                failure: Failure::Kind(std::io::ErrorKind::StorageFull),
            });
            let take_back = Change::topic(&name, None);
            let full = metadata.write(take_back.clone(), None, &store, NOW);
            let full = full.expect_err("no room");
            assert!(matches!(full, Error::DiskFull { .. }), "{call:?}: {full}");
            assert!(disk.is_full(), "{call:?}");
            metadata.owe(take_back);
            log.repair(NOW).expect("repaired");
            disk.look(u64::MAX);
            metadata.settle(&store, NOW).expect("a good disk").expect("owed");
            assert!(read(&log).expect("sound").topics.is_empty(), "{call:?}");
            let nothing = metadata.settle(&store, NOW).expect("a good disk");
            assert_eq!(nothing, None, "it is owed once");
            metadata
                .write(Change::topic(&name, Some(&entry())), None, &store, NOW)
                .expect("a good disk");
        }
    }
}
