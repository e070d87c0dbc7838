//! Waiting for data: one waiter over any number of partitions.
//!
//! A partition keeps its [`Waiters`]. A reader that found nothing makes a [`Wait`], which registers with every partition it
//! reads, each with the offset it has; **then it looks again**, and only then sleeps. Whoever moves a high watermark rings all
//! waiters that it passed. A wait stays registered until it is dropped, and may sleep any number of times.
//!
//! No wake-up is lost: the waiter registers, fences, then reads the watermark; the other side moves the watermark, fences,
//! then looks for waiters. One of the two sees the other. A bell that rings while nobody sleeps is kept for the next sleep.
//!
//! Registrations over all partitions have a limit. What is not here: what is being waited for beyond "more than I have".

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::types::Offset;

use super::Error;

/// Registrations over all partitions of a broker: a reader of a hundred partitions takes a hundred. About 100 bytes each.
pub(super) const REGISTRATIONS_MAX: usize = 1 << 20;

/// Those who wait for one partition.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    /// As many as `list` has; read without the lock by whoever moves the watermark.
    count: AtomicUsize,
    list: Mutex<BTreeMap<u64, Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    /// Rung when the watermark passes it.
    has: Offset,
    bell: Arc<Notify>,
}

impl Waiters {
    /// Wakes those who have less than `high_watermark`.
    pub(super) fn ring(&self, high_watermark: Offset) {
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        for waiter in self.list.lock().values() {
            if high_watermark > waiter.has {
                waiter.bell.notify_one();
            }
        }
    }

    /// Wakes everybody: the partition is gone.
    pub(super) fn ring_all(&self) {
        for waiter in self.list.lock().values() {
            waiter.bell.notify_one();
        }
    }

    fn add(&self, id: u64, waiter: Waiter) {
        self.list.lock().insert(id, waiter);
        self.count.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    fn remove(&self, id: u64) {
        if self.list.lock().remove(&id).is_some() {
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Whatever has waiters.
pub(super) trait Watched {
    /// Returns them.
    fn waiters(&self) -> &Waiters;
}

/// All waits of one broker.
#[derive(Debug)]
pub(super) struct WaitSet {
    registrations: AtomicUsize,
    limit: usize,
    next_id: AtomicU64,
}

impl WaitSet {
    /// Makes a set that admits `limit` registrations.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            registrations: AtomicUsize::new(0),
            limit,
            next_id: AtomicU64::new(0),
        })
    }

    /// Returns how many registrations there are.
    pub(super) fn registrations(&self) -> usize {
        self.registrations.load(Ordering::Relaxed)
    }

    /// Registers with each of `places`, each with the offset that the reader has. **Look again before sleeping.**
    ///
    /// # Errors
    /// [`Error::Overloaded`] at the limit.
    pub(super) fn register<W: Watched>(
        self: &Arc<Self>,
        places: impl IntoIterator<Item = (Arc<W>, Offset)>,
    ) -> Result<Wait<W>, Error> {
        let mut wait = Wait {
            set: Arc::clone(self),
            bell: Arc::new(Notify::new()),
            places: Vec::new(),
        };
        for (place, has) in places {
            if self.registrations.fetch_add(1, Ordering::Relaxed) >= self.limit {
                self.registrations.fetch_sub(1, Ordering::Relaxed);
                return Err(Error::Overloaded {
                    what: "waiting readers",
                    limit: u64::try_from(self.limit).unwrap_or(u64::MAX),
                });
            }
            let bell = Arc::clone(&wait.bell);
            let id = self.next_id.fetch_add(1, Ordering::Relaxed);
            place.waiters().add(id, Waiter { has, bell });
            wait.places.push((place, id));
        }
        Ok(wait)
    }
}

/// A registration with any number of partitions; dropping it takes it back.
#[derive(Debug)]
pub(super) struct Wait<W: Watched> {
    set: Arc<WaitSet>,
    bell: Arc<Notify>,
    places: Vec<(Arc<W>, u64)>,
}

impl<W: Watched> Wait<W> {
    /// Sleeps until a watermark passed, or since the last sleep has passed, what was registered. Cancel safe.
    pub(super) async fn rung(&self) {
        self.bell.notified().await;
    }
}

impl<W: Watched> Drop for Wait<W> {
    fn drop(&mut self) {
        for (place, id) in &self.places {
            place.waiters().remove(*id);
        }
        self.set
            .registrations
            .fetch_sub(self.places.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "wait_tests.rs"]
mod tests;
