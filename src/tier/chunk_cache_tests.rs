//! Tests of `super`, by way of cold reads: what is fetched, how often, and what is kept.

use std::path::PathBuf;

use futures_util::future::join_all;
use object_store::ObjectStore;

use super::super::manifest::Manifest;
use super::super::read::ColdLog;
use super::super::testing::{
    CountingStore, Counts, Fault, FaultyStore, Kind, Local, NOW, bucket, memory, partition,
};
use super::*;
use crate::env::SimFs;
use crate::record::{Accepted, BatchBuilder, BatchOptions};
use crate::storage::{FirstBatch, LogConfig, Read};
use crate::types::Timestamp;

/// Bytes of all segments together, about: each has two and a half chunks.
const SEGMENTS: usize = 4;

fn batch(number: i64) -> Accepted {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let value: Vec<u8> = (0..20_000u32)
        .map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    builder
        .append(Some(Timestamp(NOW.0 + number)), None, Some(&value), &[])
        .expect("small");
    builder.build().expect("it has a record")
}

/// A few segments in a bucket that counts.
struct Bucket {
    counting: CountingStore,
    faulty: FaultyStore,
    store: TierStore,
    manifest: Arc<Manifest>,
}

impl Bucket {
    async fn new() -> Self {
        let config = LogConfig {
            segment_bytes: 2_600_000,
            ..LogConfig::default()
        };
        let batches: Vec<Accepted> = (0..600).map(batch).collect();
        let local = Local::of(&batches, config);
        let faulty = FaultyStore::over(memory());
        let counting = CountingStore::over(Arc::new(faulty.clone()));
        let store = bucket(Arc::new(counting.clone()) as Arc<dyn ObjectStore>);
        let manifest = local.upload_all(&store).await;
        assert!(manifest.state().segments().len() >= SEGMENTS);
        counting.take();
        Self {
            counting,
            faulty,
            store,
            manifest: Arc::new(manifest.state().clone()),
        }
    }

    fn cold(&self, cache: &Arc<ChunkCache>) -> ColdLog {
        let manifest = Arc::clone(&self.manifest);
        ColdLog::new(self.store.clone(), partition(), manifest, Arc::clone(cache))
    }

    /// Reads from `from` to `until` in slices; returns the bytes, and what was asked of the store for them.
    async fn read_all(&self, cache: &Arc<ChunkCache>, from: i64, until: i64) -> (Vec<u8>, Counts) {
        let cold = self.cold(cache);
        self.counting.take();
        let mut bytes = Vec::new();
        let mut read = ask(from, until, 1 << 20);
        while read.from < read.until {
            let slice = cold.read(&read).await.expect("read");
            bytes.extend_from_slice(&slice.bytes);
            read.from = slice.next_offset;
        }
        cache.settle().await;
        (bytes, self.counting.take())
    }

    fn end(&self) -> i64 {
        self.manifest.end().0
    }
}

fn ask(from: i64, until: i64, max_bytes: usize) -> Read {
    Read {
        from: Offset(from),
        until: Offset(until),
        times: None,
        max_bytes,
        first: FirstBatch::Whole,
    }
}

impl ChunkCache {
    /// Waits until nothing is on its way.
    async fn settle(&self) {
        loop {
            let mut tasks = std::mem::replace(&mut self.state.lock().tasks, JoinSet::new());
            if tasks.is_empty() {
                return;
            }
            while tasks.join_next().await.is_some() {}
        }
    }

    /// Tells whether these bytes lie in what a request brought: they were not copied.
    pub(in crate::tier) fn holds(&self, bytes: &Bytes) -> bool {
        let state = self.state.lock();
        let (from, to) = (bytes.as_ptr(), bytes.as_ptr_range().end);
        state.runs.values().any(|run| {
            let run = run.bytes.as_ptr_range();
            run.start <= from && to <= run.end
        })
    }

    fn kept_bytes(&self) -> u64 {
        let state = self.state.lock();
        let counted: u64 = state.runs.values().map(|run| len(&run.bytes)).sum();
        assert_eq!(counted, state.runs_bytes);
        assert!(state.flights.is_empty());
        counted
    }
}

fn small(memory_bytes: u64) -> CacheLimits {
    CacheLimits {
        memory_bytes,
        ..CacheLimits::default()
    }
}

#[tokio::test]
async fn many_readers_of_one_range_fetch_it_once() {
    let bucket = Bucket::new().await;
    let alone = ChunkCache::in_memory(CacheLimits::default());
    let (expected, counts) = bucket.read_all(&alone, 0, 60).await;
    let shared = ChunkCache::in_memory(CacheLimits::default());
    let all = join_all((0..16).map(|_| async {
        let cold = bucket.cold(&shared);
        let mut bytes = Vec::new();
        let mut read = ask(0, 60, 1 << 20);
        while read.from < read.until {
            let slice = cold.read(&read).await.expect("read");
            bytes.extend_from_slice(&slice.bytes);
            read.from = slice.next_offset;
        }
        bytes
    }))
    .await;
    assert!(all.iter().all(|bytes| *bytes == expected));
    shared.settle().await;
    let together = bucket.counting.take();
    assert_eq!(together.got_bytes, counts.got_bytes);
    assert!(together.gets <= counts.gets + 1, "{together:?}, alone {counts:?}");
}

#[tokio::test]
async fn a_reader_that_is_cancelled_does_not_stop_the_others() {
    let bucket = Bucket::new().await;
    let cache = ChunkCache::in_memory(CacheLimits::default());
    let cold = bucket.cold(&cache);
    let read = ask(0, 1, 1);
    // The footer is there; the next thing that a reader waits for is the log.
    cold.read(&ask(200, 201, 1)).await.expect("read");
    cold.read(&ask(bucket.end() - 1, bucket.end(), 1))
        .await
        .expect("read");
    bucket.counting.take();
    let mut first = Box::pin(cold.read(&read));
    assert!(futures_util::poll!(first.as_mut()).is_pending());
    let second = cold.read(&read);
    drop(first);
    assert!(!second.await.expect("read").bytes.is_empty());
    let counts = bucket.counting.take();
    assert_eq!(counts.gets, 2, "footer and log, once each: {counts:?}");
}

#[tokio::test]
async fn a_sequential_read_fetches_at_most_a_fifth_more_wherever_it_stops() {
    let bucket = Bucket::new().await;
    for slices in 5..=12 {
        let cache = ChunkCache::in_memory(CacheLimits::default());
        let cold = bucket.cold(&cache);
        let mut read = ask(0, bucket.end(), 1 << 20);
        let mut returned = 0;
        for _ in 0..slices {
            let slice = cold.read(&read).await.expect("read");
            returned += len(&slice.bytes);
            read.from = slice.next_offset;
        }
        cache.settle().await;
        let fetched = bucket.counting.take().got_bytes;
        assert!(
            fetched * 10 <= returned * 12,
            "{fetched} fetched, {returned} returned in {slices} slices"
        );
    }
    let cache = ChunkCache::in_memory(CacheLimits::default());
    let (bytes, counts) = bucket.read_all(&cache, 0, bucket.end()).await;
    let returned = u64::try_from(bytes.len()).expect("small");
    assert!(
        counts.got_bytes * 100 <= returned * 102,
        "{counts:?} for {returned}"
    );
}

#[tokio::test]
async fn what_lies_ahead_is_fetched_only_as_a_walk_goes_on() {
    let bucket = Bucket::new().await;
    let cache = ChunkCache::in_memory(CacheLimits::default());
    // A reader here and there gets nothing ahead.
    for from in [7, 150, 290, 420] {
        bucket
            .cold(&cache)
            .read(&ask(from, from + 1, 1))
            .await
            .expect("read");
    }
    cache.settle().await;
    let counts = bucket.counting.take();
    assert!(counts.got_bytes < 4 * u64::from(CHUNK_BYTES), "{counts:?}");
    assert_eq!((cache.ahead(0), cache.ahead(6 << 20)), (0, 1 << 20));
    assert_eq!(cache.ahead(1 << 40), CacheLimits::default().read_ahead_bytes);
    // One that goes on has the next bytes before it asks.
    let cache = ChunkCache::in_memory(CacheLimits::default());
    let cold = bucket.cold(&cache);
    let mut read = ask(0, bucket.end(), 256 << 10);
    let mut free = 0;
    while read.from < read.until {
        bucket.counting.take();
        let slice = cold.read(&read).await.expect("read");
        let during = bucket.counting.take();
        free += u32::from(during.gets == 0);
        cache.settle().await;
        read.from = slice.next_offset;
    }
    assert!(free >= 15, "{free} slices were there already");
}

#[tokio::test]
async fn a_sequential_reader_comes_to_the_next_segment_without_a_wait() {
    let bucket = Bucket::new().await;
    let cache = ChunkCache::in_memory(CacheLimits::default());
    let cold = bucket.cold(&cache);
    let begins: Vec<Offset> = bucket.manifest.segments().keys().copied().collect();
    let mut read = ask(0, bucket.end(), 256 << 10);
    let mut waits = Vec::new();
    while read.from < read.until {
        bucket.counting.take();
        let slice = cold.read(&read).await.expect("read");
        if begins.contains(&read.from) && bucket.counting.take().gets > 0 {
            waits.push(read.from);
        }
        cache.settle().await;
        read.from = slice.next_offset;
    }
    assert_eq!(waits, [Offset(0)], "of {begins:?}");
    // One that ends with its segment has nothing fetched of the next.
    let cache = ChunkCache::in_memory(CacheLimits::default());
    let (_, counts) = bucket.read_all(&cache, 0, begins[2].0).await;
    let below = begins[2].0..;
    let expected: u64 = bucket
        .manifest
        .segments()
        .values()
        .take(2)
        .map(|segment| segment.object_bytes)
        .sum();
    assert!(
        counts.got_bytes <= expected,
        "{counts:?} for what lies before {below:?}, {expected}"
    );
}

#[tokio::test]
async fn memory_is_bounded_and_a_second_reader_gets_what_is_there() {
    let bucket = Bucket::new().await;
    let roomy = ChunkCache::in_memory(CacheLimits::default());
    let (expected, _) = bucket.read_all(&roomy, 0, bucket.end()).await;
    let (again, counts) = bucket.read_all(&roomy, 0, bucket.end()).await;
    assert!(again == expected && counts.gets == 0, "{counts:?}");
    let tight = ChunkCache::in_memory(small(1 << 20));
    let (found, _) = bucket.read_all(&tight, 0, bucket.end()).await;
    assert!(found == expected);
    assert!(tight.kept_bytes() <= 1 << 20);
    let nothing = ChunkCache::in_memory(small(0));
    let (found, _) = bucket.read_all(&nothing, 0, bucket.end()).await;
    assert!(found == expected && nothing.kept_bytes() == 0);
}

fn folder() -> PathBuf {
    PathBuf::from("/data/tier-cache")
}

fn on_disk(fs: &SimFs, disk_bytes: u64) -> Arc<ChunkCache> {
    let limits = CacheLimits {
        disk_bytes,
        ..small(512 << 10)
    };
    ChunkCache::with_folder(limits, Arc::new(fs.clone()), &folder()).expect("it opens")
}

fn a_disk() -> SimFs {
    let fs = SimFs::new();
    fs.create_dir(&PathBuf::from("/data")).expect("made");
    fs
}

#[tokio::test]
async fn what_memory_has_no_room_for_comes_from_disk_and_a_start_empties_it() {
    let bucket = Bucket::new().await;
    let fs = a_disk();
    let cache = on_disk(&fs, 64 << 20);
    let (expected, first) = bucket.read_all(&cache, 0, bucket.end()).await;
    cache.settle().await;
    let (found, second) = bucket.read_all(&cache, 0, bucket.end()).await;
    assert!(found == expected);
    assert!(
        second.got_bytes * 4 < first.got_bytes,
        "{} of {}",
        second.got_bytes,
        first.got_bytes
    );
    assert!(cache.kept_bytes() <= 512 << 10);
    drop(cache);
    assert!(!fs.list(&folder()).expect("listed").is_empty());
    let cache = on_disk(&fs, 1 << 20);
    assert!(fs.list(&folder()).expect("listed").is_empty());
    bucket.read_all(&cache, 0, bucket.end()).await;
    let (bytes, files) = cache.disk.as_ref().expect("there is one").size();
    assert!(bytes <= 1 << 20 && files > 0, "{bytes} in {files}");
    assert_eq!(fs.list(&folder()).expect("listed").len(), files);
}

#[tokio::test]
async fn a_full_disk_or_a_changed_file_costs_a_fetch_and_never_an_error() {
    let bucket = Bucket::new().await;
    let fs = a_disk();
    let cache = on_disk(&fs, 64 << 20);
    let (expected, _) = bucket.read_all(&cache, 0, bucket.end()).await;
    for entry in fs.list(&folder()).expect("listed") {
        let file = fs
            .open(&folder().join(entry.name), crate::env::OpenMode::ReadWrite)
            .expect("there");
        file.write_all_at(&[std::io::IoSlice::new(b"changed")], 4096)
            .expect("written");
    }
    let (found, counts) = bucket.read_all(&cache, 0, bucket.end()).await;
    assert!(found == expected && counts.gets > 0);
    let fs = a_disk();
    let cache = on_disk(&fs, 64 << 20);
    fs.set_capacity_bytes(1 << 20);
    let (found, _) = bucket.read_all(&cache, 0, bucket.end()).await;
    assert!(found == expected);
    let (bytes, files) = cache.disk.as_ref().expect("there is one").size();
    assert!(bytes <= 1 << 20);
    assert_eq!(fs.list(&folder()).expect("listed").len(), files);
}

#[tokio::test]
async fn a_failure_is_told_to_all_who_wait_and_forgotten() {
    let bucket = Bucket::new().await;
    let cache = ChunkCache::in_memory(CacheLimits::default());
    bucket.faulty.next(Kind::Get, "/segments/", Fault::Refuse);
    let cold = bucket.cold(&cache);
    let read = ask(0, 1, 1);
    let outcomes = join_all((0..4).map(|_| cold.read(&read))).await;
    for outcome in outcomes {
        let error = outcome.expect_err("the store refused");
        assert_eq!(error.trouble(), Some(Trouble::Unavailable));
        assert!(error.to_string().contains("503 slow down"), "{error}");
    }
    cold.read(&read).await.expect("it answers again");
}

#[tokio::test]
async fn what_turned_out_damaged_is_fetched_anew() {
    let bucket = Bucket::new().await;
    let cache = ChunkCache::in_memory(CacheLimits::default());
    let segment = Arc::clone(&bucket.manifest.segments()[&Offset(0)]);
    let key = partition().segment(segment.id);
    let sound = bucket
        .store
        .get(&key, 4 << 20)
        .await
        .expect("read")
        .expect("there");
    let put = async |bytes: Bytes| {
        bucket.store.delete(&key).await.expect("removed");
        bucket.store.publish(&key, bytes).await.expect("put");
    };
    let mut damaged = sound.to_vec();
    damaged[1000] ^= 1;
    put(damaged.into()).await;
    let cold = bucket.cold(&cache);
    let read = ask(0, 1, 1);
    cold.read(&read).await.expect_err("it is damaged");
    put(sound).await;
    cold.read(&read).await.expect("it is sound again");
}

#[tokio::test]
async fn footers_outlive_the_manifest_that_they_were_read_for() {
    let bucket = Bucket::new().await;
    let cache = ChunkCache::in_memory(small(0));
    bucket.cold(&cache).read(&ask(0, 1, 1)).await.expect("read");
    let first = bucket.counting.take();
    let mut later = Bucket { ..bucket };
    later.manifest = Arc::new(Manifest::clone(&later.manifest));
    later.cold(&cache).read(&ask(0, 1, 1)).await.expect("read");
    assert_eq!(later.counting.take().gets + 1, first.gets);
}
