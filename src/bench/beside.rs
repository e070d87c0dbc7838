//! What appends and reads notice of a pass over the same log.
//!
//! One thread appends a batch and reads one from anywhere in the log, in turn, at the times that half of its own greatest rate
//! gives. A time counts from when the operation should have begun, so that a stall counts for all that it held up. The pass
//! runs on a second thread, without a budget: the broker's would only make it gentler.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::compact::{MAP_BYTES, filled, limit, measure, plain, round};
use super::keyed::{BATCH_BYTES, KeyedLog, Workload};
use super::measure::{Measure, Times};
use super::payload::to_u64;
use super::target::temp_dir;
use super::{BenchError, Options};
use crate::storage::{FirstBatch, OffsetMap, Read};
use crate::types::Offset;

/// Appends and reads of one phase.
#[derive(Debug)]
struct Noticed {
    appends: Times,
    reads: Times,
}

impl Noticed {
    fn new() -> Self {
        Self {
            appends: Times::new(),
            reads: Times::new(),
        }
    }
}

/// Measures the 99th percentile of appends and of reads while a pass runs, beside the same without.
pub(super) fn beside(options: &Options) -> Result<Vec<Measure>, BenchError> {
    let workload = plain(options.scale);
    let (mut alone, mut during) = (Noticed::new(), Noticed::new());
    let mut map = OffsetMap::with_bytes(MAP_BYTES);
    for _ in 0..options.scale.pick(10, 2) {
        let dir = temp_dir(options)?;
        one_pass(
            &dir.path().join("data"),
            workload,
            &mut map,
            [&mut alone, &mut during],
        )?;
    }
    let of = |name: &str, with: &Times, without: &Times| {
        let value = with.quantile_ms(0.99);
        measure(
            name,
            value,
            "ms",
            limit("without_a_pass", without.quantile_ms(0.99)),
        )
    };
    Ok(vec![
        of("compact.append_p99_beside", &during.appends, &alone.appends),
        of("compact.read_p99_beside", &during.reads, &alone.reads),
    ])
}

/// Fills a log, and drives it for a while alone and for as long as a pass over it takes.
fn one_pass(
    dir: &Path,
    workload: Workload,
    map: &mut OffsetMap,
    [alone, during]: [&mut Noticed; 2],
) -> Result<(), BenchError> {
    let mut log = filled(dir, workload, map)?;
    let clean_to = log.partition.watermarks().log_end;
    let now = log.now();
    let mut driver = Driver::new(&mut log);
    let interval = 2 * driver.fastest()?;
    let operations = u64::from(workload.records / 100);
    let mut left = operations;
    driver.at_times(interval, alone, || {
        left = left.saturating_sub(1);
        left > 0
    })?;
    let partition = Arc::clone(&driver.log.partition);
    let running = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let pass = scope.spawn(|| {
            let passed = round(&partition, now, map);
            running.store(false, Ordering::Release);
            passed
        });
        driver.at_times(interval, during, || running.load(Ordering::Acquire))?;
        pass.join().expect("a pass does not panic")
    })?;
    log.verify(clean_to)?;
    log.close()
}

/// Who appends and reads.
struct Driver<'a> {
    log: &'a mut KeyedLog,
    reads: u64,
}

impl<'a> Driver<'a> {
    fn new(log: &'a mut KeyedLog) -> Self {
        Self { log, reads: 0 }
    }

    /// Returns the time that an append and a read take when nothing waits.
    fn fastest(&mut self) -> Result<Duration, BenchError> {
        const PAIRS: u32 = 2000;
        let mut noticed = Noticed::new();
        let mut left = PAIRS;
        let began = Instant::now();
        self.at_times(Duration::ZERO, &mut noticed, || {
            left -= 1;
            left > 0
        })?;
        Ok(began.elapsed() / PAIRS)
    }

    /// Appends and reads, a pair each `interval`, for as long as `goes_on`.
    fn at_times(
        &mut self,
        interval: Duration,
        noticed: &mut Noticed,
        mut goes_on: impl FnMut() -> bool,
    ) -> Result<(), BenchError> {
        let mut due = Instant::now();
        loop {
            let batch = self.log.next_batch(u32::MAX);
            wait_until(due);
            self.log.append(&batch)?;
            noticed.appends.add(due.elapsed());
            let half = due + interval / 2;
            wait_until(half);
            self.read_one()?;
            noticed.reads.add(half.elapsed());
            if !goes_on() {
                return Ok(());
            }
            due += interval;
        }
    }

    /// Reads a batch from anywhere in the log; its bytes are touched, which makes a mapping pay for them.
    fn read_one(&mut self) -> Result<(), BenchError> {
        self.reads += 1;
        let until = self.log.partition.watermarks().log_end;
        let spread = self.reads.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let records = u64::from(self.log.written());
        let from = Offset(i64::try_from((spread * records) >> 32).expect("less than the records"));
        let slice = self.log.partition.read(&Read {
            from: from.min(until),
            until,
            times: None,
            max_bytes: BATCH_BYTES,
            first: FirstBatch::Whole,
        })?;
        let touched: u64 = slice.bytes.iter().step_by(512).map(|byte| u64::from(*byte)).sum();
        std::hint::black_box(touched + to_u64(slice.bytes.len()));
        Ok(())
    }
}

/// Waits without giving the processor away: what is waited for is shorter than waking up takes.
fn wait_until(due: Instant) {
    while Instant::now() < due {
        std::hint::spin_loop();
    }
}
