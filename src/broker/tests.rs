//! Tests of the broker as a whole, over a simulated disk.

use std::collections::BTreeMap;
use std::io::ErrorKind as IoErrorKind;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use super::*;
use crate::env::{Call, CrashChoice, Failure, Fault, ManualClock, SimFs};
use crate::record::{
    BatchBuilder, BatchOptions, Codec, ProducerStamp, Record, Stamping, Transactional, partition_for_key,
};
use crate::types::{Sequence, Timestamp};

mod adopt;
#[cfg(feature = "tier")]
mod archive;
#[cfg(feature = "tier")]
mod archive_faults;
#[cfg(feature = "tier")]
mod archive_rules;
#[cfg(feature = "tier")]
mod archive_status;
mod background;
mod cleaner;
mod commit;
mod golden;
#[cfg(feature = "tier")]
mod mount;
mod predictions;
mod produce;
mod promises;
mod reads;
#[cfg(feature = "tier")]
mod restore;
mod retention;
mod sweep;
#[cfg(feature = "tier")]
mod take_over;
mod topics;

/// The broker's own clock in these tests.
const NOW: Timestamp = Timestamp(1_700_000_000_000);
/// A wait that only a defect makes long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for every sweep and look but those of minutes, in virtual time.
const SWEEPS: Duration = Duration::from_secs(3);

/// No time passes while this lives, also while the broker's own threads work: nothing that is done every second, minute or
/// half a minute comes between, however slow the machine is. Where it is dropped, time becomes virtual.
struct Stillness {
    _over: std::sync::mpsc::SyncSender<()>,
}

impl Stillness {
    fn begin() -> Self {
        tokio::time::pause();
        let (over, is_over) = std::sync::mpsc::sync_channel(0);
        // Virtual time does not go on while such work is under way.
        tokio::task::spawn_blocking(move || is_over.recv());
        Self { _over: over }
    }

    /// From here on time is real.
    fn end(self) {
        drop(self);
        tokio::time::resume();
    }
}

struct House {
    fs: SimFs,
    clock: Arc<ManualClock>,
    broker: Broker,
}

fn config() -> BrokerConfig {
    BrokerConfig {
        data_dir: "/data".into(),
        auto_create_topics: AutoCreate::Off,
        num_partitions: 1,
        min_free_bytes: 1000,
        topic_defaults: BTreeMap::new(),
        max_open_files: 100,
        max_maps: 100,
        recovery_threads: 1,
        max_decompressed_bytes: 16 << 20,
        max_inflight_produce_bytes: 64 << 20,
        max_request_bytes: 16 << 20,
        cleaner: CleanerConfig {
            threads: 1,
            dedupe_buffer_bytes: 1 << 20,
            io_max_bytes_per_second: 0,
            backoff: Duration::from_secs(15),
        },
        archive: ArchiveConfig::default(),
    }
}

async fn start_on(fs: SimFs) -> Result<House, Error> {
    let clock = Arc::new(ManualClock::starting_at(NOW));
    let world = World {
        fs: Arc::new(fs.clone()),
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
    };
    Broker::start(config(), world)
        .await
        .map(|broker| House { fs, clock, broker })
}

async fn start() -> House {
    start_on(SimFs::new())
        .await
        .expect("an empty disk is good to start on")
}

impl House {
    /// Stops and starts again on the same disk.
    async fn restart(self) -> Self {
        self.broker.shutdown().await.expect("a good disk");
        start_on(self.fs).await.expect("a clean store starts")
    }

    /// Pulls the plug; everything unsynced is lost.
    async fn crash(self) -> Self {
        start_on(self.fs.crash(CrashChoice::LoseAll))
            .await
            .expect("a crashed store starts")
    }

    async fn create(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) -> TopicName {
        let new = new_topic(topic, partitions, settings);
        let created = self
            .broker
            .create_topic(new, Execution::Apply)
            .await
            .expect("a good topic");
        created.summary.name
    }

    async fn append(
        &self,
        topic: &TopicName,
        partition: i32,
        records: Vec<NewRecord>,
    ) -> Result<Appended, Error> {
        let placed = self
            .broker
            .append_records(to(topic, Some(partition), records), Acks::All)
            .await?;
        placed
            .into_iter()
            .next()
            .expect("one partition")
            .outcome?
            .wait()
            .await
    }

    async fn fetch(&self, topic: &TopicName, from: i64, max_wait_ms: u32) -> Result<Chunk, Error> {
        let targets = vec![target(topic, 0, from)];
        self.broker
            .fetch(fetch(targets, max_wait_ms))
            .await
            .pop()
            .expect("one answer for one target")
    }

    async fn values(&self, spec: ReadSpec) -> Result<Vec<String>, Error> {
        let mut stream = self.broker.open_read(spec).await?;
        let mut values = Vec::new();
        while let Some(step) = stream.next().await? {
            values.extend(texts(&step.chunk));
        }
        Ok(values)
    }
}

fn new_topic(name: &str, partitions: i32, settings: &[(&str, &str)]) -> NewTopic {
    let config = settings
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    NewTopic {
        name: name.to_owned(),
        partitions: Some(partitions),
        config,
    }
}

fn to(topic: &TopicName, partition: Option<i32>, records: Vec<NewRecord>) -> NewRecords {
    NewRecords {
        topic: topic.clone(),
        partition: partition.map(PartitionId),
        records,
        producer: None,
        codec: Codec::None,
    }
}

fn record(value: &str) -> NewRecord {
    NewRecord {
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        ..NewRecord::default()
    }
}

fn keyed(key: &str, value: &str) -> NewRecord {
    NewRecord {
        key: Some(Bytes::copy_from_slice(key.as_bytes())),
        ..record(value)
    }
}

fn timed(value: &str, timestamp: i64) -> NewRecord {
    NewRecord {
        timestamp: Some(Timestamp(timestamp)),
        ..record(value)
    }
}

/// A raw batch of an idempotent producer.
fn batch(producer: ProducerId, sequence: i32, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions {
        codec: Codec::None,
        level: None,
        stamping: Stamping::CreateTime,
        producer: Some(ProducerStamp {
            id: producer,
            epoch: ProducerEpoch(0),
            base_sequence: Some(Sequence(sequence)),
        }),
        transactional: Transactional::No,
    });
    for value in values {
        builder
            .append(Some(NOW), None, Some(value.as_bytes()), &[])
            .expect("small");
    }
    builder.build().expect("not empty").bytes().clone()
}

fn target(topic: &TopicName, partition: i32, offset: i64) -> FetchTarget {
    FetchTarget {
        topic: topic.to_string(),
        partition: PartitionId(partition),
        offset: Offset(offset),
        max_bytes: 1 << 20,
    }
}

fn fetch(targets: Vec<FetchTarget>, max_wait_ms: u32) -> Fetch {
    Fetch {
        targets,
        min_bytes: 1,
        max_bytes: 1 << 20,
        max_wait_ms,
        isolation: Isolation::ReadUncommitted,
    }
}

fn read(topic: &TopicName, start: ReadStart, end: ReadEnd) -> ReadSpec {
    ReadSpec {
        topic: topic.clone(),
        partitions: Vec::new(),
        start,
        end,
        resume: Vec::new(),
        isolation: Isolation::ReadUncommitted,
        chunk_bytes: 100,
    }
}

fn text(record: &Record) -> String {
    let value = record.value.as_deref().expect("no tombstone in these tests");
    String::from_utf8(value.to_vec()).expect("text")
}

fn texts(chunk: &Chunk) -> Vec<String> {
    chunk.records().expect("sound").iter().map(text).collect()
}

/// Polls a future once.
pub(super) async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
