//! The desk: commands that wait for a thread, commands that are known, and where idle threads sleep.
//!
//! Invariants
//! - At most [`COMMANDS_MAX`] commands are known; a new one takes the place of the oldest that is over, and is refused where
//!   none is.
//! - The lock is held for memory work. `wake` rings for a new command and at the end; `changed` for those who wait for a
//!   command.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use crate::broker::Error;
use crate::broker::served::Served;
use crate::types::{Timestamp, TopicName};

use super::pace::Bucket;
use super::{CleanerConfig, CompactionJob, JobState, PartitionJob};

/// So many commands are remembered.
const COMMANDS_MAX: usize = 64;

/// See the module.
#[derive(Debug)]
pub(in crate::broker) struct Desk {
    pub(super) config: CleanerConfig,
    pub(super) bucket: Mutex<Bucket>,
    papers: Mutex<Papers>,
    wake: Condvar,
    ending: AtomicBool,
    changed: Notify,
    /// When the next promise wants a thread, in milliseconds, as far as looks and appends told.
    promise_at: AtomicI64,
    /// Logs that threads are at.
    pub(super) busy: AtomicUsize,
}

#[derive(Debug, Default)]
struct Papers {
    jobs: BTreeMap<u64, CompactionJob>,
    last_handle: u64,
    waiting: VecDeque<Errand>,
    /// Something happened that may make a log due.
    look: bool,
    /// Threads that sleep.
    idle: usize,
}

/// One partition of a command.
#[derive(Clone, Debug)]
pub(super) struct Errand {
    pub(super) handle: u64,
    pub(super) served: Arc<Served>,
}

impl Desk {
    /// Returns an empty desk.
    pub(in crate::broker) fn new(config: CleanerConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            bucket: Mutex::new(Bucket::new(config.io_max_bytes_per_second, Instant::now())),
            papers: Mutex::default(),
            wake: Condvar::new(),
            ending: AtomicBool::new(false),
            changed: Notify::new(),
            promise_at: AtomicI64::new(i64::MAX),
            busy: AtomicUsize::new(0),
        })
    }

    /// Ends the threads, and a pass within its next chunk.
    pub(in crate::broker) fn end(&self) {
        let papers = self.papers.lock();
        self.ending.store(true, Ordering::SeqCst);
        drop(papers);
        self.wake.notify_all();
        self.changed.notify_waiters();
    }

    /// True once the threads are to end.
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// Has an idle thread look for work now.
    pub(in crate::broker) fn look(&self) {
        self.papers.lock().look = true;
        self.wake.notify_one();
    }

    /// A look at all logs begins: it finds every promise that was told of until now.
    pub(super) fn begin_look(&self) {
        self.promise_at.store(i64::MAX, Ordering::SeqCst);
    }

    /// A look found that a promise wants a thread then.
    pub(super) fn note_promise(&self, at: Timestamp) {
        self.promise_at.fetch_min(at.0, Ordering::SeqCst);
    }

    /// A log got its first promise. Has an idle thread look at it, if none was to look so soon.
    pub(in crate::broker) fn expect_promise(&self, at: Timestamp) {
        if self.promise_at.fetch_min(at.0, Ordering::SeqCst) > at.0 {
            self.look();
        }
    }

    /// Tells whether a promise may want a thread now, and there is none but those at work.
    pub(super) fn needs_a_working_thread(&self, now: Timestamp) -> bool {
        if self.promise_at.load(Ordering::SeqCst) > now.0 {
            return false;
        }
        let mut papers = self.papers.lock();
        let idle = papers.idle > 0;
        papers.look |= idle;
        drop(papers);
        if idle {
            self.wake.notify_one();
        }
        !idle
    }

    /// Tells whether every thread has a log.
    pub(super) fn is_busy(&self) -> bool {
        let busy = self.busy.load(Ordering::Relaxed);
        busy > 0 && busy >= self.config.threads
    }

    /// Sleeps until there may be work, at most `pause`.
    pub(in crate::broker) fn sleep(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut papers = self.papers.lock();
        papers.idle += 1;
        while !self.is_ending() && papers.waiting.is_empty() && !papers.look {
            if self.wake.wait_until(&mut papers, until).timed_out() {
                break;
            }
        }
        papers.idle -= 1;
        papers.look = false;
    }

    /// Rests during work: `pause`, or until the end.
    pub(super) fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut papers = self.papers.lock();
        while !self.is_ending() && !self.wake.wait_until(&mut papers, until).timed_out() {}
        if !papers.waiting.is_empty() || papers.look {
            // The bell was meant for a thread without work.
            self.wake.notify_one();
        }
    }

    /// Takes in a command; returns its handle.
    ///
    /// # Errors
    /// [`Error::Overloaded`] while too many are under way, [`Error::ShuttingDown`].
    pub(super) fn put(&self, topic: &TopicName, partitions: &[Arc<Served>]) -> Result<u64, Error> {
        let mut papers = self.papers.lock();
        if self.is_ending() {
            return Err(Error::ShuttingDown);
        }
        if papers.jobs.len() >= COMMANDS_MAX {
            let over = papers.jobs.iter().find(|(_, job)| job.is_over());
            let handle = over.map(|(handle, _)| *handle).ok_or(Error::Overloaded {
                what: "compactions by command",
                limit: COMMANDS_MAX as u64,
            })?;
            papers.jobs.remove(&handle);
        }
        papers.last_handle += 1;
        let handle = papers.last_handle;
        let waiting = |served: &Arc<Served>| PartitionJob {
            partition: served.id().partition,
            state: JobState::Waiting,
            before_bytes: 0,
            after_bytes: 0,
            passes: 0,
            read_bytes: 0,
            written_bytes: 0,
            values_kept: 0,
            tombstones_kept: 0,
            records_dropped: 0,
        };
        let job = CompactionJob {
            handle,
            topic: topic.clone(),
            partitions: partitions.iter().map(waiting).collect(),
        };
        papers.jobs.insert(handle, job);
        let errands = partitions.iter().map(|served| Errand {
            handle,
            served: Arc::clone(served),
        });
        papers.waiting.extend(errands);
        drop(papers);
        self.wake.notify_all();
        Ok(handle)
    }

    /// Takes the first errand that `claim` can claim.
    pub(super) fn take<T>(&self, claim: impl Fn(&Errand) -> Option<T>) -> Option<T> {
        let mut papers = self.papers.lock();
        let mut errands = papers.waiting.iter().enumerate();
        let (at, claimed) = errands.find_map(|(at, errand)| Some((at, claim(errand)?)))?;
        papers.waiting.remove(at);
        Some(claimed)
    }

    /// Returns how a command stands.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] for a handle that is not known, or no longer.
    pub(super) fn job(&self, handle: u64) -> Result<CompactionJob, Error> {
        let papers = self.papers.lock();
        papers.jobs.get(&handle).cloned().ok_or_else(|| Error::InvalidRequest {
            reason: format!(
                "compaction {handle} is not known: the server keeps the last {COMMANDS_MAX}, and none over a restart"
            ),
        })
    }

    /// Changes what is told of one partition of a command.
    pub(super) fn tell(&self, errand: &Errand, change: impl FnOnce(&mut PartitionJob)) {
        let mut papers = self.papers.lock();
        let partition = errand.served.id().partition;
        let job = papers.jobs.get_mut(&errand.handle);
        if let Some(one) =
            job.and_then(|job| job.partitions.iter_mut().find(|one| one.partition == partition))
        {
            change(one);
        }
        drop(papers);
        self.changed.notify_waiters();
    }

    /// Completes at the next change of any command.
    pub(super) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }
}
