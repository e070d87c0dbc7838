//! A compacted log in the hands of a script, and a picture of what is in it.
//!
//! ```text
//!   a=1          a batch of one record        a=1,b=2    of two           _=1   without a key      a=~   a tombstone
//!   p7:a=1       of idempotent producer 7     t7:a=1     in its transaction, ended by commit7 or abort7
//!   zstd:a=1     compressed; z7:a=1 of producer 7, too
//!               roll       seal and sync    clean one pass           +5    five ms later
//!   restart      the process dies, synced     close      it stops cleanly; then it starts again
//! ```
//!
//! A picture has a line for each segment: its base, then its batches; `{}` is one without records, `a=~@5` a tombstone with a
//! delete horizon of 5.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::env::{CrashChoice, SimFs};
use crate::record::{
    self, BatchBuilder, BatchOptions, Batches, Codec, ControlMarker, DecompressLimit, ProducerStamp,
    RecordBatch, TransactionEnd,
};
use crate::types::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

use super::super::segment::Segment;
use super::super::testing::{open_store, small, spec};
use super::super::walk::read;
use super::super::{
    CleanupPolicy, CompactError, Compaction, Hold, LogConfig, OffsetMap, Origin, Pace, Partition,
    PartitionSpec, Pass, PassReport, RollFor, Step, Store,
};

const LIMIT: DecompressLimit = DecompressLimit(8 << 20);

/// A compacted log that keeps tombstones for 100 ms.
pub(super) fn compacted() -> LogConfig {
    LogConfig {
        cleanup: CleanupPolicy::Compact,
        compaction: Compaction {
            delete_retention_ms: 100,
            ..Compaction::default()
        },
        ..small()
    }
}

/// See the module.
pub(super) struct Scene {
    pub(super) fs: SimFs,
    pub(super) store: Store,
    pub(super) log: Arc<Partition>,
    pub(super) now: i64,
    pub(super) map: OffsetMap,
    config: LogConfig,
    sequences: BTreeMap<i64, i32>,
}

impl Scene {
    pub(super) fn new() -> Self {
        Self::with(compacted())
    }

    pub(super) fn with(config: LogConfig) -> Self {
        Self::on(SimFs::new(), config, 0)
    }

    pub(super) fn on(fs: SimFs, config: LogConfig, now: i64) -> Self {
        Self::try_on(fs, config, now).expect("it opens")
    }

    pub(super) fn try_on(fs: SimFs, config: LogConfig, now: i64) -> Result<Self, String> {
        let store = open_store(&fs).map_err(|error| error.to_string())?;
        let log = open_at(&store, spec("t", 1, config.clone()), now)?;
        Ok(Self {
            fs,
            store,
            log,
            now,
            map: OffsetMap::with_keys(1000),
            config,
            sequences: BTreeMap::new(),
        })
    }

    /// Runs a script that succeeds.
    pub(super) fn run(&mut self, script: &str) -> &mut Self {
        for step in script.split_whitespace() {
            self.step(step);
        }
        self
    }

    fn step(&mut self, step: &str) {
        match step {
            "roll" => {
                self.roll();
            }
            "clean" => {
                self.clean().expect("cleaned");
            }
            "restart" => {
                self.sync();
                self.reopen(self.fs.crash(CrashChoice::KeepAll));
            }
            "close" => {
                self.store.close().expect("closed").clean().expect("clean");
                self.reopen(self.fs.clone());
            }
            step => match step.strip_prefix('+') {
                Some(ms) => self.now += ms.parse::<i64>().expect("milliseconds"),
                None => self.append(step),
            },
        }
    }

    /// Starts again on what a death has left of the disk.
    pub(super) fn reopen(&mut self, fs: SimFs) {
        let sequences = std::mem::take(&mut self.sequences);
        *self = Self {
            sequences,
            ..Self::on(fs, self.config.clone(), self.now)
        };
    }

    /// Begins and ends holds, as an administrator does: written down first, then told to the log.
    pub(super) fn hold(&mut self, holds: &[Hold]) {
        self.write_down(holds);
        self.log.configure(self.config.clone(), Timestamp(self.now));
    }

    /// Changes settings, of this log and of every later start.
    pub(super) fn configure(&mut self, change: impl FnOnce(&mut LogConfig)) {
        change(&mut self.config);
        self.log.configure(self.config.clone(), Timestamp(self.now));
    }

    pub(super) fn config(&self) -> &LogConfig {
        &self.config
    }

    /// Writes holds down and dies before the log is told; the next start knows.
    pub(super) fn write_down(&mut self, holds: &[Hold]) {
        self.config.holds = holds.into();
    }

    pub(super) fn append(&mut self, step: &str) {
        self.try_append(step).expect("appended");
    }

    pub(super) fn try_append(&mut self, step: &str) -> Result<(), String> {
        let (batch, origin) = match (step.strip_prefix("commit"), step.strip_prefix("abort")) {
            (Some(id), _) => (end(id, record::Outcome::Commit, self.now), Origin::Coordinator),
            (_, Some(id)) => (end(id, record::Outcome::Abort, self.now), Origin::Coordinator),
            _ => (self.batch(step), Origin::Client),
        };
        let appended = self.log.append(&batch, origin, Timestamp(self.now));
        appended.map(drop).map_err(|error| error.to_string())
    }

    fn batch(&mut self, step: &str) -> record::Accepted {
        let (how, records) = step.split_once(':').unwrap_or(("", step));
        let records: Vec<&str> = records.split(',').collect();
        let mut options = BatchOptions::default();
        if how == "zstd" {
            options.codec = Codec::Zstd;
        } else if let Some(id) = how.get(1..).and_then(|id| id.parse().ok()) {
            let count = i32::try_from(records.len()).expect("few");
            let sequence = self.sequences.entry(id).or_default();
            options.producer = Some(ProducerStamp {
                id: ProducerId(id),
                epoch: ProducerEpoch(0),
                base_sequence: Some(Sequence(*sequence)),
            });
            *sequence += count;
            match how.as_bytes().first() {
                Some(b't') => options.transactional = record::Transactional::Yes,
                Some(b'z') => options.codec = Codec::Zstd,
                _ => {}
            }
        }
        let mut builder = BatchBuilder::new(options);
        for record in records {
            let (key, value) = record.split_once('=').expect("key=value");
            let key = Some(key.as_bytes()).filter(|key| *key != b"_");
            let value = Some(value.as_bytes()).filter(|value| *value != b"~");
            let added = builder.append(Some(Timestamp(self.now)), key, value, &[]);
            added.expect("small");
        }
        builder.build().expect("it has records")
    }

    pub(super) fn sync(&self) {
        let synced = self.store.sync(&[Arc::clone(&self.log)]).remove(0);
        synced.expect("synced");
    }

    pub(super) fn roll(&self) {
        self.roll_for(RollFor::Command);
    }

    pub(super) fn roll_for(&self, wish: RollFor) {
        let rolled = self.log.roll_for_compaction(Timestamp(self.now), wish);
        rolled.expect("rolled");
        self.sync();
    }

    pub(super) fn clean(&mut self) -> Result<PassReport, CompactError> {
        self.clean_within(&mut |_| Pace::Go)
    }

    pub(super) fn clean_within(
        &mut self,
        budget: &mut dyn FnMut(Step) -> Pace,
    ) -> Result<PassReport, CompactError> {
        let mut pass = Pass {
            map: &mut self.map,
            seed: [1, 2],
            now: Timestamp(self.now),
            budget,
        };
        self.store.compact(&self.log, &mut pass)
    }

    pub(super) fn batches(&self) -> Vec<Vec<RecordBatch>> {
        let segments = super::super::read::snapshot(&self.log.segments);
        segments.iter().map(|segment| self.batches_of(segment)).collect()
    }

    fn batches_of(&self, segment: &Segment) -> Vec<RecordBatch> {
        let (_, _, end) = segment.bounds();
        let bytes = read(&self.log.files, segment.log_path(), 0, end).expect("read");
        Batches::over(bytes, 0)
            .map(|batch| batch.expect("sound").1)
            .collect()
    }

    pub(super) fn picture(&self) -> String {
        let segments = super::super::read::snapshot(&self.log.segments);
        let mut picture = String::new();
        for segment in segments.iter().filter(|segment| segment.bounds().2 > 0) {
            let batches: Vec<String> = self.batches_of(segment).iter().map(picture_of).collect();
            let _ = writeln!(picture, "{}: {}", segment.bounds().0, batches.join(" | "));
        }
        picture
    }

    /// Every record that a reader finds.
    pub(super) fn records(&self) -> Result<Vec<Found>, String> {
        records(&self.log)
    }

    /// The names of the files in the partition's directory.
    pub(super) fn files(&self) -> Vec<String> {
        use crate::env::Fs as _;
        let entries = self.fs.list(&self.log.dir()).expect("listed");
        entries.into_iter().map(|entry| entry.name).collect()
    }
}

/// Offset, key, value.
pub(super) type Found = (i64, String, Option<String>);

/// Every record that a reader of a log finds.
pub(super) fn records(log: &Partition) -> Result<Vec<Found>, String> {
    let (mut from, mut found) = (log.watermarks().log_start, Vec::new());
    // To the end as it is then: what a pass replaces meanwhile was replaced by something behind.
    loop {
        let view = log.watermarks();
        if from >= view.log_end {
            return Ok(found);
        }
        let read = super::super::Read {
            from,
            until: view.log_end,
            times: None,
            max_bytes: 300,
            first: super::super::FirstBatch::Whole,
        };
        let slice = log.read(&read).map_err(|error| error.to_string())?;
        if slice.next_offset <= from {
            return Err(format!("a read from {from} does not get on"));
        }
        for batch in Batches::over(slice.bytes, 0) {
            let (_, batch) = batch.map_err(|damage| damage.to_string())?;
            batch.verify_crc().map_err(|damage| damage.to_string())?;
            if !batch.header().is_control() {
                found.extend(records_of(&batch));
            }
        }
        from = slice.next_offset;
    }
}

/// The records of sound batches.
pub(super) fn records_in(bytes: bytes::Bytes) -> Vec<Found> {
    let batches = Batches::over(bytes, 0);
    batches
        .flat_map(|batch| records_of(&batch.expect("sound").1))
        .collect()
}

/// Opens one partition at a moment.
pub(super) fn open_at(store: &Store, spec: PartitionSpec, now: i64) -> Result<Arc<Partition>, String> {
    let opened = store.open_partitions(vec![spec], Timestamp(now)).remove(0);
    opened.map_err(|error| error.to_string())
}

fn end(id: &str, outcome: record::Outcome, now: i64) -> record::Accepted {
    TransactionEnd {
        outcome,
        producer: ProducerId(id.parse().expect("a producer")),
        producer_epoch: ProducerEpoch(0),
        coordinator_epoch: 0,
        at: Timestamp(now),
    }
    .to_batch()
}

fn records_of(batch: &RecordBatch) -> Vec<(i64, String, Option<String>)> {
    let text = |bytes: &bytes::Bytes| String::from_utf8_lossy(bytes).into_owned();
    let records = batch.records(LIMIT).expect("decompressed");
    records
        .map(|record| {
            let record = record.expect("a record");
            let key = record.key.as_ref().map_or("_".to_owned(), text);
            (record.offset.0, key, record.value.as_ref().map(text))
        })
        .collect()
}

fn picture_of(batch: &RecordBatch) -> String {
    let header = batch.header();
    let horizon = header
        .delete_horizon()
        .map_or(String::new(), |horizon| format!("@{horizon}"));
    if header.record_count == 0 {
        return format!("{} {{}}", header.last_offset());
    }
    match batch.control_marker().expect("a marker") {
        Some(ControlMarker::Commit { .. }) => return format!("{} commit{horizon}", header.base_offset),
        Some(ControlMarker::Abort { .. }) => return format!("{} abort{horizon}", header.base_offset),
        Some(ControlMarker::Other(_)) | None => {}
    }
    let record = |(offset, key, value): (i64, String, Option<String>)| {
        let value = value.unwrap_or_else(|| format!("~{horizon}"));
        format!("{offset} {key}={value}")
    };
    let codec = match header.codec {
        Codec::None => "",
        _ => "zstd:",
    };
    let records: Vec<String> = records_of(batch).into_iter().map(record).collect();
    format!("{codec}{}", records.join(" "))
}

/// The offset at which everything that is not cleanable begins.
pub(super) fn end_of_cleanable(scene: &Scene) -> Offset {
    scene.log.compaction(Timestamp(scene.now)).first_uncleanable
}
