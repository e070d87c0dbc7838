//! Restoring: a data directory made of what the archive has, and nothing else.
//!
//! 1. Claims, catalog, the log of the topics' metadata and all manifests are read. A server that restores at its start claims the
//!    archive first and writes an empty entry into each of these ledgers, so that what it reads is final. If it dies here: nothing is there.
//! 2. Storage makes the directory ([`crate::storage::Restoring`]): logs that stay in the archive get what a start and an append need,
//!    compacted ones come here whole. If it dies here: no server starts on it, and the next try begins anew.
//! 3. What the metadata's log does not say yet is appended to it ([`Topics`]), and the directory is closed and marked as whole.
//! 4. The server that first opens it beside its archive takes that over (`take_over.rs`): if the archive went on since step 1, it refuses.
//!
//! **Topics.** The catalog is written before anything else that a server archives, the log of the metadata some seconds later. So the catalog
//! says which topics there are and with which settings, the log what only it has: holds, topics that are not archived, deletions that have
//! begun.
//!
//! **Producer ids** are given in blocks that the log tells of. Of the last seconds it may not have been told: so [`IDS_PASSED_OVER`] are
//! passed over, and all that are met in any log.
//!
//! Invariants
//! - Whoever restores by command writes no byte to the archive.
//! - An object that is missing or damaged ends the restore by its name; the directory is then not whole.
//!
//! A server that shows another's archive ([`super::mount`]) makes its directory in the same way, and downloads only the log of the metadata.
//!
//! What is not here: bytes of objects (`tier`), files of the directory (`storage`).

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::broker::disk::DiskGuard;
use crate::broker::metadata::{self, Change, Contents, MetadataLog, TopicEntry};
use crate::broker::settings::Settings;
use crate::broker::topics::PARTITIONS_MAX;
use crate::broker::{BrokerConfig, Error, Execution, start, translate};
use crate::env::{FileCache, process_name};
use crate::storage::{
    Closing, FirstBatch, Read, Reserved, RestoreInto, RestoreMark, RestoredPartition, RestoredPlace,
    Restoring, SegmentFile, Store, StoreConfig, StoreError, decode_snapshot,
};
use crate::tier::{
    ArchivedTopic, Author, CATALOG, CacheLimits, CallLimits, Catalog, ChunkCache, Claim, Claimant, Claims,
    ColdLog, Download, Ledger, Manifest, PartitionKey, SectionKind, State, TierError, TierStore,
    TieredSegment, WriterId,
};
use crate::types::{
    LeaderEpoch, Offset, PartitionId, ProducerId, Timestamp, TopicId, TopicName, TopicPartition,
};

use super::bucket::Archive;
use super::start::{opened, random, refused};
use super::{Access, Restore};

/// Producer ids that are passed over: more than a server gives in the seconds that its archive may be behind.
const IDS_PASSED_OVER: i64 = 1_000_000;
/// The greatest producer id that comes from a server; as of a directory that is adopted.
const PRODUCER_ID_MAX: i64 = i64::MAX / 2;
/// Manifests that are read at the same time.
const MANIFESTS_AT_ONCE: usize = 32;
/// Segments that are downloaded at the same time.
const DOWNLOADS: usize = 8;
/// Logs that are put into the directory together.
const PUT_AT_ONCE: usize = 64;
const READ_BYTES: usize = 1 << 20;

/// What a restore comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestoreReport {
    /// Whose archive it is; the directory belongs to that cluster, too.
    pub cluster_id: String,
    /// The newest epoch that was claimed of it.
    pub epoch: LeaderEpoch,
    /// What comes back, by name.
    pub topics: Vec<RestoredTopic>,
}

/// A topic that comes back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestoredTopic {
    /// Its name.
    pub name: TopicName,
    /// Its id.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: i32,
    /// Its segments in the archive.
    pub segments: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of their batches.
    pub size_bytes: u64,
    /// Where they are afterwards; `None` for a topic that is not archived and comes back empty.
    pub place: Option<RestoredPlace>,
}

/// How far the downloads are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RestoreProgress {
    /// Segments that are there.
    pub segments: u64,
    /// Of so many.
    pub of: u64,
    /// Bytes of their batches.
    pub size_bytes: u64,
}

/// Who hears of progress.
pub(in crate::broker) type Tell<'a> = &'a (dyn Fn(RestoreProgress) + Sync);

/// What to restore, and how.
pub(in crate::broker) struct Job<'a> {
    pub(in crate::broker) config: &'a BrokerConfig,
    pub(in crate::broker) files: Arc<FileCache>,
    pub(in crate::broker) now: Timestamp,
    pub(in crate::broker) tell: Tell<'a>,
}

/// Why it did not come to its end.
#[derive(Debug)]
enum Failure {
    Bucket(TierError),
    Disk(StoreError),
    Told(Error),
}

impl From<TierError> for Failure {
    fn from(error: TierError) -> Self {
        Self::Bucket(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Disk(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Told(error)
    }
}

/// Opens an archive to read it.
pub(super) fn opened_to_read(config: &BrokerConfig) -> Result<TierStore, Error> {
    if let Some(store) = &config.archive.store {
        return Ok(store.clone().read_only());
    }
    let url = config.archive.url.as_deref().unwrap_or_default();
    let opened = TierStore::open_to_read(url, CallLimits::default());
    opened.map(TierStore::read_only).map_err(|error| refused(&error))
}

impl Job<'_> {
    /// Restores into the data directory of the configuration. Blocks; runs on a thread of the runtime that may.
    ///
    /// # Errors
    /// A directory that is not empty; what the archive or the disk says.
    pub(in crate::broker) fn run(&self, execution: Execution) -> Result<RestoreReport, Error> {
        let free = Restoring::check(&self.files, &self.config.data_dir);
        free.map_err(|error| self.told(error.into()))?;
        let bucket = opened_to_read(self.config)?;
        let reader = Reader {
            job: self,
            bucket: &bucket,
            author: None,
        };
        let done = Handle::current().block_on(async {
            let plan = reader.plan().await?;
            if execution == Execution::Apply {
                let place = Restoring::reserve(Arc::clone(&self.files), self.config.data_dir.clone())?;
                reader.make(&plan, place).await?;
            }
            Ok(plan.report())
        });
        done.map_err(|failure| self.told(failure))
    }

    /// As [`run`](Self::run), by a server, which claims the archive: once the directory is its own, so that of two on one directory only
    /// one does, and once all that is to come back can.
    fn run_and_own(&self, bucket: &TierStore) -> Result<RestoreReport, Error> {
        let place = Restoring::reserve(Arc::clone(&self.files), self.config.data_dir.clone());
        let place = place.map_err(|error| self.told(error.into()))?;
        let done = Handle::current().block_on(async {
            let looking = Reader {
                job: self,
                bucket,
                author: None,
            };
            // Whatever is wrong with the archive is found before its owner loses it.
            looking.plan().await?;
            let reader = Reader {
                author: Some(own(bucket, self.now).await?),
                ..looking
            };
            let plan = reader.plan().await?;
            reader.make(&plan, place).await?;
            Ok(plan.report())
        });
        done.map_err(|failure| self.told(failure))
    }

    fn told(&self, failure: Failure) -> Error {
        match failure {
            Failure::Bucket(error) => refused(&error),
            Failure::Disk(error) => translate::store(&self.config.data_dir.display(), &error),
            Failure::Told(error) => error,
        }
    }
}

/// Everything that is going to be there.
struct Plan {
    owner: Claim,
    catalog_crc: u32,
    topics: Topics,
    logs: Vec<PlannedLog>,
}

/// A log that comes back.
struct PlannedLog {
    key: PartitionKey,
    manifest: Manifest,
    place: RestoredPlace,
}

impl PlannedLog {
    fn id(&self) -> TopicPartition {
        TopicPartition::new(self.key.topic.clone(), self.key.partition)
    }

    fn end(&self) -> Offset {
        self.manifest.end().max(self.manifest.log_start())
    }
}

impl Plan {
    fn report(&self) -> RestoreReport {
        let mut topics: BTreeMap<TopicId, RestoredTopic> = BTreeMap::new();
        for topic in &self.topics.back {
            topics.insert(topic.id, topic.restored());
        }
        for log in &self.logs {
            let Some(topic) = topics.get_mut(&log.key.topic_id) else {
                continue;
            };
            for segment in log.manifest.segments().values() {
                topic.segments += 1;
                topic.records += segment.summary.records;
                topic.size_bytes += segment.summary.log_bytes;
            }
        }
        let mut topics: Vec<_> = topics.into_values().collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        RestoreReport {
            cluster_id: self.owner.cluster_id.clone(),
            epoch: self.owner.epoch,
            topics,
        }
    }

    fn downloads(&self) -> RestoreProgress {
        let mut all = RestoreProgress::default();
        for log in self.logs.iter().filter(|log| log.place == RestoredPlace::Local) {
            all.of += u64::try_from(log.manifest.segments().len()).unwrap_or(u64::MAX);
        }
        all
    }
}

/// Which topics come back, and what the log of the metadata has to be told for that.
#[derive(Debug, Default)]
struct Topics {
    back: Vec<TopicBack>,
    changes: Vec<Change>,
    next_producer_id: i64,
}

#[derive(Debug)]
struct TopicBack {
    name: TopicName,
    id: TopicId,
    partitions: i32,
    place: Option<RestoredPlace>,
}

impl TopicBack {
    fn restored(&self) -> RestoredTopic {
        RestoredTopic {
            name: self.name.clone(),
            id: self.id,
            partitions: self.partitions,
            segments: 0,
            records: 0,
            size_bytes: 0,
            place: self.place,
        }
    }
}

impl Topics {
    /// Holds the catalog against the metadata.
    fn of(
        catalog: &Catalog,
        contents: &Contents,
        place_of: impl Fn(&TopicEntry) -> Result<RestoredPlace, Error>,
    ) -> Result<Self, Error> {
        let mut topics = Self {
            next_producer_id: contents.next_producer_id,
            ..Self::default()
        };
        for topic in catalog.topics().values() {
            topics.archived(topic, contents, &place_of)?;
        }
        for (name, entry) in &contents.topics {
            let id = entry.topic_id().expect("checked when the entry was read");
            let is_decided =
                topics.back.iter().any(|back| back.name == *name) || catalog.topics().contains_key(&id);
            if is_decided {
                continue;
            }
            if entry.state == metadata::State::Deleting || catalog.removed().contains_key(&id) {
                topics.changes.push(Change::topic(name, None));
                continue;
            }
            topics.back.push(TopicBack {
                name: name.clone(),
                id,
                partitions: entry.partitions,
                place: None,
            });
        }
        Ok(topics)
    }

    fn archived(
        &mut self,
        topic: &ArchivedTopic,
        contents: &Contents,
        place_of: impl Fn(&TopicEntry) -> Result<RestoredPlace, Error>,
    ) -> Result<(), Error> {
        if topic.id == metadata::TOPIC_ID {
            self.back.push(TopicBack {
                name: metadata::partition().topic,
                id: topic.id,
                partitions: 1,
                place: Some(RestoredPlace::Local),
            });
            return Ok(());
        }
        if contents.removed.contains(&topic.id) {
            // The catalog had not heard of it yet.
            return Ok(());
        }
        if topic.name == metadata::partition().topic {
            return Err(unfit(format!(
                "topic {} has another id than it must have, {}",
                topic.name, topic.id
            )));
        }
        let known = contents.topics.get(&topic.name);
        let known = known.filter(|entry| entry.topic_id() == Some(topic.id));
        if known.is_some_and(|entry| entry.state == metadata::State::Deleting) {
            self.changes.push(Change::topic(&topic.name, None));
            return Ok(());
        }
        let entry = TopicEntry::archived(topic, known);
        check_count(&topic.name, entry.partitions)?;
        if known != Some(&entry) {
            self.changes.push(Change::topic(&topic.name, Some(&entry)));
        }
        self.back.push(TopicBack {
            name: topic.name.clone(),
            id: topic.id,
            partitions: entry.partitions,
            place: Some(place_of(&entry).map_err(|error| error.of_topic(&topic.name))?),
        });
        Ok(())
    }
}

/// Reads the archive, and makes the directory.
struct Reader<'a> {
    job: &'a Job<'a>,
    bucket: &'a TierStore,
    /// Who fences what is read, if anybody does.
    author: Option<Author>,
}

impl Reader<'_> {
    /// Reads a ledger to its end; with an author, nobody of before writes behind that end.
    async fn ledger<S: State>(&self, path: String, empty: S) -> Result<S, TierError> {
        let mut ledger = Ledger::open(self.bucket.clone(), path, empty).await?;
        if let Some(author) = self.author {
            ledger.append(author, self.job.now, |_| Some(Vec::new())).await?;
        }
        Ok(ledger.state().clone())
    }

    async fn manifest(&self, key: &PartitionKey) -> Result<Manifest, TierError> {
        self.ledger(key.manifest(), Manifest::empty(key)).await
    }

    async fn plan(&self) -> Result<Plan, Failure> {
        let claims = Claims::read(self.bucket.clone()).await?;
        let owner = claims.owner().cloned().ok_or_else(|| no_archive(self.bucket))?;
        let catalog = self.ledger(CATALOG.to_owned(), Catalog::default()).await?;
        let (contents, metadata) = self.contents(&catalog).await?;
        let settings = Settings::new(&self.job.config.topic_defaults)?;
        let downloads = self.job.config.archive.restore == Restore::Download;
        let is_mount = self.job.config.archive.access == Access::Read;
        let topics = Topics::of(&catalog, &contents, |entry| {
            // Compaction looks at all of a log: it is all local, always.
            let compacts = settings.resolve(&entry.config)?.cleanup.compacts();
            Ok(match (compacts || downloads) && !is_mount {
                true => RestoredPlace::Local,
                false => RestoredPlace::Archive,
            })
        })?;
        let all = topics
            .back
            .iter()
            .map(|topic| i64::from(topic.partitions))
            .sum::<i64>();
        if all > i64::from(PARTITIONS_MAX) + 1 {
            let reason =
                format!("its topics have {all} partitions together, at most {PARTITIONS_MAX} are taken");
            return Err(unfit(reason).into());
        }
        let planned = topics.back.iter().filter_map(|topic| Some((topic, topic.place?)));
        let keys = planned.flat_map(|(topic, place)| {
            (0..topic.partitions).map(move |number| {
                let key = PartitionKey {
                    topic: topic.name.clone(),
                    topic_id: topic.id,
                    partition: PartitionId(number),
                };
                (key, place)
            })
        });
        let keys: Vec<_> = keys.collect();
        let metadata = &metadata;
        let read = stream::iter(keys).map(|(key, place)| async move {
            // That of the metadata is the one that the topics were read by: beside a living server another may be newer.
            let manifest = match metadata {
                Some(metadata) if key.topic_id == metadata::TOPIC_ID => metadata.clone(),
                _ => self.manifest(&key).await?,
            };
            Ok::<_, TierError>(PlannedLog { key, manifest, place })
        });
        let logs: Vec<PlannedLog> = read.buffered(MANIFESTS_AT_ONCE).try_collect().await?;
        Ok(Plan {
            owner,
            catalog_crc: catalog.topics_crc(),
            topics,
            logs: logs.into_iter().filter(|log| log.end() > Offset::ZERO).collect(),
        })
    }

    /// Reads what the log of the metadata says, and returns the manifest that it was read by.
    async fn contents(&self, catalog: &Catalog) -> Result<(Contents, Option<Manifest>), Failure> {
        let mut contents = Contents::default();
        if !catalog.topics().contains_key(&metadata::TOPIC_ID) {
            return Ok((contents, None));
        }
        let id = metadata::partition();
        let key = PartitionKey {
            topic: id.topic.clone(),
            topic_id: metadata::TOPIC_ID,
            partition: id.partition,
        };
        let manifest = Arc::new(self.manifest(&key).await?);
        let cache = ChunkCache::in_memory(CacheLimits::default());
        let log = ColdLog::new(self.bucket.clone(), key, Arc::clone(&manifest), cache);
        let (mut from, until) = (manifest.log_start(), manifest.end());
        while from < until {
            let read = Read {
                from,
                until,
                times: None,
                max_bytes: READ_BYTES,
                first: FirstBatch::Whole,
            };
            let slice = log.read(&read).await?;
            metadata::apply_all(&mut contents, &id, slice.bytes)?;
            from = slice.next_offset.max(Offset(from.0 + 1));
        }
        Ok((contents, Some(Manifest::clone(&manifest))))
    }

    /// Makes the directory that the plan describes.
    async fn make(&self, plan: &Plan, place: Reserved) -> Result<(), Failure> {
        let (files, path) = (&self.job.files, &self.job.config.data_dir);
        let dir = place.begin(self.bucket.url())?;
        self.download(plan, &dir).await?;
        let mut next_producer_id = plan.topics.next_producer_id;
        for some in plan.logs.chunks(PUT_AT_ONCE) {
            let states = stream::iter(some).map(|log| self.state_of(log, plan));
            let states: Vec<RestoredPartition> = states.buffered(MANIFESTS_AT_ONCE).try_collect().await?;
            dir.put(&states)?;
            let met = states.iter().filter_map(greatest_producer);
            let behind = met.map(|id| id.0.saturating_add(1));
            next_producer_id = next_producer_id.max(behind.max().unwrap_or(0));
        }
        if next_producer_id > PRODUCER_ID_MAX {
            let reason = format!("producer id {} was never given by a server", next_producer_id - 1);
            return Err(unfit(reason).into());
        }
        dir.finish(&plan.owner.cluster_id, plan.owner.epoch)?;
        let next = ProducerId(next_producer_id.saturating_add(IDS_PASSED_OVER));
        self.correct(plan, next)?;
        let ends: Vec<_> = plan.logs.iter().map(|log| (log.id(), log.end())).collect();
        let url = self.bucket.url();
        let mark = match self.job.config.archive.access {
            Access::Own => RestoreMark::whole(url, plan.catalog_crc, &ends),
            Access::Read => RestoreMark::mounted(url),
        };
        mark.write(files, path)?;
        Ok(())
    }

    /// Fetches the segments of all logs that come here.
    async fn download(&self, plan: &Plan, dir: &Restoring) -> Result<(), Failure> {
        let progress = Mutex::new(plan.downloads());
        (self.job.tell)(*progress.lock());
        let local = plan.logs.iter().filter(|log| log.place == RestoredPlace::Local);
        for log in local.clone() {
            dir.make_dir(&log.id())?;
        }
        let segments = local.flat_map(|log| {
            log.manifest
                .segments()
                .values()
                .map(move |segment| (log, segment))
        });
        let segments: Vec<_> = segments.collect();
        let fetched = stream::iter(segments).map(|(log, segment)| async {
            self.segment(log, segment, dir).await?;
            let now = {
                let mut progress = progress.lock();
                progress.segments += 1;
                progress.size_bytes += segment.summary.log_bytes;
                *progress
            };
            (self.job.tell)(now);
            Ok::<_, Failure>(())
        });
        fetched.buffer_unordered(DOWNLOADS).try_collect().await
    }

    async fn segment(
        &self,
        log: &PlannedLog,
        segment: &TieredSegment,
        dir: &Restoring,
    ) -> Result<(), Failure> {
        let (id, base) = (log.id(), segment.id.base);
        let download = Download::open(self.bucket, &log.key, segment).await?;
        let file = dir.make_file(&id, base, SegmentFile::Log)?;
        download
            .log(|part| Ok::<_, Failure>(file.write_at(&part.bytes, part.position)?))
            .await?;
        let mut made = vec![file];
        for (kind, file) in [
            (SectionKind::OFFSET_INDEX, SegmentFile::OffsetIndex),
            (SectionKind::TIME_INDEX, SegmentFile::TimeIndex),
            (SectionKind::TRANSACTIONS, SegmentFile::TxnIndex),
        ] {
            let bytes = download.section(kind).await?;
            let is_optional = kind == SectionKind::TRANSACTIONS;
            if !(bytes.is_empty() && is_optional) {
                let file = dir.make_file(&id, base, file)?;
                file.write_at(&bytes, 0)?;
                made.push(file);
            }
        }
        dir.sync(&made)?;
        Ok(())
    }

    /// Fetches what a log needs beside its batches: it stands in its newest object.
    async fn state_of(&self, log: &PlannedLog, plan: &Plan) -> Result<RestoredPartition, Failure> {
        let segments = log.manifest.segments();
        let (mut producers, mut epochs) = (bytes::Bytes::new(), bytes::Bytes::new());
        if let Some(last) = segments.values().next_back() {
            let download = Download::open(self.bucket, &log.key, last).await?;
            producers = download.section(SectionKind::PRODUCERS).await?;
            epochs = download.section(SectionKind::EPOCHS).await?;
        }
        Ok(RestoredPartition {
            id: log.id(),
            topic_id: log.key.topic_id,
            log_start: log.manifest.log_start(),
            log_end: log.end(),
            epoch: plan.owner.epoch,
            producers,
            epochs,
            segments: segments.values().map(|segment| segment.summary.clone()).collect(),
            place: log.place,
        })
    }

    /// Appends what the log of the metadata does not say.
    fn correct(&self, plan: &Plan, next_producer_id: ProducerId) -> Result<(), Failure> {
        let config = self.job.config;
        let store_config = StoreConfig {
            dir: config.data_dir.clone(),
            threads: config.recovery_threads,
        };
        let store = Store::open(Arc::clone(&self.job.files), store_config)?;
        let (_, served) = start::open_metadata(config, &store, self.job.now)?;
        let disk = Arc::new(DiskGuard::new(&config.data_dir, config.min_free_bytes));
        let mut log = MetadataLog::new(served, disk);
        let ids = Change::producer_ids(next_producer_id);
        for change in plan.topics.changes.iter().cloned().chain([ids]) {
            log.write(change, None, &store, self.job.now)?;
        }
        store.close().and_then(Closing::clean)?;
        Ok(())
    }
}

impl Archive {
    /// Fills an empty data directory from the archive, where the configuration says so. One that holds data is left as it is: its cluster is
    /// held against the archive's when that is claimed. Blocks, as [`open`](Self::open) does.
    pub(in crate::broker) fn restore_first(
        config: &BrokerConfig,
        files: &Arc<FileCache>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let Some(url) = &config.archive.url else {
            return Ok(());
        };
        let job = Job {
            config,
            files: Arc::clone(files),
            now,
            tell: &|_| {},
        };
        if config.archive.access == Access::Read {
            return job.run(Execution::Apply).map(drop);
        }
        if config.archive.restore == Restore::Off {
            return Ok(());
        }
        let told = |error| translate::store(&config.data_dir.display(), &error);
        if Restoring::look(files, &config.data_dir).map_err(told)? == RestoreInto::Taken {
            tracing::info!(data_dir = %config.data_dir.display(), "the data directory holds data; nothing is restored");
            return Ok(());
        }
        tracing::info!(archive = %url, "the data directory is empty; it is restored from the archive");
        let bucket = opened(config, url).map_err(|error| refused(&error))?;
        let report = job.run_and_own(&bucket)?;
        tracing::info!(archive = %bucket, topics = report.topics.len(), segments = report.segments(), downloaded = report.downloaded(),
            "data directory restored from the archive");
        Ok(())
    }
}

/// Claims an archive as its own cluster, for who has no directory yet.
async fn own(bucket: &TierStore, now: Timestamp) -> Result<Author, Error> {
    let attempt = u64::from_be_bytes(random()?);
    let writer = WriterId(random()?);
    let claimed = async {
        let mut claims = Claims::read(bucket.clone()).await?;
        let Some(owner) = claims.owner() else {
            return Ok(Err(no_archive(bucket)));
        };
        let claimant = Claimant {
            cluster_id: owner.cluster_id.clone(),
            host: process_name(),
            least_epoch: LeaderEpoch(0),
            writer,
        };
        bucket.probe(attempt).await?;
        claims.claim(&claimant, now).await.map(Ok)
    };
    claimed.await.map_err(|error: TierError| refused(&error))?
}

impl RestoreReport {
    /// Returns how many segments come back.
    pub fn segments(&self) -> u64 {
        self.topics.iter().map(|topic| topic.segments).sum()
    }

    /// Returns how many of them come to the local disk.
    pub fn downloaded(&self) -> u64 {
        let local = self
            .topics
            .iter()
            .filter(|topic| topic.place == Some(RestoredPlace::Local));
        local.map(|topic| topic.segments).sum()
    }
}

fn greatest_producer(partition: &RestoredPartition) -> Option<ProducerId> {
    let entries = decode_snapshot(&partition.producers).ok()?;
    // What a client made up no server gives to another.
    let given = entries.iter().map(|entry| entry.id);
    given.filter(|id| id.0 < PRODUCER_ID_MAX).max()
}

/// Makes sure that a topic has as many partitions as one can have.
pub(super) fn check_count(topic: &TopicName, partitions: i32) -> Result<(), Error> {
    if (1..=PARTITIONS_MAX).contains(&partitions) {
        return Ok(());
    }
    Err(unfit(format!(
        "topic {topic} has {partitions} partitions, 1 to {PARTITIONS_MAX} are taken"
    )))
}

fn unfit(reason: String) -> Error {
    Error::ArchiveRefused {
        reason: format!("what the archive says does not fit together: {reason}"),
    }
}

fn no_archive(bucket: &TierStore) -> Error {
    Error::ArchiveRefused {
        reason: format!(
            "there is no archive at {bucket}: no server has ever claimed it; look at the address"
        ),
    }
}
