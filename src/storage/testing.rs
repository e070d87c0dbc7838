//! What the tests of a whole store share: a data directory on a simulated disk, batches to append, logs read back.
//!
//! Everything goes through the public API of [`Store`] and [`Partition`]. Small segments, so that a dozen batches roll.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::env::{CacheLimits, Call, CrashChoice, Failure, Fault, FileCache, Fs, OpenMode, SimFs};
use crate::record::{
    Accepted, BatchBuilder, BatchOptions, Batches, Outcome, PREFIX_LEN, ProducerStamp, RecordBatch,
    TransactionEnd, Transactional,
};
use crate::types::{
    LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicId, TopicName,
    TopicPartition,
};

use super::{
    AdoptReport, FirstBatch, LogConfig, Origin, Partition, PartitionSpec, Read, Store, StoreConfig,
    StoreError,
};

/// Where the data directory lies.
pub(super) const DATA: &str = "/data";
/// The present of tests that do not move it.
pub(super) const NOW: Timestamp = Timestamp(1_700_000_000_000);
/// Seven of the usual test batches fill a segment.
pub(super) const SEGMENT_BYTES: u32 = 900;

/// Settings with small segments and dense indexes.
pub(super) fn small() -> LogConfig {
    LogConfig {
        segment_bytes: SEGMENT_BYTES,
        index_interval_bytes: 200,
        ..LogConfig::default()
    }
}

/// The partition 0 of topic `name`, whose topic id is all `id`.
pub(super) fn spec(name: &str, id: u8, config: LogConfig) -> PartitionSpec {
    let topic = TopicName::new(name).expect("a good name");
    PartitionSpec {
        id: TopicPartition::new(topic, PartitionId(0)),
        topic_id: TopicId([id; 16]),
        config,
    }
}

/// Opens the store on a disk.
pub(super) fn open_store(fs: &SimFs) -> Result<Store, StoreError> {
    open_store_in(fs, DATA)
}

/// Opens a store in another directory of a disk.
pub(super) fn open_store_in(fs: &SimFs, dir: &str) -> Result<Store, StoreError> {
    let files = Arc::new(FileCache::new(
        Arc::new(fs.clone()) as Arc<dyn Fs>,
        CacheLimits::default(),
    ));
    let config = StoreConfig {
        dir: dir.into(),
        threads: 1,
    };
    Store::open(files, config)
}

/// Opens one partition.
pub(super) fn open_one(store: &Store, spec: PartitionSpec) -> Result<Arc<Partition>, StoreError> {
    store.open_partitions(vec![spec], NOW).remove(0)
}

/// Adopts a directory as the partition of `spec`.
pub(super) fn adopt(
    store: &Store,
    from: &Path,
    spec: PartitionSpec,
) -> Result<(Arc<Partition>, AdoptReport), StoreError> {
    let verified = store.verify_foreign(from, &spec, NOW, &|| true)?;
    store.bring_in(verified, spec, NOW)
}

/// A store with one open partition, `t-0`, on a disk.
#[derive(Debug)]
pub(super) struct House {
    pub(super) fs: SimFs,
    pub(super) store: Store,
    pub(super) log: Arc<Partition>,
}

impl House {
    /// Opens a new disk.
    pub(super) fn new() -> Self {
        Self::on(SimFs::new())
    }

    /// Opens what is on `fs`.
    pub(super) fn on(fs: SimFs) -> Self {
        Self::with(fs, small())
    }

    /// Opens what is on `fs`, with these settings.
    pub(super) fn with(fs: SimFs, config: LogConfig) -> Self {
        let store = open_store(&fs).expect("the store opens");
        let log = open_one(&store, spec("t", 1, config)).expect("the partition opens");
        Self { fs, store, log }
    }

    /// Appends one batch and returns its base offset.
    pub(super) fn append(&self, batch: &Accepted) -> i64 {
        let append = self.log.append(batch, Origin::Client, NOW);
        append.expect("appended").base_offset.0
    }

    /// Syncs the partition.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.store.sync(&[Arc::clone(&self.log)]).remove(0).map(drop)
    }

    /// Appends one batch and syncs it; returns its base offset.
    pub(super) fn acknowledge(&self, batch: &Accepted) -> i64 {
        let base = self.append(batch);
        self.sync().expect("synced");
        base
    }

    /// Closes the store cleanly and returns the disk.
    pub(super) fn close(self) -> SimFs {
        self.store.close().expect("closed").clean().expect("clean");
        self.fs
    }
}

/// Returns the path of `name` in the data directory.
pub(super) fn path(name: &str) -> PathBuf {
    PathBuf::from(DATA).join(name)
}

/// Overwrites a file from `position` on.
pub(super) fn damage(fs: &SimFs, name: &str, position: u64, bytes: &[u8]) {
    let file = fs.open(&path(name), OpenMode::ReadWrite).expect("it is there");
    file.write_all_at(&[IoSlice::new(bytes)], position)
        .expect("written");
}

/// Cuts a file.
pub(super) fn cut(fs: &SimFs, name: &str, len: u64) {
    let file = fs.open(&path(name), OpenMode::ReadWrite).expect("it is there");
    file.set_len(len).expect("cut");
}

/// Lists a directory below the data directory.
pub(super) fn names(fs: &SimFs, dir: &str) -> Vec<String> {
    let listed = fs.list(&path(dir)).expect("listed");
    listed.into_iter().map(|entry| entry.name).collect()
}

/// A log of `count` acknowledged one-record batches, left without a close.
pub(super) fn killed(count: usize) -> SimFs {
    let house = House::new();
    for _ in 0..count {
        house.acknowledge(&plain("acknowledged before the end"));
    }
    house.fs.clone()
}

/// A log of `count` batches, closed.
pub(super) fn closed(count: usize) -> SimFs {
    House::on(killed(count)).close()
}

/// A crashed log of `count` batches below the recovery point, and its first file.
pub(super) fn vouched(count: usize) -> (SimFs, String) {
    let house = House::on(killed(count));
    house.store.checkpoint().expect("checkpointed");
    let fs = house.fs.crash(CrashChoice::KeepAll);
    let logs = names(&fs, "t-0")
        .into_iter()
        .filter(|name| name.ends_with(".log"));
    (fs, format!("t-0/{}", logs.min().expect("it has one")))
}

/// One record whose value is `value`, at [`NOW`].
pub(super) fn plain(value: &str) -> Accepted {
    records(BatchOptions::default(), &[(NOW.0, None, value)])
}

/// One record with a value of `len` bytes.
pub(super) fn sized(len: usize) -> Accepted {
    plain(&"x".repeat(len))
}

/// A batch of records: time, key, value.
pub(super) fn records(options: BatchOptions, records: &[(i64, Option<&str>, &str)]) -> Accepted {
    let mut builder = BatchBuilder::new(options);
    for (time, key, value) in records {
        let key = key.map(str::as_bytes);
        builder
            .append(Some(Timestamp(*time)), key, Some(value.as_bytes()), &[])
            .expect("small");
    }
    builder.build().expect("it has records")
}

/// A batch of one record of idempotent producer `id`.
pub(super) fn numbered(id: i64, sequence: i32, value: &str) -> Accepted {
    let producer = Some(ProducerStamp {
        id: ProducerId(id),
        epoch: ProducerEpoch(0),
        base_sequence: Some(Sequence(sequence)),
    });
    let options = BatchOptions {
        producer,
        ..BatchOptions::default()
    };
    records(options, &[(NOW.0, None, value)])
}

/// A batch as it was read back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stored {
    pub(super) base: Offset,
    pub(super) next: Offset,
    pub(super) epoch: LeaderEpoch,
    /// All but the bytes that the server owns.
    pub(super) body: Bytes,
}

impl Stored {
    fn of(batch: &RecordBatch) -> Result<Self, String> {
        let header = batch.header();
        batch.verify_crc().map_err(|damage| damage.to_string())?;
        Ok(Self {
            base: header.base_offset,
            next: header.next_offset(),
            epoch: header.leader_epoch.ok_or("a stored batch without an epoch")?,
            body: body_of(batch.bytes()),
        })
    }
}

/// All of a batch but base offset, length and leader epoch.
pub(super) fn body_of(batch: &Bytes) -> Bytes {
    batch.slice(PREFIX_LEN..)
}

/// Reads a log from its start to its end, `max_bytes` at a time, and checks every batch.
pub(super) fn read_all(log: &Partition, max_bytes: usize) -> Result<Vec<Stored>, String> {
    let view = log.watermarks();
    let (mut from, mut stored) = (view.log_start, Vec::new());
    while from < view.log_end {
        let read = Read {
            from,
            until: view.log_end,
            times: None,
            max_bytes,
            first: FirstBatch::Whole,
        };
        let slice = log.read(&read).map_err(|error| error.to_string())?;
        if slice.next_offset <= from {
            return Err(format!("a read from {from} does not get on"));
        }
        for batch in Batches::over(slice.bytes, 0) {
            let (_, batch) = batch.map_err(|damage| damage.to_string())?;
            stored.push(Stored::of(&batch)?);
        }
        from = slice.next_offset;
    }
    Ok(stored)
}

/// The values of all records of a log.
pub(super) fn offsets(log: &Partition) -> Vec<i64> {
    let stored = read_all(log, 1 << 20).expect("the log is read");
    stored.iter().map(|batch| batch.base.0).collect()
}

/// The next `times` calls of a kind on a path that contains `path` fail.
pub(super) fn fault(call: Call, path: &str, times: u32, failure: Failure) -> Fault {
    Fault {
        call,
        path_contains: path.to_owned(),
        times,
        failure,
    }
}

/// Where [`foreign`] puts its data directory.
pub(super) const FOREIGN: &str = "/foreign";

/// A disk with a closed directory to adopt, `/foreign/f-0`: 30 batches in several segments, the later ones of epoch 4.
pub(super) fn foreign() -> SimFs {
    let fs = SimFs::new();
    for start in 0..5 {
        let store = open_store_in(&fs, FOREIGN).expect("the store opens");
        let log = open_one(&store, spec("f", 9, small())).expect("the partition opens");
        let count = if start == 0 { 22 } else { 2 };
        for number in 0..count {
            let batch = plain(&format!("foreign {start} {number}"));
            log.append(&batch, Origin::Client, NOW).expect("appended");
        }
        store.close().expect("closed").clean().expect("clean");
    }
    fs
}

/// Names and content of all that lies in the directory of [`foreign`].
pub(super) fn foreign_files(fs: &SimFs) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(FOREIGN).join("f-0");
    let names = fs.list(&dir).expect("it is there").into_iter();
    let content = |name: String| {
        let file = fs.open(&dir.join(&name), OpenMode::Read).expect("it is there");
        let len = usize::try_from(file.len_bytes().expect("read")).expect("small");
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0).expect("read");
        (name, bytes)
    };
    names.map(|entry| content(entry.name)).collect()
}

/// Any look into a log fails from now on: what opens all the same has scanned nothing.
pub(super) fn forbid_scans(fs: &SimFs) {
    fs.inject(fault(
        Call::Open,
        ".log",
        u32::MAX,
        Failure::Kind(std::io::ErrorKind::PermissionDenied),
    ));
}

/// A batch of one record of the transaction that producer `id` has open.
pub(super) fn transactional(id: i64, sequence: i32, value: &str) -> Accepted {
    let options = BatchOptions {
        producer: Some(ProducerStamp {
            id: ProducerId(id),
            epoch: ProducerEpoch(0),
            base_sequence: Some(Sequence(sequence)),
        }),
        transactional: Transactional::Yes,
        ..BatchOptions::default()
    };
    records(options, &[(NOW.0, None, value)])
}

/// The marker that ends it.
pub(super) fn ended(id: i64, outcome: Outcome) -> Accepted {
    TransactionEnd {
        outcome,
        producer: ProducerId(id),
        producer_epoch: ProducerEpoch(0),
        coordinator_epoch: 0,
        at: NOW,
    }
    .to_batch()
}
