//! What the broker does by itself: intervals here, and one task for each kind of work. A task holds nothing while it
//! sleeps but the broker's inner part, ends when the gate closes, and is joined by the shutdown.
//!
//! | task | every | what |
//! |---|---|---|
//! | checkpoint | 60 s | recovery points, log starts, high watermarks to disk; what the topics' metadata still owes |
//! | expiry | 10 min | forgets idle producers |
//! | disk guard | 1 s, or 100 ms near the reserve | looks at the free space |
//! | gauges | 10 s | counts segments and bytes |
//! | flush | 100 ms, while something is unsynced | syncs what is due of `written` topics |
//! | retention | 30 s, after a roll, when records were deleted | removes segments that are due |
//! | removal | when topics were deleted | removes their files |
//! | archive | 1 s, after a roll | uploads what is sealed, keeps the bucket's books, looks whether it is still ours |
//! | repair | when wanted | brings partitions back after a failed write or sync |
//!
//! What is due is decided by pure functions of the time given (`Partition::sync_due`, `Partition::expire_producers`); the
//! tasks only say when to look.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::telemetry::Exposition;

use super::Error;
use super::archive::Archive;
use super::core::Core;
use super::disk::Change;
use super::{removal, retention};

/// How often checkpoints are written.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(60);
/// How often idle producers are looked for: Kafka's `producer.id.expiration.check.interval.ms`.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(600);
/// How often segments and bytes are counted for the metrics.
const GAUGES_INTERVAL: Duration = Duration::from_secs(10);
/// How often unsynced partitions are looked at, while there are any.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// Starts all background tasks.
pub(super) fn start(core: &Arc<Core>) -> Vec<JoinHandle<()>> {
    vec![
        every(core, CHECKPOINT_INTERVAL, Core::checkpoint),
        every(core, EXPIRY_INTERVAL, Core::expire_producers),
        spawn(core, guard_disk),
        every(core, GAUGES_INTERVAL, Core::count_gauges),
        spawn(core, flush),
        spawn(core, repair),
        spawn(core, retention::look_again_and_again),
        spawn(core, removal::remove_again_and_again),
        spawn(core, Archive::work),
    ]
}

/// Runs `work` off the network threads, again and again; the first time after one interval.
fn every(core: &Arc<Core>, interval: Duration, work: fn(&Core)) -> JoinHandle<()> {
    spawn(core, move |core| async move {
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            run(&core, move |core| work(core)).await;
        }
    })
}

/// Runs a task until the gate closes.
fn spawn<F: Future<Output = ()> + Send>(
    core: &Arc<Core>,
    task: impl FnOnce(Arc<Core>) -> F + Send + 'static,
) -> JoinHandle<()> {
    let core = Arc::clone(core);
    tokio::spawn(async move {
        let closed = core.gate.closed();
        tokio::select! {
            () = task(core) => {}
            () = closed => {}
        }
    })
}

/// Runs blocking work to its end. While the broker stops there is no more of it.
pub(super) async fn run(core: &Arc<Core>, work: impl FnOnce(&Arc<Core>) + Send + 'static) {
    let result = core
        .blocking(move |core| {
            work(core);
            Ok(())
        })
        .await;
    match result {
        Ok(()) | Err(Error::ShuttingDown) => {}
        Err(error) => tracing::error!(%error, "background work failed"),
    }
}

async fn guard_disk(core: Arc<Core>) {
    loop {
        tokio::time::sleep(core.disk.next_look()).await;
        run(&core, |core| core.look_at_disk()).await;
    }
}

async fn flush(core: Arc<Core>) {
    loop {
        if core.flushes.is_empty() {
            core.flushes.woken().await;
        } else {
            // An urgent partition cuts the pause short.
            let _ = tokio::time::timeout(FLUSH_INTERVAL, core.flushes.woken()).await;
        }
        run(&core, |core| {
            let due = core.flushes.due(core.now());
            for again in core.syncer.round(due) {
                core.commit.mark(&again);
            }
        })
        .await;
    }
}

async fn repair(core: Arc<Core>) {
    loop {
        let job = core.repairs.next().await;
        run(&core, move |core| {
            let id = job.served.id();
            if job.served.closed().is_some() {
                core.repairs.finished(&job);
                return;
            }
            match job.served.log.repair(core.now()) {
                Ok(()) => {
                    tracing::info!(partition = %id, failures = job.failures, "partition repaired; it takes writes again");
                    core.repairs.finished(&job);
                    let marks = job.served.log.watermarks();
                    job.served.advance(marks.high_watermark, &core.metrics.ack_latency);
                    core.commit.mark(&job.served);
                    core.settle_metadata();
                }
                Err(error) => {
                    core.disk.heed(&error);
                    core.metrics.repair_failures.inc();
                    tracing::error!(partition = %id, failures = job.failures + 1, %error, "repair failed; it is tried again");
                    core.repairs.failed(job);
                }
            }
        })
        .await;
    }
}

impl Core {
    fn checkpoint(&self) {
        if let Err(error) = self.store.checkpoint() {
            self.disk.heed(&error);
            tracing::error!(%error, "checkpoint failed; it is tried again in a minute");
        }
        self.settle_metadata();
    }

    pub(super) fn expire_producers(&self) {
        let now = self.now();
        for topic in self.topics.all() {
            for served in &topic.partitions {
                served.log.expire_producers(now);
            }
        }
    }

    /// Looks at the free space; also at the start, before anything is served.
    pub(super) fn look_at_disk(&self) {
        let free_bytes = match self.store.free_bytes() {
            Ok(free_bytes) => free_bytes,
            Err(error) => {
                tracing::warn!(%error, "cannot see how much of the disk is free");
                return;
            }
        };
        match self.disk.look(free_bytes) {
            Change::BecameFull => {
                tracing::warn!(free_bytes, "disk is full: produce is refused until space returns")
            }
            Change::Recovered => tracing::info!(free_bytes, "disk has space again: produce is taken"),
            Change::None => {}
        }
    }

    pub(super) fn count_gauges(&self) {
        let topics = self.topics.all();
        let logs = topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|served| served.log.describe());
        let (mut segments, mut bytes, mut partitions) = (0_u64, 0_u64, 0_u64);
        for stats in logs {
            partitions += 1;
            segments += stats.segments;
            bytes += stats.size_bytes;
        }
        self.metrics.partitions.set(gauge(partitions));
        self.metrics.segments.set(gauge(segments));
        self.metrics.log_bytes.set(gauge(bytes));
        if let Some(archive) = &self.archive {
            archive.count_gauges(self);
        }
    }

    /// Takes the gauges that change all the time, then renders everything.
    pub(super) fn metrics_text(&self, exposition: Exposition) -> String {
        let files = self.files.stats();
        let of = |count: usize| gauge(u64::try_from(count).unwrap_or(u64::MAX));
        self.metrics.open_files.set(of(files.open_files));
        self.metrics.open_maps.set(of(files.maps));
        self.metrics.waiters.set(of(self.waits.registrations()));
        self.metrics.repairing.set(of(self.repairs.waiting()));
        self.metrics.inflight_bytes.set(gauge(self.inflight.used()));
        self.metrics.disk_free_bytes.set(gauge(self.disk.free_bytes()));
        self.metrics.disk_full.set(i64::from(self.disk.is_full()));
        self.metrics.text(exposition)
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
