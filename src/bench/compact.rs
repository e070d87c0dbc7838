//! How fast one thread compacts: storage alone, in process, no socket.
//!
//! Each figure stands beside a warm copy of the same log files on the same disk, in the same run. What is kept is counted and
//! compared with what the load says must stay: a pass that lost or left a record gives no figure.
//!
//! What is not here: what clients notice while a pass runs.

use std::collections::HashMap;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::error::IoContext;
use super::measure::{Limit, Measure, number, per_second};
use super::payload::to_u64;
use super::target::temp_dir;
use super::{BenchError, Scale};
use crate::env::{CacheLimits, FileCache, Fs, OpenMode, RealFs};
use crate::record::{BatchBuilder, BatchOptions, Codec};
use crate::storage::{
    CleanupPolicy, Durability, LogConfig, OffsetMap, Origin, Pace, Partition, PartitionSpec, Pass,
    PassReport, RollFor, Rounds, Store, StoreConfig,
};
use crate::types::{PartitionId, Timestamp, TopicId, TopicName, TopicPartition};

/// The directory of the log.
const LOG: &str = "compact-0";
/// The time of everything; nothing here depends on it.
const NOW: Timestamp = Timestamp(1_700_000_000_000);
/// Size of one copy, in bytes.
const BLOCK_BYTES: usize = 4 << 20;
/// Memory of the map: the server's default.
const MAP_BYTES: usize = 128 << 20;
/// Records of one batch.
const BATCH_RECORDS: u64 = 64;

/// How keys are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keys {
    /// Each as likely as any other.
    Uniform,
    /// The n-th as likely as 1/n: Zipf's law with exponent 1.
    Zipf,
}

/// What is compacted.
#[derive(Clone, Copy, Debug)]
struct Load {
    name: &'static str,
    keys: Keys,
    codec: Codec,
    distinct_keys: u64,
    records: u64,
    value_bytes: usize,
    /// Of a thousand records so many are tombstones.
    tombstones_per_mille: u64,
    map_bytes: usize,
}

fn loads(scale: Scale) -> [Load; 4] {
    let records = scale.pick(1_000_000, 20_000);
    let plain = Load {
        name: "uniform_1kib",
        keys: Keys::Uniform,
        codec: Codec::None,
        distinct_keys: records / 4,
        records,
        value_bytes: 1024,
        tombstones_per_mille: 0,
        map_bytes: MAP_BYTES,
    };
    [
        plain,
        Load {
            name: "zipf_1kib",
            keys: Keys::Zipf,
            tombstones_per_mille: 50,
            ..plain
        },
        Load {
            name: "snappy_1kib",
            codec: Codec::Snappy,
            ..plain
        },
        Load {
            name: "small_map_100b",
            value_bytes: 100,
            // A quarter of the keys fits.
            map_bytes: usize::try_from(records / 16 * 27).unwrap_or(usize::MAX),
            ..plain
        },
    ]
}

/// Measures passes over logs of several kinds.
///
/// # Errors
/// What the disk says, or a pass that kept another number of records than it should.
pub fn compact(scale: Scale) -> Result<Vec<Measure>, BenchError> {
    let mut measures = Vec::new();
    for load in loads(scale) {
        let dir = temp_dir()?;
        measures.extend(measure(dir.path(), load)?);
    }
    Ok(measures)
}

fn measure(dir: &Path, load: Load) -> Result<Vec<Measure>, BenchError> {
    let store = open(dir)?;
    let log = open_log(&store)?;
    let live = fill(&store, &log, load)?;
    let bytes = log.describe().size_bytes;
    let copied = warm_copy(&dir.join(LOG))?;
    let began = Instant::now();
    let passes = clean(&log, load)?;
    let took = began.elapsed();
    let kept = passes.last().map_or(0, |report| report.records.kept());
    if kept != live {
        return Err(BenchError::WrongCompaction {
            load: load.name,
            expected: live,
            found: kept,
        });
    }
    drop(log);
    store.close()?;
    let mb = |bytes: u64| number(bytes) / 1e6;
    let sum = |of: fn(&PassReport) -> u64| passes.iter().map(of).sum::<u64>();
    let measure = |what: &str, value, unit, name, limit| Measure {
        name: format!("compact.{}{what}", load.name),
        value,
        unit,
        limit: Limit { name, value: limit },
    };
    let log_mb = mb(bytes);
    Ok(vec![
        measure("", per_second(log_mb, took), "MB/s", "warm_copy", copied),
        measure("_read", mb(sum(|report| report.read_bytes)), "MB", "log", log_mb),
        measure(
            "_written",
            mb(sum(|report| report.written_bytes)),
            "MB",
            "log",
            log_mb,
        ),
        measure("_rounds", number(to_u64(passes.len())), "rounds", "one", 1.0),
    ])
}

fn open(dir: &Path) -> Result<Store, BenchError> {
    let files = Arc::new(FileCache::new(Arc::new(RealFs::new()), CacheLimits::default()));
    let config = StoreConfig {
        dir: dir.to_path_buf(),
        threads: 0,
    };
    Ok(Store::open(files, config)?)
}

fn open_log(store: &Store) -> Result<Arc<Partition>, BenchError> {
    let topic = TopicName::new("compact").expect("letters make a name");
    let spec = PartitionSpec {
        id: TopicPartition::new(topic, PartitionId(0)),
        topic_id: TopicId([7; 16]),
        config: LogConfig {
            segment_bytes: 64 << 20,
            durability: Durability::Written,
            cleanup: CleanupPolicy::Compact,
            ..LogConfig::default()
        },
    };
    let opened = store.open_partitions(vec![spec], NOW);
    Ok(opened.into_iter().next().expect("as many results as specs")?)
}

/// Writes the load and makes it cleanable; returns how many records must stay.
fn fill(store: &Store, log: &Arc<Partition>, load: Load) -> Result<u64, BenchError> {
    let mut newest: HashMap<u64, u64> = HashMap::new();
    let mut numbers = Numbers(1);
    let mut value = vec![0; load.value_bytes];
    let mut record = 0;
    while record < load.records {
        let mut builder = BatchBuilder::new(BatchOptions {
            codec: load.codec,
            ..BatchOptions::default()
        });
        for _ in 0..BATCH_RECORDS.min(load.records - record) {
            let key = load.key(&mut numbers);
            let is_tombstone = numbers.below(1000) < load.tombstones_per_mille;
            // Of each 16 bytes half is noise: half of a value can be compressed away.
            for chunk in value.chunks_mut(16) {
                let number = numbers.next().to_be_bytes();
                let len = chunk.len().min(number.len());
                chunk[..len].copy_from_slice(&number[..len]);
            }
            let shown = Some(value.as_slice()).filter(|_| !is_tombstone);
            builder
                .append(Some(NOW), Some(format!("{key:016x}").as_bytes()), shown, &[])
                .expect("a small record fits");
            newest.insert(key, record);
            record += 1;
        }
        let batch = builder.build().expect("it has a record");
        log.append(&batch, Origin::Client, NOW)?;
    }
    log.roll_for_compaction(NOW, RollFor::Command)?;
    for synced in store.sync(&[Arc::clone(log)]) {
        synced?;
    }
    Ok(to_u64(newest.len()))
}

/// Passes until the map took in all keys.
fn clean(log: &Partition, load: Load) -> Result<Vec<PassReport>, BenchError> {
    let mut map = OffsetMap::with_bytes(load.map_bytes);
    let mut passes = Vec::new();
    loop {
        let report = log.compact(&mut Pass {
            map: &mut map,
            seed: [1, 2],
            now: NOW,
            budget: &mut |_| Pace::Go,
        })?;
        let done = report.rounds == Rounds::Done;
        passes.push(report);
        if done {
            return Ok(passes);
        }
    }
}

/// Returns how fast the log files are copied from the page cache into a new file, in MB/s.
fn warm_copy(dir: &Path) -> Result<f64, BenchError> {
    let fs = RealFs::new();
    let logs: Vec<_> = fs
        .list(dir)
        .context("list", dir)?
        .into_iter()
        .map(|entry| dir.join(entry.name))
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    let copy = dir.with_extension("copy");
    let target = fs.open(&copy, OpenMode::CreateNew).context("create", &copy)?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut written = 0;
    let mut began = Instant::now();
    // The first time warms.
    for _ in 0..2 {
        (written, began) = (0, Instant::now());
        for path in &logs {
            let source = fs.open(path, OpenMode::Read).context("open", path)?;
            let len = source.len_bytes().context("look at", path)?;
            let mut position = 0;
            while position < len {
                let part = usize::try_from(len - position).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES));
                source
                    .read_exact_at(&mut block[..part], position)
                    .context("read", path)?;
                target
                    .write_all_at(&[IoSlice::new(&block[..part])], written)
                    .context("write", &copy)?;
                position += to_u64(part);
                written += to_u64(part);
            }
        }
    }
    let rate = per_second(number(written) / 1e6, began.elapsed());
    fs.remove_file(&copy).context("remove", &copy)?;
    Ok(rate)
}

impl Load {
    fn key(&self, numbers: &mut Numbers) -> u64 {
        match self.keys {
            Keys::Uniform => numbers.below(self.distinct_keys),
            Keys::Zipf => {
                // Uniform in the logarithm, which is 1/n in the number.
                let part = number(numbers.below(1 << 32)) / number(1 << 32);
                let rank = (part * number(self.distinct_keys).ln()).exp();
                to_u64(rank_of(rank))
            }
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank lies between 1 and the number of keys"
)]
fn rank_of(rank: f64) -> usize {
    rank as usize
}

/// Numbers that look random, the same in every run: SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_that_keeps_what_it_should_gives_figures_and_a_small_map_takes_rounds() {
        let dir = tempfile::tempdir().unwrap();
        let load = Load {
            records: 2_000,
            distinct_keys: 500,
            map_bytes: 24 * 200,
            ..loads(Scale::Quick)[3]
        };
        let measures = measure(dir.path(), load).unwrap();
        let of = |name: &str| {
            measures
                .iter()
                .find(|measure| measure.name.ends_with(name))
                .unwrap()
        };
        assert!(of("_rounds").value > 1.0, "{measures:?}");
        assert!(of("_read").ratio() > 1.0, "{measures:?}");
        assert!(of("small_map_100b").value > 0.0);
    }

    #[test]
    fn few_keys_of_zipf_are_most_of_the_records() {
        let load = Load {
            keys: Keys::Zipf,
            distinct_keys: 10_000,
            ..loads(Scale::Quick)[0]
        };
        let mut numbers = Numbers(1);
        let low = (0..1000).filter(|_| load.key(&mut numbers) <= 100).count();
        assert!((400..600).contains(&low), "half of the logarithm: {low}");
    }
}
