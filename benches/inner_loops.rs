//! The inner loops, without a server: checksum, encoding, decoding, each codec, the door, append, lookup in the indexes.
//!
//! `cargo bench` measures. Whoever runs it, first sees the claims about memory hold: what walks over a batch that is not compressed
//! allocates nothing, and what makes one allocates for the batch, not for each record. `cargo test --bench inner_loops` checks these
//! claims and runs each loop once.
//!
//! What is not here: sockets, syncs and load, which are `siltstone bench`'s.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Bencher, BenchmarkId, Criterion, Throughput};
use siltstone::env::{CacheLimits, FileCache, RealFs};
use siltstone::record::{
    Accepted, BatchBuilder, BatchOptions, Codec, DecompressLimit, KeyRule, RecordBatch, Rules, TimestampType,
    accept,
};
use siltstone::storage::{
    Durability, FirstBatch, LogConfig, Origin, Partition, PartitionSpec, Read, Store, StoreConfig,
};
use siltstone::types::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicId, TopicName, TopicPartition};

const LIMIT: DecompressLimit = DecompressLimit(64 << 20);
/// Payload of the batches: what producers gather on a busy line.
const BATCH_BYTES: usize = 256 << 10;
/// Half text, half noise: what records of a service are like to a codec.
const TEXT: &[u8] = b"{\"customer\":1234,\"state\":\"shipped\",\"note\":\"left at the door\"}";

/// The values of one batch, each of `len` bytes.
fn values(len: usize) -> Vec<Vec<u8>> {
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    let value = |_| {
        let mut value = Vec::with_capacity(len);
        while value.len() < len {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            value.extend_from_slice(&noise.to_be_bytes());
            let text = TEXT.len().min(8);
            value.extend_from_slice(&TEXT[..text]);
        }
        value.truncate(len);
        value
    };
    (0..BATCH_BYTES / len).map(value).collect()
}

fn built(values: &[Vec<u8>], codec: Codec) -> Accepted {
    let mut builder = BatchBuilder::new(BatchOptions {
        codec,
        ..BatchOptions::default()
    });
    for (time, value) in (0..).zip(values) {
        builder
            .append(Some(Timestamp(time)), Some(b"a key"), Some(value), &[])
            .expect("a batch far below the greatest");
    }
    builder.build().expect("it has records")
}

fn stored(values: &[Vec<u8>], codec: Codec) -> RecordBatch {
    built(values, codec).stamped(Offset(7), LeaderEpoch(1))
}

fn walk(batch: &RecordBatch) -> usize {
    let payload = batch.open(LIMIT).expect("it is sound");
    let lens = payload.glances().map(|record| {
        let record = record.expect("it is sound");
        record.value.map_or(0, <[u8]>::len)
    });
    lens.sum()
}

fn rules() -> Rules {
    Rules {
        max_batch_bytes: 1 << 20,
        max_decompressed_bytes: LIMIT.0,
        keys: KeyRule::Optional,
        timestamp_type: TimestampType::CreateTime,
        before_max_ms: i64::MAX,
        after_max_ms: i64::MAX,
        codec: None,
        level: None,
        now: Timestamp(0),
    }
}

/// Sees that memory is asked for as seldom as is claimed.
fn check_claims() {
    let values = values(100);
    let batch = stored(&values, Codec::None);
    let count = |work: &mut dyn FnMut()| allocation_counter::measure(work).count_total;
    let nothing = [
        ("crc", count(&mut || batch.verify_crc().expect("it is sound"))),
        ("walk", count(&mut || assert!(black_box(walk(&batch)) > 0))),
    ];
    assert_eq!(nothing, [("crc", 0), ("walk", 0)], "allocations");
    let bytes = batch.bytes().clone();
    let a_few = [
        ("parse", count(&mut || drop(RecordBatch::parse(bytes.clone())))),
        ("door", count(&mut || drop(accept(bytes.clone(), &rules())))),
        ("build", count(&mut || drop(built(&values, Codec::None)))),
        (
            "read",
            count(&mut || drop(black_box(batch.records(LIMIT).map(Iterator::count)))),
        ),
    ];
    let most = u64::try_from(values.len()).expect("a count") / 20;
    for (what, count) in a_few {
        assert!(
            count < most,
            "{what}: {count} allocations for {} records",
            values.len()
        );
    }
}

fn records(criterion: &mut Criterion) {
    for len in [100, 1024] {
        let values = values(len);
        let batch = stored(&values, Codec::None);
        let bytes = batch.bytes().clone();
        let mut group = criterion.benchmark_group(format!("records_of_{len}"));
        group.throughput(Throughput::Elements(
            u64::try_from(values.len()).expect("a count"),
        ));
        group.bench_function("encode", |bencher| {
            bencher.iter(|| built(black_box(&values), Codec::None))
        });
        group.bench_function("walk", |bencher| bencher.iter(|| walk(black_box(&batch))));
        group.bench_function("decode", |bencher| {
            bencher.iter(|| {
                let records = black_box(&batch).records(LIMIT).expect("it is sound");
                records.map(|record| record.expect("it is sound").offset).last()
            });
        });
        group.bench_function("accept", |bencher| {
            bencher.iter(|| accept(bytes.clone(), &rules()))
        });
        group.throughput(Throughput::Bytes(u64::try_from(bytes.len()).expect("a size")));
        group.bench_function("crc", |bencher| bencher.iter(|| black_box(&batch).verify_crc()));
        group.finish();
    }
}

fn codecs(criterion: &mut Criterion) {
    let values = values(1024);
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Bytes(u64::try_from(BATCH_BYTES).expect("a size")));
    for codec in Codec::ALL {
        let batch = stored(&values, codec);
        group.bench_function(BenchmarkId::new("compress", codec.name()), |bencher| {
            bencher.iter(|| built(black_box(&values), codec));
        });
        group.bench_function(BenchmarkId::new("decompress", codec.name()), |bencher| {
            bencher.iter(|| walk(black_box(&batch)));
        });
    }
    group.finish();
}

fn open(dir: &Path) -> (Store, Arc<Partition>) {
    let files = Arc::new(FileCache::new(Arc::new(RealFs::new()), CacheLimits::default()));
    let config = StoreConfig {
        dir: dir.to_path_buf(),
        threads: 0,
    };
    let store = Store::open(files, config).expect("an empty directory");
    let topic = TopicName::new("loops").expect("letters make a name");
    let spec = PartitionSpec {
        id: TopicPartition::new(topic, PartitionId(0)),
        topic_id: TopicId([7; 16]),
        config: LogConfig {
            segment_bytes: 64 << 20,
            durability: Durability::Written,
            ..LogConfig::default()
        },
    };
    let mut opened = store.open_partitions(vec![spec], Timestamp(0)).into_iter();
    let partition = opened
        .next()
        .expect("as many results as specs")
        .expect("a new log");
    (store, partition)
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    for (name, count) in [("one_record", 1), ("full_batch", BATCH_BYTES / 1024)] {
        // A directory for each: what the one before wrote is gone.
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (store, partition) = open(dir.path());
        let batch = built(&values(1024)[..count], Codec::None);
        let len = batch.stamped(Offset(0), LeaderEpoch(0)).bytes().len();
        group.throughput(Throughput::Bytes(u64::try_from(len).expect("a size")));
        group.bench_function(name, |bencher: &mut Bencher<'_>| {
            bencher.iter_batched(
                || &batch,
                |batch| {
                    partition
                        .append(batch, Origin::Client, Timestamp(0))
                        .expect("there is room")
                },
                BatchSize::SmallInput,
            );
        });
        drop((partition, store));
    }
    group.finish();
}

/// A log of some segments; record `n` has time `n`.
fn lookup(criterion: &mut Criterion) {
    const BATCHES: i64 = 2000;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (store, partition) = open(dir.path());
    let values = values(1024);
    let per_batch = i64::try_from(values.len()).expect("a count");
    for batch in 0..BATCHES {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        for (place, value) in (0..).zip(&values) {
            let time = Timestamp(batch * per_batch + place);
            builder
                .append(Some(time), None, Some(value), &[])
                .expect("it fits");
        }
        let batch = builder.build().expect("it has records");
        partition
            .append(&batch, Origin::Client, Timestamp(0))
            .expect("there is room");
    }
    let end = partition.watermarks().log_end;
    let mut at = 0_i64;
    let mut anywhere = move || {
        at = (at + 7_919 * 31) % (BATCHES * per_batch);
        at
    };
    let mut group = criterion.benchmark_group("lookup");
    group.bench_function("by_time", |bencher| {
        bencher.iter(|| {
            let at = anywhere();
            let found = partition
                .find_time(Timestamp(at), Offset::MAX)
                .expect("it is sound");
            assert_eq!(found.map(|found| found.offset), Some(Offset(at)));
        });
    });
    group.bench_function("by_offset", |bencher| {
        bencher.iter(|| -> Bytes {
            let read = Read {
                from: Offset(anywhere()),
                until: end,
                times: None,
                max_bytes: 1,
                first: FirstBatch::Whole,
            };
            partition.read(&read).expect("it is sound").bytes
        });
    });
    group.finish();
    drop((partition, store));
}

fn main() {
    check_claims();
    let mut criterion = Criterion::default().configure_from_args();
    records(&mut criterion);
    codecs(&mut criterion);
    append(&mut criterion);
    lookup(&mut criterion);
    criterion.final_summary();
}
