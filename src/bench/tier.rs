//! How fast segments go to an object store and come back, beside the same client putting and getting the same bytes plainly.
//!
//! ```text
//!   log of a few segments -> Uploader -> object, check, manifest      beside  the same parts, as many at a time, put and completed
//!                            ColdLog, one slice after the other       beside  ranges of the same length, one after the other
//! ```
//!
//! Archive and limit take turns on the same store, below prefixes of the run; what is read is compared with the log. What is left in a store that
//! was named stays there. What is not here: what a server with such an archive notices of it ([`super::tier_server`]).

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::measure::{Limit, Measure, median, number, per_second};
use super::target::temp_dir;
use super::tier_server::served;
use super::{BenchError, Options};
use crate::env::{CacheLimits as FileLimits, FileCache, Fs, RealFs};
use crate::record::{BatchBuilder, BatchOptions};
use crate::storage::{
    Durability, FirstBatch, LogConfig, MANIFEST_FILE_NAME, Manifest as LocalManifest, Origin, PartitionSpec,
    Read, SegmentFlags, Store, StoreConfig,
};
use crate::tier::{
    Author, CacheLimits, CallLimits, ChunkCache, ColdLog, Ledger, Manifest, PartitionKey, SealedSegment,
    SectionKind, SectionSource, Ticket, TierError, TierStore, Uploader, WriterId,
};
use crate::types::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicId, TopicName, TopicPartition};

const NOW: Timestamp = Timestamp(1_700_000_000_000);
/// Bytes of a part of a plain put, and how many are on their way: as an upload has it.
const PART_BYTES: usize = 8 << 20;
const PARTS: usize = 4;
/// Bytes of a slice, and of a range of a plain get.
const SLICE_BYTES: usize = 4 << 20;
/// What a sequential read may fetch for each byte that it returns.
const MOST_FETCHED: f64 = 1.2;

/// One round: the archive's time and the limit's.
#[derive(Default)]
struct Rounds {
    archive: Vec<f64>,
    plain: Vec<f64>,
}

/// Measures uploads and sequential cold reads on `archive`, or on a folder of this machine.
///
/// # Errors
/// What the store says, or a read that gives other bytes than were uploaded.
pub async fn tier(options: &Options, archive: Option<&str>) -> Result<Vec<Measure>, BenchError> {
    let dir = temp_dir(options)?;
    let (segments, segment_bytes) = options.scale.pick((4, 64 << 20), (2, 9 << 20));
    let data = dir.path().join("data");
    let fill = data.clone();
    let log = tokio::task::spawn_blocking(move || Local::fill(&fill, segments, segment_bytes));
    let local = log
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let url = match archive {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("file://{}", dir.path().join("archive").display()),
    };
    let (mut uploads, mut reads) = (Rounds::default(), Rounds::default());
    let mut asked = Asked::default();
    for round in 0..options.scale.pick(3, 1) {
        let prefix = below(&url)?;
        let store = TierStore::open(&prefix, CallLimits::default())?;
        // Who goes first may find a colder store: they take turns.
        let plain_first = round % 2 == 0;
        if plain_first {
            uploads.plain.push(plain_puts(&store, &local).await?);
        }
        let calls = store.calls();
        let (rate, manifest) = upload(&store, &local).await?;
        asked.upload_calls = store.calls() - calls;
        uploads.archive.push(rate);
        if !plain_first {
            uploads.plain.push(plain_puts(&store, &local).await?);
        }
        if plain_first {
            reads.plain.push(plain_gets(&store, &local).await?);
        }
        let (rate, taken) = read(&store, &local, manifest).await?;
        reads.archive.push(rate);
        (asked.read_calls, asked.fetched_bytes) = taken;
        if !plain_first {
            reads.plain.push(plain_gets(&store, &local).await?);
        }
    }
    let mut measures = measures(&local, uploads, reads, asked);
    drop(local);
    measures.extend(served(options, &below(&url)?).await?);
    Ok(measures)
}

/// Returns a prefix that nobody else has.
fn below(url: &str) -> Result<String, BenchError> {
    let mut run = [0; 8];
    getrandom::fill(&mut run).map_err(|error| BenchError::Archive {
        what: format!("no random bytes: {error}"),
    })?;
    Ok(format!("{url}/bench-{:016x}", u64::from_be_bytes(run)))
}

/// What the archive asked of the store in the last round.
#[derive(Default)]
struct Asked {
    upload_calls: u64,
    read_calls: u64,
    fetched_bytes: u64,
}

fn measures(local: &Local, uploads: Rounds, reads: Rounds, asked: Asked) -> Vec<Measure> {
    let bytes = number(local.bytes());
    let rate = |name: &str, limit, rounds: Rounds| Measure {
        name: format!("tier.{name}"),
        value: median(rounds.archive),
        unit: "MB/s",
        limit: Limit {
            name: limit,
            value: median(rounds.plain),
        },
    };
    let per_gb = |name: &str, calls: u64, plain_bytes: usize| Measure {
        name: format!("tier.{name}"),
        value: number(calls) * 1e9 / bytes,
        unit: "requests/GB",
        limit: Limit {
            name: "plain_requests",
            value: 1e9 / number(u64::try_from(plain_bytes).expect("64 bits fit")),
        },
    };
    vec![
        rate("upload", "plain_puts", uploads),
        rate("sequential_read", "plain_gets", reads),
        Measure {
            name: "tier.fetched_per_returned".to_owned(),
            value: number(asked.fetched_bytes) / bytes,
            unit: "bytes/byte",
            limit: Limit {
                name: "target",
                value: MOST_FETCHED,
            },
        },
        per_gb("requests_stored", asked.upload_calls, PART_BYTES),
        per_gb("requests_read", asked.read_calls, SLICE_BYTES),
    ]
}

/// A log on disk, closed, and its sealed segments.
struct Local {
    key: PartitionKey,
    segments: Vec<SealedSegment>,
    /// The logs of the segments.
    logs: Vec<Bytes>,
}

impl Local {
    fn bytes(&self) -> u64 {
        self.segments
            .iter()
            .map(|segment| segment.summary.log_bytes)
            .sum()
    }

    fn fill(dir: &Path, segments: u64, segment_bytes: u32) -> Result<Self, BenchError> {
        let key = PartitionKey {
            topic: TopicName::new("bench").expect("letters make a name"),
            topic_id: TopicId([7; 16]),
            partition: PartitionId(0),
        };
        let fs = Arc::new(RealFs::new());
        let files = Arc::new(FileCache::new(
            Arc::clone(&fs) as Arc<dyn Fs>,
            FileLimits::default(),
        ));
        let config = StoreConfig {
            dir: dir.to_path_buf(),
            threads: 0,
        };
        let store = Store::open(files, config)?;
        let spec = PartitionSpec {
            id: TopicPartition::new(key.topic.clone(), key.partition),
            topic_id: key.topic_id,
            config: LogConfig {
                segment_bytes,
                durability: Durability::Written,
                ..LogConfig::default()
            },
        };
        let opened = store.open_partitions(vec![spec], NOW);
        let partition = opened.into_iter().next().expect("as many results as specs")?;
        let value: Vec<u8> = (0..1000u32)
            .map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect();
        let mut at = 0;
        while partition.describe().segments <= segments {
            let mut builder = BatchBuilder::new(BatchOptions::default());
            for _ in 0..16 {
                at += 1;
                builder
                    .append(Some(Timestamp(NOW.0 + at)), None, Some(&value), &[])
                    .expect("a small record fits");
            }
            let batch = builder.build().expect("it has records");
            partition.append(&batch, Origin::Client, NOW)?;
        }
        drop(partition);
        store.close()?.clean()?;
        Self::closed(dir.join("bench-0"), key)
    }

    fn closed(dir: std::path::PathBuf, key: PartitionKey) -> Result<Self, BenchError> {
        use super::error::IoContext as _;
        let file = dir.join(MANIFEST_FILE_NAME);
        let manifest = std::fs::read(&file).context("read", &file)?;
        let manifest = LocalManifest::decode(&manifest).map_err(|damage| BenchError::Archive {
            what: damage.to_string(),
        })?;
        let summaries = manifest.manifest.segments().values();
        let sealed = summaries.filter(|summary| summary.flags.contains(SegmentFlags::SEALED));
        let (mut segments, mut logs) = (Vec::new(), Vec::new());
        for summary in sealed {
            let path = |suffix: &str| dir.join(format!("{:020}.{suffix}", summary.base_offset.0));
            let log = path("log");
            logs.push(Bytes::from(std::fs::read(&log).context("read", &log)?));
            segments.push(SealedSegment {
                summary: summary.clone(),
                log: SectionSource::File(log),
                sections: vec![
                    (SectionKind::OFFSET_INDEX, SectionSource::File(path("index"))),
                    (SectionKind::TIME_INDEX, SectionSource::File(path("timeindex"))),
                ],
            });
        }
        Ok(Self { key, segments, logs })
    }

    fn rate(&self, began: Instant) -> f64 {
        per_second(number(self.bytes()) / 1e6, began.elapsed())
    }
}

async fn upload(store: &TierStore, local: &Local) -> Result<(f64, Ledger<Manifest>), BenchError> {
    let uploader = Uploader::new(Arc::new(RealFs::new()), store.clone());
    let mut manifest = Ledger::open(store.clone(), local.key.manifest(), Manifest::empty(&local.key)).await?;
    let author = Author {
        epoch: LeaderEpoch(1),
        writer: WriterId([1; 16]),
    };
    let began = Instant::now();
    let (mut attempt, mut left) = (0, &local.segments[..]);
    while !left.is_empty() {
        attempt += 1;
        let ticket = Ticket {
            author,
            attempt,
            now: NOW,
        };
        // As a server does it: small ones go together.
        let bytes = |count: usize| {
            left[..count]
                .iter()
                .map(|segment| segment.summary.log_bytes)
                .sum()
        };
        let together = (2..=left.len())
            .take_while(|count| Uploader::goes_together(*count, bytes(*count)))
            .last()
            .unwrap_or(1);
        let (now, later) = left.split_at(together);
        uploader
            .upload_all(&local.key, &mut manifest, now, ticket)
            .await?;
        left = later;
    }
    Ok((local.rate(began), manifest))
}

async fn plain_puts(store: &TierStore, local: &Local) -> Result<f64, TierError> {
    let began = Instant::now();
    for (number, log) in local.logs.iter().enumerate() {
        let mut put = store.begin(&format!("plain/{number}")).await?;
        let mut rest = log.clone();
        while !rest.is_empty() {
            let parts: Vec<_> = (0..PARTS)
                .map_while(|_| {
                    let part = rest.split_to(rest.len().min(PART_BYTES));
                    (!part.is_empty()).then(|| put.put_part(part))
                })
                .collect();
            for sent in futures_util::future::join_all(parts).await {
                sent?;
            }
        }
        put.complete().await?;
    }
    Ok(local.rate(began))
}

async fn plain_gets(store: &TierStore, local: &Local) -> Result<f64, TierError> {
    let segment = |number: usize| format!("plain/{number}");
    let began = Instant::now();
    for (number, log) in local.logs.iter().enumerate() {
        let len = u64::try_from(log.len()).expect("64 bits fit");
        let step = u64::try_from(SLICE_BYTES).expect("64 bits fit");
        let mut at = 0;
        while at < len {
            let end = (at + step).min(len);
            store.get_range(&segment(number), at..end).await?;
            at = end;
        }
    }
    Ok(local.rate(began))
}

/// Reads everything, once by the clock and once more to compare it. Returns the rate, and the calls and bytes that the first took.
async fn read(
    store: &TierStore,
    local: &Local,
    manifest: Ledger<Manifest>,
) -> Result<(f64, (u64, u64)), BenchError> {
    let before = (store.calls(), store.fetched_bytes());
    let state = Arc::new(manifest.state().clone());
    let cache = ChunkCache::in_memory(CacheLimits::default());
    let cold = ColdLog::new(store.clone(), local.key.clone(), Arc::clone(&state), cache);
    let mut read = Read {
        from: Offset::ZERO,
        until: state.end(),
        times: None,
        max_bytes: SLICE_BYTES,
        first: FirstBatch::Whole,
    };
    // As the plain gets do, it lets go of each slice: who keeps all of them measures how fast the system hands out memory.
    let mut bytes = 0;
    let began = Instant::now();
    while read.from < read.until {
        let slice = cold.read(&read).await?;
        read.from = slice.next_offset;
        bytes += u64::try_from(slice.bytes.len()).expect("64 bits fit");
    }
    let rate = local.rate(began);
    let asked = (store.calls() - before.0, store.fetched_bytes() - before.1);
    let mut logs = local.logs.iter().cloned();
    let mut rest = Bytes::new();
    let mut is_same = bytes == local.bytes();
    read.from = Offset::ZERO;
    while is_same && read.from < read.until {
        let found = cold.read(&read).await?;
        if rest.is_empty() {
            rest = logs.next().unwrap_or_default();
        }
        is_same = rest.len() >= found.bytes.len() && rest.split_to(found.bytes.len()) == found.bytes;
        read.from = found.next_offset;
    }
    is_same &= rest.is_empty() && logs.next().is_none();
    if is_same {
        return Ok((rate, asked));
    }
    Err(BenchError::Archive {
        what: "what came back from the archive is not what went there".to_owned(),
    })
}
