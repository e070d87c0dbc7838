//! How long a lookup by time takes in a log of many segments: storage alone, in process, no socket.
//!
//! The store is closed and opened again first, so that indexes come from their files. Times are asked for in an order
//! that jumps over the whole log, and the figure is the median of single lookups. The limit is the same search over the times in memory: no file, no batch, no record.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::measure::{Limit, Measure, Times};
use super::target::temp_dir;
use super::{BenchError, Options, Scale};
use crate::env::{CacheLimits, FileCache, RealFs};
use crate::record::{BatchBuilder, BatchOptions};
use crate::storage::{Durability, LogConfig, Origin, Partition, PartitionSpec, Store, StoreConfig};
use crate::types::{Offset, PartitionId, Timestamp, TopicId, TopicName, TopicPartition};

/// Time between two records.
const STEP_MS: i64 = 1000;

/// A log of batches of one record, each with an entry in both indexes.
#[derive(Clone, Copy, Debug)]
struct Content {
    segments: u32,
    /// Batches of each segment.
    batches: u32,
}

impl Content {
    fn many_segments(segments: u32) -> Self {
        Self { segments, batches: 8 }
    }

    /// As many entries as the indexes of a segment of 1 GiB have by default, one for every 4 KiB.
    const LARGE_SEGMENT: Self = Self {
        segments: 1,
        batches: 1 << 18,
    };

    fn records(self) -> u32 {
        self.segments * self.batches
    }
}

/// Measures lookups in logs of 1,000 and of 10,000 segments, and in the indexes of one segment of 1 GiB.
///
/// # Errors
/// What the disk says, or a lookup that finds another record than the one written.
pub fn lookup(options: &Options) -> Result<Vec<Measure>, BenchError> {
    let scale = options.scale;
    let mut measures = Vec::new();
    let many = scale.pick([1000, 10_000], [100, 1000]).map(|segments| {
        (
            format!("time_in_{segments}_segments"),
            Content::many_segments(segments),
        )
    });
    let large = ("time_in_a_1_gib_segment".to_owned(), Content::LARGE_SEGMENT);
    for (name, content) in many.into_iter().chain([large]) {
        let dir = temp_dir(options)?;
        fill(dir.path(), content)?;
        let store = open(dir.path())?;
        let partition = open_partition(&store, content)?;
        let name = format!("lookup.{name}");
        measures.push(measure(&partition, name, content, scale)?);
        drop(partition);
        store.close()?.clean()?;
    }
    Ok(measures)
}

fn measure(
    partition: &Partition,
    name: String,
    content: Content,
    scale: Scale,
) -> Result<Measure, BenchError> {
    let (records, segments) = (content.records(), content.segments);
    let times: Vec<i64> = (0..records).map(|record| time_of(record).0).collect();
    let lookups = scale.pick(100_000, 4000);
    // The first pass warms: it checks each index and makes the mappings.
    for record in jumps(records, lookups) {
        check(partition, segments, record)?;
    }
    let (mut found, mut limit) = (Times::new(), Times::new());
    for record in jumps(records, lookups) {
        let began = Instant::now();
        check(partition, segments, record)?;
        found.add(began.elapsed());
        let at = time_of(record).0;
        let began = Instant::now();
        black_box(times.partition_point(|time| *time < black_box(at)));
        limit.add(began.elapsed());
    }
    Ok(Measure {
        name,
        value: found.quantile_ms(0.5) * 1e3,
        unit: "us",
        limit: Limit {
            name: "search_in_memory",
            value: limit.quantile_ms(0.5) * 1e3,
        },
    })
}

fn check(partition: &Partition, segments: u32, record: u32) -> Result<(), BenchError> {
    let at = time_of(record);
    let found = partition.find_time(at, Offset::MAX)?.map(|found| found.offset);
    let expected = Offset(i64::from(record));
    if found == Some(expected) {
        return Ok(());
    }
    Err(BenchError::WrongLookup {
        at: at.0,
        segments,
        expected: expected.0,
        found: found.map(|offset| offset.0),
    })
}

/// Numbers of records in an order without neighbours, the same in every run.
fn jumps(records: u32, count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(move |n| {
        let spread = n.wrapping_mul(2_654_435_761);
        u32::try_from(number_below(u64::from(spread), u64::from(records))).expect("below a 32-bit number")
    })
}

/// Scales a 32-bit number to less than `bound`.
fn number_below(spread: u64, bound: u64) -> u64 {
    (spread * bound) >> 32
}

fn time_of(record: u32) -> Timestamp {
    Timestamp((i64::from(record) + 1) * STEP_MS)
}

fn open(dir: &Path) -> Result<Store, BenchError> {
    let files = Arc::new(FileCache::new(Arc::new(RealFs::new()), CacheLimits::default()));
    let config = StoreConfig {
        dir: dir.to_path_buf(),
        threads: 0,
    };
    Ok(Store::open(files, config)?)
}

fn open_partition(store: &Store, content: Content) -> Result<Arc<Partition>, BenchError> {
    let topic = TopicName::new("lookup").expect("letters make a name");
    let spec = PartitionSpec {
        id: TopicPartition::new(topic, PartitionId(0)),
        topic_id: TopicId([7; 16]),
        config: LogConfig {
            segment_ms: STEP_MS * i64::from(content.batches) - 1,
            durability: Durability::Written,
            index_interval_bytes: 0,
            ..LogConfig::default()
        },
    };
    let opened = store.open_partitions(vec![spec], time_of(0));
    Ok(opened.into_iter().next().expect("as many results as specs")?)
}

fn fill(dir: &Path, content: Content) -> Result<(), BenchError> {
    let store = open(dir)?;
    let partition = open_partition(&store, content)?;
    for record in 0..content.records() {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder
            .append(Some(time_of(record)), None, Some(b"looked up by its time"), &[])
            .expect("a small record fits");
        let batch = builder.build().expect("it has a record");
        partition.append(&batch, Origin::Client, time_of(record))?;
    }
    drop(partition);
    Ok(store.close()?.clean()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_found_by_its_time_and_a_wrong_answer_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let content = Content::many_segments(3);
        fill(dir.path(), content).unwrap();
        let store = open(dir.path()).unwrap();
        let partition = open_partition(&store, content).unwrap();
        assert_eq!(partition.describe().segments, 3);
        for record in 0..content.records() {
            check(&partition, 3, record).unwrap();
        }
        let beyond = check(&partition, 3, content.records()).unwrap_err();
        assert!(
            matches!(beyond, BenchError::WrongLookup { found: None, .. }),
            "{beyond}"
        );
    }

    #[test]
    fn jumps_stay_within_the_log_and_reach_all_of_it() {
        let all: std::collections::BTreeSet<u32> = jumps(100, 2000).collect();
        assert_eq!(all.len(), 100);
    }
}
