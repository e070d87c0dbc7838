//! What the tests of this module share: stores that lie, stores that count, and a partition whose segments go to the bucket.
//!
//! [`FaultyStore`] does what networks and stores do: it refuses, hangs, loses an answer, answers twice, cuts short, lists late, and
//! overwrites where it should create. By a script, or at random by a seed. [`CountingStore`] proves how much was asked for.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result, UploadPart,
};
use parking_lot::Mutex;

use super::keys::PartitionKey;
use super::ledger::Author;
use super::ledger_entry::WriterId;
use super::store::{CallLimits, TierStore};
use super::upload::{SealedSegment, SectionSource, Ticket};
use super::{Ledger, Manifest, SectionKind, Uploader};
use crate::env::{CacheLimits, FileCache, Fs, OpenMode, SimFs};
use crate::record::Accepted;
use crate::storage::{
    self, LogConfig, MANIFEST_FILE_NAME, Origin, Partition, PartitionSpec, SegmentFlags, Store, StoreConfig,
};
use crate::types::{LeaderEpoch, PartitionId, Timestamp, TopicId, TopicName, TopicPartition};

/// The present of tests that do not move it.
pub(super) const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// What a call comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// As it should.
    None,
    /// 503 before anything was done.
    Refuse,
    /// It is done, and the answer is an error.
    LoseAnswer,
    /// Nothing is done, and no answer comes.
    Hang,
    /// It is done, and no answer comes.
    HangAfter,
    /// It is done twice; the second answer counts.
    Duplicate,
    /// Half of the bytes are stored, or come back.
    Truncate,
    /// Created over what is there.
    Overwrite,
    /// The listing is empty.
    ListNothing,
    /// A put is done later, behind what comes next, and its answer is an error; any other call takes its time.
    Late,
}

/// How late.
const LATE: Duration = Duration::from_millis(700);

const AT_RANDOM: [Fault; 7] = [
    Fault::Refuse,
    Fault::LoseAnswer,
    Fault::Hang,
    Fault::HangAfter,
    Fault::Duplicate,
    Fault::Truncate,
    Fault::Late,
];

/// Which calls a fault may strike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Put,
    Part,
    Complete,
    Get,
    Delete,
    List,
}

/// Asked before each call; where it says no, nothing is done any more.
type Alive = Box<dyn Fn(Kind) -> bool + Send>;

#[derive(Default)]
struct Script {
    alive: Option<Alive>,
    /// What is created whole by every store stays whole: entries of ledgers.
    spares_entries: bool,
    /// Kind, part of the key, how many are let through first, what then.
    next: VecDeque<(Kind, String, u32, Fault)>,
    /// Applied to every call of this kind.
    always: Vec<(Kind, Fault)>,
    /// State of the random choice, and faults in a thousand calls.
    random: Option<(u64, u64)>,
    struck: u64,
    /// Every call since the last look.
    calls: Vec<(Kind, String)>,
}

impl Script {
    fn choose(&mut self, kind: Kind, key: &str) -> Fault {
        self.calls.push((kind, key.to_owned()));
        if self.alive.as_ref().is_some_and(|alive| !alive(kind)) {
            return Fault::Refuse;
        }
        if let Some((_, fault)) = self.always.iter().find(|(always, _)| *always == kind) {
            return *fault;
        }
        let matching =
            |(wanted, part, ..): &&mut (Kind, String, u32, Fault)| *wanted == kind && key.contains(&**part);
        if let Some((_, _, skip, fault)) = self.next.iter_mut().find(matching) {
            if *skip > 0 {
                *skip -= 1;
                return Fault::None;
            }
            let fault = *fault;
            let at = self
                .next
                .iter()
                .position(|(wanted, part, ..)| *wanted == kind && key.contains(&**part));
            at.map(|at| self.next.remove(at));
            self.struck += 1;
            return fault;
        }
        let Some((state, per_mille)) = &mut self.random else {
            return Fault::None;
        };
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let drawn = *state >> 33;
        if drawn % 1000 >= *per_mille {
            return Fault::None;
        }
        self.struck += 1;
        let index = usize::try_from((drawn / 1000) % 7).expect("less than 7");
        match AT_RANDOM[index] {
            Fault::Truncate if self.spares_entries && !key.contains("/segments/") => Fault::Refuse,
            fault => fault,
        }
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").finish_non_exhaustive()
    }
}

/// A store that does not always do what it is told.
#[derive(Clone, Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    script: Arc<Mutex<Script>>,
}

impl FaultyStore {
    pub(crate) fn over(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            script: Arc::default(),
        }
    }

    /// A store in memory whose calls fail at random, `per_mille` of a thousand.
    pub(super) fn seeded(inner: Arc<dyn ObjectStore>, seed: u64, per_mille: u64) -> Self {
        let store = Self::over(inner);
        store.script.lock().random = Some((seed, per_mille));
        store
    }

    /// From now on calls fail at random, but entries of ledgers are never cut.
    pub(crate) fn fail_at_random(&self, seed: u64, per_mille: u64) {
        let mut script = self.script.lock();
        script.random = Some((seed, per_mille));
        script.spares_entries = true;
    }

    /// Is asked before each call; where `alive` says no, nothing is done any more, as after the end of a process.
    pub(crate) fn lives_while(&self, alive: impl Fn(Kind) -> bool + Send + 'static) {
        self.script.lock().alive = Some(Box::new(alive));
    }

    /// Strikes the next call of a kind whose key contains `part`.
    pub(crate) fn next(&self, kind: Kind, part: &str, fault: Fault) {
        self.after(kind, part, 0, fault);
    }

    /// Lets `skip` such calls through first.
    pub(super) fn after(&self, kind: Kind, part: &str, skip: u32, fault: Fault) {
        self.script
            .lock()
            .next
            .push_back((kind, part.to_owned(), skip, fault));
    }

    pub(crate) fn always(&self, kind: Kind, fault: Fault) {
        self.script.lock().always.push((kind, fault));
    }

    /// Behaves from now on.
    pub(crate) fn heal(&self) {
        *self.script.lock() = Script::default();
    }

    pub(super) fn struck(&self) -> u64 {
        self.script.lock().struck
    }

    /// Returns the calls since the last time, or since it was healed: kind and key of each.
    pub(crate) fn take_calls(&self) -> Vec<(Kind, String)> {
        std::mem::take(&mut self.script.lock().calls)
    }

    fn choose(&self, kind: Kind, key: &str) -> Fault {
        self.script.lock().choose(kind, key)
    }
}

fn error(text: &'static str) -> object_store::Error {
    object_store::Error::Generic {
        store: "faulty",
        source: text.into(),
    }
}

async fn around<T>(fault: Fault, work: impl Future<Output = Result<T>>) -> Result<T> {
    match fault {
        Fault::Refuse => Err(error("503 slow down")),
        Fault::Hang => std::future::pending().await,
        Fault::LoseAnswer => {
            let _ = work.await;
            Err(error("connection reset"))
        }
        Fault::Late => {
            tokio::time::sleep(LATE).await;
            work.await
        }
        Fault::HangAfter => {
            let _ = work.await;
            std::future::pending().await
        }
        _ => work.await,
    }
}

fn half(payload: PutPayload) -> PutPayload {
    let bytes = Bytes::from(payload);
    let len = bytes.len() / 2;
    bytes.slice(..len).into()
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fault = self.choose(Kind::Put, at.as_ref());
        let (mut payload, mut options) = (payload, options);
        match fault {
            Fault::Truncate => payload = half(payload),
            Fault::Overwrite => options.mode = PutMode::Overwrite,
            Fault::Duplicate => drop(self.inner.put_opts(at, payload.clone(), options.clone()).await),
            Fault::Late => {
                let (inner, at) = (Arc::clone(&self.inner), at.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(LATE).await;
                    drop(inner.put_opts(&at, payload, options).await);
                });
                return Err(error("connection reset"));
            }
            _ => {}
        }
        around(fault, self.inner.put_opts(at, payload, options)).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(at, options).await?;
        Ok(Box::new(FaultyUpload {
            store: self.clone(),
            key: at.to_string(),
            inner,
        }))
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.choose(Kind::Get, at.as_ref());
        let is_head = options.head;
        let found = around(fault, self.inner.get_opts(at, options)).await?;
        if fault != Fault::Truncate || is_head {
            return Ok(found);
        }
        let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
        let bytes = found.bytes().await?;
        let part = bytes.slice(..bytes.len() / 2);
        Ok(GetResult {
            payload: GetResultPayload::Stream(futures_util::stream::once(async { Ok(part) }).boxed()),
            meta,
            range,
            attributes,
            extensions: Default::default(),
        })
    }

    fn delete_stream(&self, places: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        places
            .and_then(move |at| {
                let store = store.clone();
                async move {
                    let fault = store.choose(Kind::Delete, at.as_ref());
                    around(fault, store.inner.delete(&at)).await?;
                    Ok(at)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let fault = self.choose(Kind::List, prefix.map_or("", AsRef::as_ref));
        match fault {
            Fault::ListNothing => futures_util::stream::empty().boxed(),
            Fault::None | Fault::Duplicate | Fault::Truncate => self.inner.list(prefix),
            _ => futures_util::stream::once(async { Err(error("503 slow down")) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FaultyUpload {
    store: FaultyStore,
    key: String,
    inner: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let fault = self.store.choose(Kind::Part, &self.key);
        let payload = if fault == Fault::Truncate {
            half(payload)
        } else {
            payload
        };
        Box::pin(around(fault, self.inner.put_part(payload)))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fault = self.store.choose(Kind::Complete, &self.key);
        around(fault, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

/// What was asked of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    pub(super) puts: u64,
    pub(super) put_bytes: u64,
    pub(super) heads: u64,
    pub(super) gets: u64,
    pub(super) got_bytes: u64,
    pub(super) lists: u64,
}

/// A store that counts.
#[derive(Clone, Debug)]
pub(super) struct CountingStore {
    inner: Arc<dyn ObjectStore>,
    counts: Arc<Mutex<Counts>>,
}

impl CountingStore {
    pub(crate) fn over(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            counts: Arc::default(),
        }
    }

    /// Returns the counts since the last time.
    pub(super) fn take(&self) -> Counts {
        std::mem::take(&mut self.counts.lock())
    }
}

impl fmt::Display for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counting({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        {
            let mut counts = self.counts.lock();
            counts.puts += 1;
            counts.put_bytes += u64::try_from(payload.content_length()).expect("64 bits fit");
        }
        self.inner.put_opts(at, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.counts.lock().puts += 1;
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let is_head = options.head;
        let found = self.inner.get_opts(at, options).await;
        let mut counts = self.counts.lock();
        if is_head {
            counts.heads += 1;
        } else {
            counts.gets += 1;
            if let Ok(found) = &found {
                counts.got_bytes += found.range.end - found.range.start;
            }
        }
        found
    }

    fn delete_stream(&self, places: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(places)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counts.lock().lists += 1;
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A store in memory.
pub(crate) fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

/// A bucket over any store, with deadlines of a second or two.
pub(crate) fn bucket(inner: Arc<dyn ObjectStore>) -> TierStore {
    let limits = CallLimits {
        call: Duration::from_secs(1),
        transfer: Duration::from_secs(2),
    };
    TierStore::over(inner, Path::from("some/prefix"), "test://bucket", limits)
}

/// A server of epoch `epoch`, told from others by `number`.
pub(super) fn author(epoch: i32, number: u8) -> Author {
    Author {
        epoch: LeaderEpoch(epoch),
        writer: WriterId([number; 16]),
    }
}

pub(super) fn ticket(attempt: u64) -> Ticket {
    Ticket {
        author: author(1, 1),
        attempt,
        now: NOW,
    }
}

/// The partition of all tests.
pub(super) fn partition() -> PartitionKey {
    PartitionKey {
        topic: TopicName::new("t").expect("a name"),
        topic_id: TopicId([1; 16]),
        partition: PartitionId(0),
    }
}

pub(super) async fn manifest_of(store: &TierStore) -> Ledger<Manifest> {
    let partition = partition();
    Ledger::open(store.clone(), partition.manifest(), Manifest::empty(&partition))
        .await
        .expect("the manifest is read")
}

/// A partition on a simulated disk, written and closed; its sealed segments as the broker will hand them over.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) fs: SimFs,
    pub(super) config: LogConfig,
}

const DATA: &str = "/data";

impl Local {
    /// Appends `batches`, rolls where the segments are full, and closes.
    pub(super) fn of(batches: &[Accepted], config: LogConfig) -> Self {
        let local = Self {
            fs: SimFs::new(),
            config,
        };
        let (store, log) = local.open();
        for batch in batches {
            let origin = if batch.header().is_control() {
                Origin::Coordinator
            } else {
                Origin::Client
            };
            log.append(batch, origin, NOW).expect("appended");
        }
        drop(log);
        store.close().expect("closed");
        local
    }

    pub(super) fn open(&self) -> (Store, Arc<Partition>) {
        let fs = Arc::new(self.fs.clone()) as Arc<dyn Fs>;
        let files = Arc::new(FileCache::new(fs, CacheLimits::default()));
        let config = StoreConfig {
            dir: DATA.into(),
            threads: 1,
        };
        let store = Store::open(files, config).expect("the store opens");
        let partition = partition();
        let spec = PartitionSpec {
            id: TopicPartition::new(partition.topic, partition.partition),
            topic_id: partition.topic_id,
            config: self.config.clone(),
        };
        let log = store
            .open_partitions(vec![spec], NOW)
            .remove(0)
            .expect("it opens");
        (store, log)
    }

    pub(super) fn file(&self, name: &str) -> Vec<u8> {
        let path = PathBuf::from(DATA).join("t-0").join(name);
        let file = self.fs.open(&path, OpenMode::Read).expect("it is there");
        let mut bytes = vec![0; usize::try_from(file.len_bytes().expect("read")).expect("small")];
        file.read_exact_at(&mut bytes, 0).expect("read");
        bytes
    }

    /// Writes over a file of the partition.
    pub(super) fn overwrite(&self, name: &str, bytes: &[u8]) {
        let path = PathBuf::from(DATA).join("t-0").join(name);
        let file = self.fs.open(&path, OpenMode::ReadWrite).expect("it is there");
        file.write_all_at(&[std::io::IoSlice::new(bytes)], 0)
            .expect("written");
    }

    /// The sealed segments, by offset.
    pub(super) fn sealed(&self) -> Vec<SealedSegment> {
        let manifest = storage::Manifest::decode(&self.file(MANIFEST_FILE_NAME))
            .expect("it is sound")
            .manifest;
        let dir = PathBuf::from(DATA).join("t-0");
        let sealed = manifest
            .segments()
            .values()
            .filter(|summary| summary.flags.contains(SegmentFlags::SEALED));
        sealed
            .map(|summary| {
                let path = |suffix: &str| dir.join(format!("{:020}.{suffix}", summary.base_offset.0));
                let file = |suffix: &str| SectionSource::File(path(suffix));
                let mut sections = vec![
                    (SectionKind::OFFSET_INDEX, file("index")),
                    (SectionKind::TIME_INDEX, file("timeindex")),
                    (
                        SectionKind::EPOCHS,
                        SectionSource::Bytes(self.file("leader-epoch-checkpoint").into()),
                    ),
                ];
                if summary.txn_index_bytes.is_some() {
                    sections.push((SectionKind::TRANSACTIONS, file("txnindex")));
                }
                SealedSegment {
                    summary: summary.clone(),
                    log: file("log"),
                    sections,
                }
            })
            .collect()
    }

    pub(super) fn uploader(&self, store: &TierStore) -> Uploader {
        Uploader::new(Arc::new(self.fs.clone()), store.clone())
    }

    /// Uploads all sealed segments, and returns the manifest.
    pub(super) async fn upload_all(&self, store: &TierStore) -> Ledger<Manifest> {
        let mut manifest = manifest_of(store).await;
        for (attempt, segment) in (1..).zip(self.sealed()) {
            self.uploader(store)
                .upload(&partition(), &mut manifest, &segment, ticket(attempt))
                .await
                .expect("uploaded");
        }
        manifest
    }
}

/// The offsets that segments cover.
pub(super) fn covered(manifest: &Manifest) -> Vec<Range<i64>> {
    let segments = manifest.segments().values();
    segments
        .map(|segment| segment.id.base.0..segment.next_offset().0)
        .collect()
}
