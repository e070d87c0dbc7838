//! Passes over a keyed log, as every benchmark of the cleaner runs them: on the caller's thread.
//!
//! What is not here: what is measured (`compact`, `beside`), and what a log is filled with (`keyed`).

use std::path::Path;
use std::time::{Duration, Instant};

use super::keyed::{KeyedLog, Workload};
use super::measure::{Limit, Measure};
use super::{BenchError, Scale};
use crate::storage::{Budget, OffsetMap, Pace, Pass, Rounds};
use crate::types::Timestamp;

/// As `log.cleaner.dedupe.buffer.size` is by default.
pub(super) const MAP_BYTES: usize = 128 << 20;
/// A partition that needs more rounds than this does not get on.
const MAX_ROUNDS: u64 = 1000;

/// The default, smaller in a quick run.
pub(super) fn plain(scale: Scale) -> Workload {
    let full = Workload::default();
    Workload {
        key_count: full.key_count / scale.pick(1, 8),
        records: full.records / scale.pick(1, 8),
        ..full
    }
}

/// What rounds did until everything was clean.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Passed {
    pub(super) took: Duration,
    pub(super) rounds: u64,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
}

/// Cleans everything that is sealed.
pub(super) fn clean(log: &KeyedLog, map: &mut OffsetMap) -> Result<Passed, BenchError> {
    let now = log.now();
    let mut passed = Passed::default();
    let began = Instant::now();
    loop {
        let report = log
            .store
            .compact(&log.partition, &mut pass(now, map, &mut |_| Pace::Go))?;
        passed.rounds += 1;
        passed.read_bytes += report.read_bytes;
        passed.written_bytes += report.written_bytes;
        if report.rounds == Rounds::Done {
            passed.took = began.elapsed();
            return Ok(passed);
        }
        if passed.rounds == MAX_ROUNDS {
            let what = format!("{MAX_ROUNDS} rounds were not enough: {report:?}");
            return Err(BenchError::Compaction { what });
        }
    }
}

/// Returns what a pass is given.
pub(super) fn pass<'a>(now: Timestamp, map: &'a mut OffsetMap, budget: Budget<'a>) -> Pass<'a> {
    Pass {
        map,
        seed: [7, 11],
        now,
        budget,
    }
}

/// Fills a log as the workload says; what is to be clean, is.
pub(super) fn filled(dir: &Path, workload: Workload, map: &mut OffsetMap) -> Result<KeyedLog, BenchError> {
    let mut log = KeyedLog::create(dir, workload)?;
    let clean_records = workload.records / 100 * (100 - workload.dirty_percent);
    if clean_records > 0 {
        log.fill_to(clean_records)?;
        log.seal()?;
        clean(&log, map)?;
    }
    log.fill_to(workload.records)?;
    log.seal()?;
    Ok(log)
}

pub(super) fn limit(name: &'static str, value: f64) -> Limit {
    Limit { name, value }
}

pub(super) fn measure(name: &str, value: f64, unit: &'static str, limit: Limit) -> Measure {
    Measure {
        name: name.to_owned(),
        value,
        unit,
        limit,
    }
}
