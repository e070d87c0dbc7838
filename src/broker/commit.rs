//! Group commit: many waiting appends share one sync, and the syncs of many partitions run together.
//!
//! ```text
//!  append -- mark --> dirty partitions --> one thread: take all, sync all at once --> watermarks move
//!                          ^                                                            |     |
//!                          '---------- whatever came in meanwhile: the next round       v     v
//!                                                                           acknowledgements  readers
//! ```
//!
//! The thread is the broker's own and not the runtime's: a sync blocks, and one wake-up is all that lies between an append
//! and its sync. A round begins as soon as the one before ends; the slower the disk, the more appends share one.
//!
//! Invariants
//! - A partition is unmarked before it is synced: an append that finds it marked is covered by a round yet to begin.
//! - A failed sync fails every acknowledgement of its partition and hands it to `repair`; it is never tried again as it is.
//! - A partition is synced by one thread at a time: `flush` and this one ask it first.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::storage::{Partition, Store, StoreError};
use crate::telemetry::Metrics;

use super::Error;
use super::disk::DiskGuard;
use super::repair::Repairs;
use super::served::{Claim, Served};

/// Syncs partitions and tells those who wait.
#[derive(Debug)]
pub(super) struct Syncer {
    pub(super) store: Arc<Store>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) repairs: Arc<Repairs>,
    pub(super) disk: Arc<DiskGuard>,
}

impl Syncer {
    /// Syncs everything appended to `partitions` so far. Returns those that must be synced again, because somebody asked
    /// meanwhile.
    pub(super) fn round(&self, partitions: Vec<Arc<Served>>) -> Vec<Arc<Served>> {
        let (ours, logs): (Vec<_>, Vec<Arc<Partition>>) = partitions
            .into_iter()
            .filter(|served| served.claim_sync() == Claim::Granted)
            .map(|served| {
                let log = Arc::clone(&served.log);
                (served, log)
            })
            .unzip();
        if ours.is_empty() {
            return ours;
        }
        let started = Instant::now();
        let results = self.store.sync(&logs);
        self.metrics.sync_latency.record(started.elapsed());
        self.metrics.sync_rounds.inc();
        self.metrics
            .sync_partitions
            .inc_by(u64::try_from(ours.len()).unwrap_or(u64::MAX));
        for (served, result) in ours.iter().zip(results) {
            match result {
                Ok(synced) => served.advance(synced.high_watermark, &self.metrics.ack_latency),
                Err(error) => self.failed(served, &error),
            }
        }
        ours.into_iter().filter(|served| served.release_sync()).collect()
    }

    fn failed(&self, served: &Arc<Served>, error: &StoreError) {
        if served.closed().is_some() {
            // Its files were removed under the sync.
            return;
        }
        self.disk.heed(error);
        self.metrics.sync_failures.inc();
        tracing::error!(partition = %served.id(), %error, "sync failed; the partition refuses writes until repaired");
        served.fail(&Error::WritesRefused {
            partition: served.id().clone(),
            reason: format!("{error}; the records may or may not be there; it is being repaired"),
        });
        self.repairs.add(served);
    }
}

/// The queue of dirty partitions and the thread that serves it.
#[derive(Debug)]
pub(super) struct Commit {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Debug)]
struct Queue {
    dirty: Vec<Arc<Served>>,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Running,
    /// The thread ends once nothing is dirty.
    Ending,
}

impl Commit {
    /// Makes an empty queue.
    pub(super) fn new() -> Arc<Self> {
        let queue = Queue {
            dirty: Vec::new(),
            phase: Phase::Running,
        };
        Arc::new(Self {
            queue: Mutex::new(queue),
            wake: Condvar::new(),
        })
    }

    /// Has everything appended to `served` so far synced.
    pub(super) fn mark(&self, served: &Arc<Served>) {
        if Served::first_to_set(&served.dirty) {
            self.queue.lock().dirty.push(Arc::clone(served));
            self.wake.notify_one();
        }
    }

    /// Lets the thread end once nothing is dirty.
    pub(super) fn end(&self) {
        self.queue.lock().phase = Phase::Ending;
        self.wake.notify_one();
    }

    /// Serves the queue until it is ended: the body of the thread.
    pub(super) fn serve(&self, syncer: &Syncer) {
        while let Some(dirty) = self.take() {
            for served in &dirty {
                served.dirty.swap(false, Ordering::AcqRel);
            }
            for again in syncer.round(dirty) {
                self.mark(&again);
            }
        }
    }

    /// Waits for dirty partitions; `None` when the thread is to end.
    fn take(&self) -> Option<Vec<Arc<Served>>> {
        let mut queue = self.queue.lock();
        loop {
            if !queue.dirty.is_empty() {
                return Some(std::mem::take(&mut queue.dirty));
            }
            if queue.phase == Phase::Ending {
                return None;
            }
            self.wake.wait(&mut queue);
        }
    }
}
