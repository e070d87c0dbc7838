//! Opening partitions for appends, ahead of them and side by side: a first write to thousands of partitions waits for their
//! directories and states together, not for one after the other.
//!
//! Everything here is a head start and nothing else: an append opens what is not open yet itself, and tells what went wrong.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use tokio::sync::Semaphore;

use crate::types::{PartitionId, TopicName};

use super::core::Core;
use super::served::Served;

/// So many partitions are opened at once, for all callers together: enough to keep a disk busy.
const AT_ONCE: usize = 16;

/// Who may open.
#[derive(Debug)]
pub(super) struct Openings(Semaphore);

impl Default for Openings {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

impl Core {
    /// Begins to open a partition for an append that is to come; the result completes when it is open, or cannot be opened.
    /// `None` when there is nothing to wait for, or somebody before has begun it.
    pub(super) fn open_ahead(
        self: &Arc<Self>,
        topic: &TopicName,
        partition: PartitionId,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        let topic = self.topics.find_writable(topic).ok()?;
        let served = topic.partition(partition).ok()?;
        if served.log.is_open() || !Served::first_to_set(&served.opening) {
            return None;
        }
        let (core, served) = (Arc::clone(self), Arc::clone(served));
        let opening = tokio::spawn(async move { core.open_some(vec![served]).await });
        Some(async move {
            // A panic was reported where it happened, and the append meets what it left.
            let _ = opening.await;
        })
    }

    /// Opens partitions side by side.
    pub(super) async fn open_side_by_side(self: &Arc<Self>, partitions: Vec<Arc<Served>>) {
        let share = partitions.len().div_ceil(AT_ONCE).max(1);
        let groups: Vec<Vec<Arc<Served>>> = partitions.chunks(share).map(<[_]>::to_vec).collect();
        join_all(groups.into_iter().map(|group| self.open_some(group))).await;
    }

    /// Opens partitions one after the other, where it may block.
    async fn open_some(self: &Arc<Self>, partitions: Vec<Arc<Served>>) {
        // The broker keeps the semaphore open for as long as it lives.
        let _permit = self.openings.0.acquire().await;
        let now = self.now();
        let opening = self.blocking(move |_| {
            for served in partitions {
                // In turn with whoever removes the partition: nothing is made in its place.
                if let Ok(_turn) = served.turn() {
                    let _ = served.log.open(now);
                }
                served.opening.store(false, Ordering::Release);
            }
            Ok(())
        });
        let _ = opening.await;
    }
}
