//! Syncs that nobody waits for: of partitions with `durability = written`, by `flush.ms`, `flush.messages`, and after a
//! roll. They run apart from group commit, so that a large one keeps no acknowledgement waiting.
//!
//! A partition is on the list from its first unsynced append until everything in it is synced, or until only a further append
//! can make it due (`flush.ms` is without end): that one puts it on the list again. Storage says what is due.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::storage::SyncDue;
use crate::types::Timestamp;

use super::served::Served;

/// The partitions that hold something unsynced.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    list: Mutex<Vec<Arc<Served>>>,
    wake: Notify,
}

/// When the list is to be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Urgency {
    /// At the next sweep.
    Sweep,
    /// Now: `flush.messages` is reached.
    Now,
}

impl Flushes {
    /// Puts a partition on the list.
    pub(super) fn watch(&self, served: &Arc<Served>, urgency: Urgency) {
        let first = Served::first_to_set(&served.watched);
        if first {
            self.list.lock().push(Arc::clone(served));
        }
        if first || urgency == Urgency::Now {
            self.wake.notify_one();
        }
    }

    /// Completes when the list has something new or urgent.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Returns the partitions to sync at `now`, and takes those with nothing unsynced off the list.
    pub(super) fn due(&self, now: Timestamp) -> Vec<Arc<Served>> {
        // Examined without the lock: looking at a partition waits for its appends, and they put partitions on the list.
        let mut examined = std::mem::take(&mut *self.list.lock());
        let mut due = Vec::new();
        examined.retain(|served| {
            // Unmarked first: an append after this puts it on the list again.
            served.watched.store(false, Ordering::SeqCst);
            let marks = served.log.watermarks();
            let unsynced = marks.recovery_point < marks.log_end && served.closed().is_none();
            let stays = match served.log.sync_due(now) {
                SyncDue::Now => {
                    due.push(Arc::clone(served));
                    unsynced
                }
                SyncDue::InTime | SyncDue::No => unsynced,
                SyncDue::OnAppend => false,
            };
            stays && Served::first_to_set(&served.watched)
        });
        self.list.lock().append(&mut examined);
        due
    }

    /// True when nothing is unsynced.
    pub(super) fn is_empty(&self) -> bool {
        self.list.lock().is_empty()
    }
}
