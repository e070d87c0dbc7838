//! How fast a pass of the cleaner is, and what it costs: storage alone, in process, no socket.
//!
//! A pass runs on one thread without a budget, over a log that was just written and is in the page cache. The limit is a copy
//! of the same files by the same system calls.
//!
//! Invariants
//! - After each measured pass the whole log is read and compared with the model: a run that lost, kept or changed a record
//!   fails and gives no figure.
//! - Each round is measured on a log of its own, and right beside its limit.
//! - Memory is measured first: what other passes had and gave back would hide what this one takes.
//!
//! What is not here: what a log is filled with, and the model (`keyed`); a pass itself (`passes`); appends and reads meanwhile (`beside`); the broker's
//! schedule and budget.

use std::io::IoSlice;
use std::path::Path;
use std::time::{Duration, Instant};

use super::beside::beside;
use super::error::IoContext;
use super::keyed::{BATCH_BYTES, KeyedLog, Keys, Workload};
use super::limits::sequential_write;
use super::measure::{Measure, median, number, per_second};
use super::memory::{peak_mb, resident_mb};
use super::passes::{MAP_BYTES, clean, filled, limit, measure, plain};
use super::payload::to_u64;
use super::target::temp_dir;
use super::{BenchError, Options, Scale};
use crate::env::{Fs, OpenMode, RealFs};
use crate::record::Codec;
use crate::storage::OffsetMap;

/// What a pass may have beside its map and two batches.
const CHUNKS_BYTES: usize = 32 << 20;
/// What snappy promises, in MB/s of keys and values.
const SNAPPY_TARGET_MB: f64 = 400.0;
const COPY_BYTES: usize = 1 << 20;

/// Measures passes over uniform, skewed and compressed logs, one over more keys than the map holds, and appends and reads
/// while a pass runs. Of a workload that is given, the rate alone.
///
/// # Errors
/// What the disk says, or a log that is not what it should be after a pass.
pub fn compact(options: &Options, given: Option<Workload>) -> Result<Vec<Measure>, BenchError> {
    if let Some(workload) = given {
        return rate("given", workload, options);
    }
    let many_keys = more_keys_than_fit(options)?;
    let mut measures = Vec::new();
    for (name, workload) in workloads(options.scale) {
        measures.extend(rate(name, workload, options)?);
    }
    measures.extend(many_keys);
    measures.extend(beside(options)?);
    Ok(measures)
}

fn workloads(scale: Scale) -> [(&'static str, Workload); 4] {
    let plain = plain(scale);
    let zipf = Workload {
        keys: Keys::Zipf,
        tombstones_per_mille: 100,
        ..plain
    };
    let half_dirty = Workload {
        dirty_percent: 50,
        ..plain
    };
    let snappy = Workload {
        codec: Codec::Snappy,
        ..plain
    };
    [
        ("uniform_1kib", plain),
        ("zipf_10_percent_tombstones", zipf),
        ("half_dirty", half_dirty),
        ("snappy_1kib", snappy),
    ]
}

/// How fast bytes of the log are cleaned, beside a copy of its files, and written, beside the disk.
fn rate(name: &str, workload: Workload, options: &Options) -> Result<Vec<Measure>, BenchError> {
    let mut map = OffsetMap::with_bytes(MAP_BYTES);
    let (mut rates, mut copies) = (Vec::new(), Vec::new());
    let (mut writes, mut disk) = (Vec::new(), Vec::new());
    for _ in 0..options.scale.pick(3, 1) {
        let dir = temp_dir(options)?;
        let mut log = filled(&dir.path().join("data"), workload, &mut map)?;
        let (log_bytes, copied) = copy(&log.partition.dir(), dir.path())?;
        copies.push(per_second(number(log_bytes) / 1e6, copied));
        let passed = clean(&log, &mut map)?;
        log.verify(log.partition.watermarks().log_end)?;
        let bytes = match workload.codec {
            Codec::None => log_bytes,
            _ => KeyedLog::logical_bytes(&workload),
        };
        rates.push(per_second(number(bytes) / 1e6, passed.took));
        writes.push(per_second(number(passed.written_bytes) / 1e6, passed.took));
        log.close()?;
        disk.push(sequential_write(dir.path(), passed.written_bytes)?);
    }
    let limit = match workload.codec {
        Codec::None => limit("warm_copy", median(copies)),
        _ => limit("target", SNAPPY_TARGET_MB),
    };
    Ok(vec![
        measure(&format!("compact.{name}"), median(rates), "MB/s", limit),
        measure(
            &format!("compact.{name}_written"),
            median(writes),
            "MB/s",
            self::limit("sequential_write", median(disk)),
        ),
    ])
}

/// Copies all logs of a partition, one after the other, into a file that is removed again; returns their bytes and the time.
fn copy(partition_dir: &Path, dir: &Path) -> Result<(u64, Duration), BenchError> {
    let (fs, path) = (RealFs::new(), dir.join("copy"));
    let to = fs.open(&path, OpenMode::CreateNew).context("create", &path)?;
    let mut buffer = vec![0_u8; COPY_BYTES];
    let (mut took, mut end) = (Duration::ZERO, 0);
    for entry in fs.list(partition_dir).context("list", partition_dir)? {
        let from_path = partition_dir.join(&entry.name);
        if from_path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let from = fs.open(&from_path, OpenMode::Read).context("open", &from_path)?;
        let len = from.len_bytes().context("read", &from_path)?;
        let began = Instant::now();
        let mut at = 0;
        while at < len {
            let wanted = usize::try_from((len - at).min(to_u64(COPY_BYTES))).expect("at most a buffer");
            let part = &mut buffer[..wanted];
            from.read_exact_at(part, at).context("read", &from_path)?;
            to.write_all_at(&[IoSlice::new(part)], end)
                .context("write", &path)?;
            at += to_u64(wanted);
            end += to_u64(wanted);
        }
        took += began.elapsed();
    }
    drop(to);
    fs.remove_file(&path).context("remove", &path)?;
    Ok((end, took))
}

/// Many small records of distinct keys under a map that does not hold them all: rounds, bytes and memory.
fn more_keys_than_fit(options: &Options) -> Result<Vec<Measure>, BenchError> {
    let (keys, map_bytes) = options
        .scale
        .pick((20_000_000, MAP_BYTES), (500_000, MAP_BYTES / 40));
    let workload = Workload {
        keys: Keys::InTurn,
        key_count: keys,
        records: keys,
        value_bytes: 100,
        ..Workload::default()
    };
    let dir = temp_dir(options)?;
    let mut log = KeyedLog::create(&dir.path().join("data"), workload)?;
    log.fill_to(workload.records)?;
    log.seal()?;
    let (log_bytes, copied) = copy(&log.partition.dir(), dir.path())?;
    let base = resident_mb()?;
    let mut map = OffsetMap::with_bytes(map_bytes);
    let passed = clean(&log, &mut map)?;
    let memory = peak_mb()? - base;
    let map_rounds = u64::from(keys).div_ceil(to_u64(map.capacity()));
    drop(map);
    log.verify(log.partition.watermarks().log_end)?;
    log.close()?;
    let promised = map_bytes + CHUNKS_BYTES + 2 * BATCH_BYTES;
    let megabytes = |bytes| number(bytes) / 1e6;
    let log_mb = limit("log", megabytes(log_bytes));
    Ok(vec![
        measure(
            "compact.unique_keys_rounds",
            number(passed.rounds),
            "rounds",
            limit("keys_by_map", number(map_rounds)),
        ),
        measure(
            "compact.unique_keys_time",
            passed.took.as_secs_f64(),
            "s",
            limit("warm_copy", copied.as_secs_f64()),
        ),
        measure(
            "compact.unique_keys_read",
            megabytes(passed.read_bytes),
            "MB",
            log_mb.clone(),
        ),
        measure(
            "compact.unique_keys_written",
            megabytes(passed.written_bytes),
            "MB",
            log_mb,
        ),
        measure(
            "compact.unique_keys_memory",
            memory,
            "MB",
            limit("promise", megabytes(to_u64(promised))),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Workload {
        Workload {
            key_count: 100,
            records: 1000,
            value_bytes: 100,
            dirty_percent: 50,
            ..Workload::default()
        }
    }

    #[test]
    fn a_pass_leaves_the_newest_record_of_each_key_and_fewer_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let mut map = OffsetMap::with_bytes(1 << 20);
        let mut log = filled(&dir.path().join("data"), small(), &mut map).unwrap();
        let (before, _) = copy(&log.partition.dir(), dir.path()).unwrap();
        let passed = clean(&log, &mut map).unwrap();
        log.verify(log.partition.watermarks().log_end).unwrap();
        let (after, _) = copy(&log.partition.dir(), dir.path()).unwrap();
        assert!(after < before / 4, "{before} bytes became {after}");
        assert_eq!((passed.rounds, passed.written_bytes), (1, after));
    }

    #[test]
    fn keys_that_do_not_fit_take_as_many_rounds_as_maps() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = KeyedLog::create(dir.path(), small()).unwrap();
        log.fill_to(100).unwrap();
        log.seal().unwrap();
        let mut map = OffsetMap::with_bytes(24 * 30);
        let passed = clean(&log, &mut map).unwrap();
        assert!(passed.rounds >= 3, "{passed:?}");
        log.verify(log.partition.watermarks().log_end).unwrap();
    }
}
