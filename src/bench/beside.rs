//! What appends and reads notice of a pass over the same log.
//!
//! One thread appends a batch and reads one from anywhere in the log, in turn, at half load ([`super::half_load`]). The pass
//! runs on a second thread, as courteous as the broker's are.
//!
//! Invariants
//! - All operations of the second phase begin while the pass runs, from its begin to its end: they meet each of its steps, a
//!   swap for every segment among them.
//! - A pass takes about a second or more, so that what a hundredth of the operations meets is no single stall. How long it took
//!   is part of the figures. Both phases are a few seconds, so that both append about as much.
//! - Both phases get memory that was touched shortly before: the host of a virtual machine may take free memory back, and then
//!   needs up to 0.6 ms for the first touch of 2 MiB, whoever it is that touches it.
//!
//! With `synced` each append waits for its sync, and the limit is what the issue of such a promise allows: twice the time
//! without a pass and one sync of 4 MiB.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::half_load::{self, Noticed, Pair};
use super::keyed::{BATCH_BYTES, KeyedLog, Workload};
use super::limits::SyncedAppends;
use super::measure::{Measure, Times};
use super::memory::touch;
use super::passes::{MAP_BYTES, filled, limit, measure, pass};
use super::payload::to_u64;
use super::target::temp_dir;
use super::{BenchError, Options};
use crate::broker::{Courtesy, Traffic};
use crate::env::step_back;
use crate::record::Accepted;
use crate::storage::{FirstBatch, OffsetMap, Pace, Read, Step};
use crate::types::Offset;

/// One step of the cleaner's syncs.
const SYNC_STEP_BYTES: usize = 4 << 20;
const SYNC_STEPS: u32 = 20;
/// What the appends of a few seconds take.
const TOUCHED_BYTES: u64 = 1 << 30;
/// How long appends and reads are measured without a pass.
const ALONE: Duration = Duration::from_secs(3);

/// What an append waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wait {
    Written,
    Synced,
}

impl Wait {
    /// Returns how many pairs tell the greatest rate.
    fn pairs(self) -> u32 {
        match self {
            Self::Written => 2000,
            Self::Synced => 500,
        }
    }
}

/// All of one kind of append.
#[derive(Debug)]
struct Phases {
    alone: Noticed,
    during: Noticed,
    passes: Times,
    /// Syncs of [`SYNC_STEP_BYTES`].
    syncs: Times,
}

/// Measures appends and reads while a pass runs, beside the same without: their 99th percentiles and the longest of all.
pub(super) fn beside(options: &Options) -> Result<Vec<Measure>, BenchError> {
    let mut measures = figures("", &phases(Wait::Written, options)?, |alone, _| {
        ("without_a_pass", alone)
    });
    let synced = phases(Wait::Synced, options)?;
    measures.extend(figures("synced_", &synced, |alone, sync| {
        ("twice_and_a_sync", 2.0 * alone + sync)
    }));
    Ok(measures)
}

fn phases(wait: Wait, options: &Options) -> Result<Phases, BenchError> {
    // Beside synced appends a pass rests long for each segment.
    let records = match wait {
        Wait::Written => 500_000,
        Wait::Synced => 250_000,
    };
    let workload = Workload {
        key_count: records / 2,
        records,
        ..Workload::default()
    };
    let mut phases = Phases {
        alone: Noticed::new(),
        during: Noticed::new(),
        passes: Times::new(),
        syncs: Times::new(),
    };
    let mut map = OffsetMap::with_bytes(MAP_BYTES);
    for _ in 0..options.scale.pick(2, 1) {
        let dir = temp_dir(options)?;
        one_pass(dir.path(), (wait, workload), &mut map, &mut phases)?;
        let mut syncs = SyncedAppends::new(dir.path(), SYNC_STEP_BYTES)?;
        syncs.run(SYNC_STEPS)?;
        phases.syncs.add_all(&syncs.times);
    }
    Ok(phases)
}

/// `allowed` says, for a time without a pass and that of one sync, what a time with a pass is compared with.
fn figures(prefix: &str, phases: &Phases, allowed: impl Fn(f64, f64) -> (&'static str, f64)) -> Vec<Measure> {
    let Phases {
        alone,
        during,
        passes,
        syncs,
    } = phases;
    let sync = syncs.quantile_ms(0.5);
    let prefix = format!("compact.{prefix}");
    let mut measures = half_load::figures(&prefix, (alone, during), |alone| allowed(alone, sync));
    measures.push(measure(
        &format!("{prefix}pass_beside"),
        passes.quantile_ms(0.5),
        "ms",
        limit("a_second", 1000.0),
    ));
    measures
}

/// Fills a log, and drives it for a while alone and for as long as a pass over it takes.
fn one_pass(
    dir: &Path,
    (wait, workload): (Wait, Workload),
    map: &mut OffsetMap,
    phases: &mut Phases,
) -> Result<(), BenchError> {
    let mut log = filled(&dir.join("data"), workload, map)?;
    let clean_to = log.partition.watermarks().log_end;
    let now = log.now();
    let mut driver = Driver::new(&mut log, wait);
    let interval = 2 * half_load::fastest(&mut driver, wait.pairs())?;
    touch(TOUCHED_BYTES);
    let until = Instant::now() + ALONE;
    half_load::at_times(&mut driver, interval, &mut phases.alone, || {
        Instant::now() < until
    })?;
    touch(TOUCHED_BYTES);
    let (store, partition) = (Arc::clone(&driver.log.store), Arc::clone(&driver.log.partition));
    let running = AtomicBool::new(true);
    let done = Arc::clone(&driver.done);
    std::thread::scope(|scope| {
        let passing = scope.spawn(|| {
            step_back();
            let began = Instant::now();
            let mut courtesy = Courtesy::new(done.traffic(), began);
            let mut pace = |step| paced(&mut courtesy, done.traffic(), step);
            let passed = store.compact(&partition, &mut pass(now, map, &mut pace));
            running.store(false, Ordering::Release);
            passed.map(|_| began.elapsed())
        });
        let goes_on = || running.load(Ordering::Acquire);
        let driven = half_load::at_times(&mut driver, interval, &mut phases.during, goes_on);
        let took = passing.join().expect("a pass does not panic")?;
        phases.passes.add(took);
        driven
    })?;
    log.verify(clean_to)?;
    log.close()
}

/// Rests as a pass of the broker does that no promise hurries.
fn paced(courtesy: &mut Courtesy, traffic: Traffic, step: Step) -> Pace {
    let Some(rest) = courtesy.rest(traffic, step, Instant::now()) else {
        courtesy.resume(Instant::now());
        return Pace::Go;
    };
    let until = Instant::now() + rest;
    while let Some(left) = until
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        std::thread::park_timeout(left);
    }
    courtesy.resume(Instant::now());
    Pace::Gently
}

/// What a driver has done so far.
#[derive(Debug, Default)]
struct Done {
    operations: AtomicU64,
    syncs: AtomicU64,
}

impl Done {
    fn traffic(&self) -> Traffic {
        Traffic {
            operations: self.operations.load(Ordering::Relaxed),
            syncs: self.syncs.load(Ordering::Relaxed),
        }
    }
}

/// Who appends and reads.
struct Driver<'a> {
    log: &'a mut KeyedLog,
    wait: Wait,
    next: Option<Accepted>,
    reads: u64,
    done: Arc<Done>,
}

impl<'a> Driver<'a> {
    fn new(log: &'a mut KeyedLog, wait: Wait) -> Self {
        Self {
            log,
            wait,
            next: None,
            reads: 0,
            done: Arc::default(),
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

impl Pair for Driver<'_> {
    fn prepare(&mut self) {
        self.next = Some(self.log.next_batch(u32::MAX));
    }

    fn append(&mut self) -> Result<(), BenchError> {
        let batch = self.next.take();
        let batch = batch.unwrap_or_else(|| self.log.next_batch(u32::MAX));
        self.log.append(&batch)?;
        if self.wait == Wait::Synced {
            self.log.sync()?;
            self.done.syncs.fetch_add(1, Ordering::Relaxed);
        }
        self.done.operations.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn read(&mut self) -> Result<(), BenchError> {
        self.read_one()?;
        self.done.operations.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Without giving the processor away: what is waited for is shorter than waking up takes.
    fn wait_until(&self, due: Instant) {
        while Instant::now() < due {
            std::hint::spin_loop();
        }
    }
}
