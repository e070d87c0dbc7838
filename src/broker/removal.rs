//! Files of deleted partitions, removed in the background: a deletion answers once nobody can come by the topic again, and does
//! not wait for the disk to take apart what is left of it.
//!
//! What is queued has lost its name already, durably: a topic of the same name is made beside it at once. What a stop or a
//! death leaves, the next start removes.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::storage::Removed;

use super::core::Core;
use super::schedule::run;
use super::topics::PARTITIONS_MAX;

/// So many directories are removed in one go; a stop waits for as many.
const AT_ONCE: usize = 64;
/// So many directories wait at most: twice what a server can hold. A deletion beyond that removes its files itself.
const QUEUED_MAX: usize = 2 * PARTITIONS_MAX.unsigned_abs() as usize;

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Removals {
    queue: Mutex<Removed>,
    wake: Notify,
}

impl Removals {
    /// Queues files; returns those that there is no room for.
    #[must_use]
    pub(super) fn add(&self, mut removed: Removed) -> Removed {
        let mut queue = self.queue.lock();
        let room = QUEUED_MAX.saturating_sub(queue.len());
        queue.join(removed.take(room));
        drop(queue);
        self.wake.notify_one();
        removed
    }

    fn take(&self) -> Removed {
        self.queue.lock().take(AT_ONCE)
    }

    fn is_empty(&self) -> bool {
        self.queue.lock().is_empty()
    }
}

/// The background task.
pub(super) async fn remove_again_and_again(core: Arc<Core>) {
    loop {
        if core.removals.is_empty() {
            core.removals.wake.notified().await;
        }
        run(&core, |core| core.remove_files(core.removals.take())).await;
        tokio::task::yield_now().await;
    }
}

impl Core {
    /// Has the files of partitions that are gone removed, sooner or later.
    pub(super) fn remove_later(&self, removed: Removed) {
        let beyond = self.removals.add(removed);
        self.remove_files(beyond);
    }

    fn remove_files(&self, removed: Removed) {
        if let Err(error) = self.store.remove_files(removed) {
            tracing::warn!(%error, "files of a deleted partition are left; the next start removes them");
        }
    }
}
