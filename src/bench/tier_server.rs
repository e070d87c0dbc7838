//! The archive behind a server: what others notice of a cold reader, and how soon a server that lost its disk serves.
//!
//! ```text
//!   topic that left the disk <---- cold reader, 50 MB/s     beside     topic in the page cache <---- appends and reads at half load
//!   10,000 segments in the archive ---- start of a server on an empty directory ----> first record
//! ```
//!
//! Both by gRPC, against servers in this process. What is left in a store that was named stays there.
//!
//! Invariants
//! - The cold reader begins before the phase beside it, reads until its end, and how fast it was is part of the figures.
//! - What is read cold is in the archive alone: the local start is behind it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::runtime::Handle;

use super::drive::Stream;
use super::half_load::{self, Noticed, Pair};
use super::measure::{Limit, Measure, Times, ms, number, per_second};
use super::payload::{Load, Shape, to_u64};
use super::target::{config, temp_dir};
use super::{BenchError, Options};
use crate::broker::Restore;
use crate::client::{Client, PartitionDescription, ReadSpec};
use crate::proto::v1;
use crate::server::Server;
use crate::types::{Offset, PartitionId};

/// Bytes in a second that the cold reader takes.
const COLD_BYTES_PER_SECOND: u64 = 50_000_000;
/// How much more time beside it is allowed.
const MOST_TIMES: f64 = 2.0;
/// How soon the first record has to come, in milliseconds.
const FIRST_RECORD_MS: f64 = 2000.0;
/// How long the archive may take for what it is to have.
const ARCHIVED_WITHIN: Duration = Duration::from_secs(280);
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// Pairs by which the greatest rate is told.
const PAIRS: u32 = 1000;
/// Hot reads go to one of so many last batches.
const HOT_BATCHES: u64 = 512;
const PARTITION: PartitionId = PartitionId(0);
const PARTITIONS: i32 = 16;
const HOT: Shape = Shape {
    record_bytes: 1024,
    batch_bytes: 1200,
};
const COLD: Shape = Shape {
    record_bytes: 1024,
    batch_bytes: 256 << 10,
};
/// One batch fills a segment of the least size that a topic takes.
const SMALL: Shape = Shape {
    record_bytes: 9000,
    batch_bytes: 9100,
};

/// Measures both on the archive at `url`, below prefixes of their own.
pub(super) async fn served(options: &Options, url: &str) -> Result<Vec<Measure>, BenchError> {
    let mut measures = beside(options, &format!("{url}/beside")).await?;
    measures.push(first_record(options, &format!("{url}/restored")).await?);
    Ok(measures)
}

async fn start(data: &Path, url: &str, restore: Restore) -> Result<(Server, Client), BenchError> {
    let mut config = config(data);
    config.broker.archive.url = Some(url.to_owned());
    config.broker.archive.restore = restore;
    let server = Server::start(config).await?;
    let client = Client::connect(&server.grpc_addr().to_string()).await?;
    Ok((server, client))
}

fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let written = [("durability", "written")];
    let all = written.iter().chain(pairs);
    all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// Waits until all partitions of a topic are as `is_done` says.
async fn until(
    client: &Client,
    topic: &str,
    is_done: impl Fn(&PartitionDescription) -> bool,
) -> Result<Vec<PartitionDescription>, BenchError> {
    let began = Instant::now();
    loop {
        let described = client.describe_topic(topic).await?;
        if described.partitions.iter().all(&is_done) {
            return Ok(described.partitions);
        }
        if began.elapsed() > ARCHIVED_WITHIN {
            return Err(BenchError::Archive {
                what: format!("{topic} is not there within {} s", ARCHIVED_WITHIN.as_secs()),
            });
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Appends and hot reads, alone and beside a cold reader.
async fn beside(options: &Options, url: &str) -> Result<Vec<Measure>, BenchError> {
    let dir = temp_dir(options)?;
    let (server, client) = start(&dir.path().join("data"), url, Restore::Off).await?;
    let cold_settings = settings(&[
        ("segment.bytes", "16777216"),
        ("local.retention.bytes", "0"),
        ("tier.max.lag.ms", "100"),
    ]);
    client.create_topic("cold", Some(1), &cold_settings).await?;
    client.create_topic("hot", Some(1), &settings(&[])).await?;
    let load = Load::new(COLD);
    let cold_bytes = options.scale.pick(512 << 20, 32 << 20);
    let stream = Stream::open(&client, "cold", PARTITION).await?;
    stream.pipelined(&load, load.batches_in(cold_bytes)).await?;
    until(&client, "cold", |log| log.local_start == log.log_end).await?;
    let hot = Stream::open(&client, "hot", PARTITION).await?;
    let phases = Phases {
        hot,
        load: Load::new(HOT),
        client: client.clone(),
        each: Duration::from_secs(options.scale.pick(6, 1)),
        runtime: Handle::current(),
    };
    let driven = tokio::task::spawn_blocking(move || phases.run()).await;
    let (alone, during, rate) =
        driven.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    drop(client);
    server.stop().await?;
    let mut measures = half_load::figures("tier.", (&alone, &during), |alone| {
        ("twice_alone", MOST_TIMES * alone)
    });
    measures.push(Measure {
        name: "tier.cold_reader_beside".to_owned(),
        value: rate,
        unit: "MB/s",
        limit: Limit {
            name: "target",
            value: number(COLD_BYTES_PER_SECOND) / 1e6,
        },
    });
    Ok(measures)
}

/// Who drives both phases, on a thread of its own.
struct Phases {
    hot: Stream,
    load: Load,
    client: Client,
    each: Duration,
    runtime: Handle,
}

impl Phases {
    /// Returns what was noticed alone and beside the reader, and how many MB it read in a second.
    fn run(self) -> Result<(Noticed, Noticed, f64), BenchError> {
        let (each, runtime) = (self.each, self.runtime.clone());
        let cold = Arc::new(Cold::default());
        let reading = cold.clone().read(self.client.clone());
        let mut door = Door {
            hot: self.hot,
            load: self.load,
            client: self.client,
            runtime: self.runtime,
            sent: Times::new(),
            appended: 0,
            reads: 0,
        };
        let interval = 2 * half_load::fastest(&mut door, PAIRS)?;
        let (mut alone, mut during) = (Noticed::new(), Noticed::new());
        let until = Instant::now() + each;
        half_load::at_times(&mut door, interval, &mut alone, || Instant::now() < until)?;
        let reading = runtime.spawn(reading);
        // It has its pace, and what it keeps, before the phase begins.
        runtime.block_on(tokio::time::sleep(each / 4));
        let (before, began) = (cold.bytes.load(Ordering::Relaxed), Instant::now());
        let until = began + each;
        let driven = half_load::at_times(&mut door, interval, &mut during, || Instant::now() < until);
        let bytes = cold.bytes.load(Ordering::Relaxed) - before;
        let rate = per_second(number(bytes) / 1e6, began.elapsed());
        cold.is_over.store(true, Ordering::Relaxed);
        let read = runtime.block_on(reading);
        driven?;
        read.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        Ok((alone, during, rate))
    }
}

/// The cold reader: from the begin to the end, again and again, at its pace.
#[derive(Default)]
struct Cold {
    bytes: AtomicU64,
    is_over: AtomicBool,
}

impl Cold {
    async fn read(self: Arc<Self>, client: Client) -> Result<(), BenchError> {
        let began = tokio::time::Instant::now();
        loop {
            let spec = ReadSpec {
                partitions: vec![PARTITION],
                ..ReadSpec::default()
            };
            let mut reader = client.read("cold", spec).await?;
            while let Some(chunk) = reader.next().await? {
                let bytes = to_u64(chunk.batches().len());
                let bytes = bytes + self.bytes.fetch_add(bytes, Ordering::Relaxed);
                if self.is_over.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let due = Duration::from_micros(bytes * 1_000_000 / COLD_BYTES_PER_SECOND);
                tokio::time::sleep_until(began + due).await;
            }
        }
    }
}

/// Appends and reads at the door, each after the one before it was answered.
struct Door {
    hot: Stream,
    load: Load,
    client: Client,
    runtime: Handle,
    /// From when they were sent. What counts is from when they were due, and is taken by who calls.
    sent: Times,
    appended: u64,
    reads: u64,
}

impl Pair for Door {
    fn append(&mut self) -> Result<(), BenchError> {
        let next = self.appended..self.appended + 1;
        self.appended = next.end;
        let sent = self.hot.one_by_one(&self.load, next, &mut self.sent);
        self.runtime.block_on(sent)
    }

    fn read(&mut self) -> Result<(), BenchError> {
        self.reads += 1;
        let spread = self.reads.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let back = 1 + spread % HOT_BATCHES.min(self.appended);
        let offset = self.load.records(self.appended - back);
        let request = v1::FetchRequest {
            partitions: vec![v1::FetchPartition {
                topic: "hot".to_owned(),
                partition: PARTITION.0,
                offset: i64::try_from(offset).expect("a short run"),
                max_bytes: 1,
            }],
            format: v1::RecordFormat::Batches.into(),
            ..v1::FetchRequest::default()
        };
        let mut log = self.client.log();
        let answer = self.runtime.block_on(log.fetch(request))?.into_inner();
        let found = answer.partitions.iter().any(|found| !found.batches.is_empty());
        match found {
            true => Ok(()),
            false => Err(BenchError::Refused {
                message: format!("a hot read at offset {offset} brought nothing: {answer:?}"),
            }),
        }
    }

    /// Asleep: the server has the same cores.
    fn wait_until(&self, due: Instant) {
        let (lock, never) = (Mutex::new(()), Condvar::new());
        let mut guard = lock.lock();
        while !never.wait_until(&mut guard, due).timed_out() {}
    }
}

/// How long a server takes from its start on an empty directory to the first record that a client has.
async fn first_record(options: &Options, url: &str) -> Result<Measure, BenchError> {
    let dir = temp_dir(options)?;
    let segments: u64 = options.scale.pick(10_000, 400);
    let (server, client) = start(&dir.path().join("lost"), url, Restore::Off).await?;
    let small = settings(&[("segment.bytes", "16384"), ("tier.max.lag.ms", "100")]);
    client.create_topic("small", Some(PARTITIONS), &small).await?;
    let load = Load::new(SMALL);
    let each = segments.div_ceil(u64::from(PARTITIONS.unsigned_abs()));
    for number in 0..PARTITIONS {
        let stream = Stream::open(&client, "small", PartitionId(number)).await?;
        stream.pipelined(&load, each).await?;
    }
    let is_there = |log: &PartitionDescription| {
        let end = log.archive.as_ref().and_then(|archive| archive.end);
        end.is_some_and(|end| end >= log.log_end)
    };
    let partitions = until(&client, "small", is_there).await?;
    let archived = partitions.iter().filter_map(|log| log.archive.as_ref());
    let archived: i64 = archived.map(|archive| archive.segments).sum();
    if u64::try_from(archived).is_ok_and(|archived| archived < segments) {
        return Err(BenchError::Archive {
            what: format!("it has {archived} segments, {segments} were meant"),
        });
    }
    drop(client);
    server.stop().await?;
    let began = Instant::now();
    let (server, client) = start(&dir.path().join("new"), url, Restore::Cold).await?;
    let mut reader = client
        .read(
            "small",
            ReadSpec {
                partitions: vec![PARTITION],
                ..ReadSpec::default()
            },
        )
        .await?;
    let first = reader.next().await?;
    let took = began.elapsed();
    if first.is_none_or(|chunk| chunk.batches().is_empty()) {
        return Err(BenchError::Archive {
            what: "the restored server has no first record".to_owned(),
        });
    }
    let cold = client.describe_topic("small").await?;
    let is_cold = cold.partitions.iter().all(|log| log.local_start > Offset::ZERO);
    drop((reader, client));
    server.stop().await?;
    if !is_cold {
        return Err(BenchError::Archive {
            what: "the restored server has segments of its own".to_owned(),
        });
    }
    Ok(Measure {
        name: format!("tier.first_record_of_{segments}_segments"),
        value: ms(took),
        unit: "ms",
        limit: Limit {
            name: "target",
            value: FIRST_RECORD_MS,
        },
    })
}
