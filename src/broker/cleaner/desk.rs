//! The desk: commands that wait for a thread, commands that are known, and where idle threads sleep.
//!
//! Invariants
//! - At most [`COMMANDS_MAX`] commands of [`PARTITIONS_MAX`] partitions together are known; a new one takes the place of the
//!   oldest that are over, and is refused where that is not enough. One command alone is taken in whatever its size.
//! - The lock is held for memory work, and for a time that grows with the partitions of a command only where somebody gives one, or
//!   asks how all of it stands.
//! - `wake` rings for a new command, for what waits for a log that a thread gives back, and at the end; `ended` for those who
//!   wait for a command. A thread sleeps while all that waits is at logs that other threads have.

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
/// They have so many partitions.
const PARTITIONS_MAX: usize = 100_000;

/// See the module.
#[derive(Debug)]
pub(in crate::broker) struct Desk {
    pub(super) config: CleanerConfig,
    pub(super) bucket: Mutex<Bucket>,
    papers: Mutex<Papers>,
    wake: Condvar,
    ending: AtomicBool,
    ended: Notify,
    /// When the next promise wants a thread, in milliseconds, as far as looks and appends told.
    promise_at: AtomicI64,
    /// Logs that threads are at.
    pub(super) busy: AtomicUsize,
}

#[derive(Debug, Default)]
struct Papers {
    jobs: BTreeMap<u64, Job>,
    last_handle: u64,
    waiting: VecDeque<Errand>,
    /// Something happened that may make a log due.
    look: bool,
    /// Threads that sleep.
    idle: usize,
}

/// A command.
#[derive(Debug)]
struct Job {
    told: CompactionJob,
    /// Partitions that are neither done nor failed.
    open: usize,
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
            ended: Notify::new(),
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
        self.ended.notify_waiters();
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
        while !self.is_ending() && !papers.look {
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
        if papers.look {
            // The bell was meant for a thread without work.
            self.wake.notify_one();
        }
    }

    /// A thread gives a log back, which something may wait for.
    pub(super) fn ring_for_waiting(&self) {
        let mut papers = self.papers.lock();
        let waits = !papers.waiting.is_empty();
        papers.look |= waits;
        drop(papers);
        if waits {
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
        papers.make_room(partitions.len())?;
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
        let told = CompactionJob {
            handle,
            topic: topic.clone(),
            partitions: partitions.iter().map(waiting).collect(),
        };
        let open = partitions.len();
        papers.jobs.insert(handle, Job { told, open });
        let errands = partitions.iter().map(|served| Errand {
            handle,
            served: Arc::clone(served),
        });
        papers.waiting.extend(errands);
        papers.look = true;
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
        if !papers.waiting.is_empty() {
            // For another thread, which passes the bell on in its turn.
            papers.look = true;
            self.wake.notify_one();
        }
        Some(claimed)
    }

    /// Returns how a command stands.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] for a handle that is not known, or no longer.
    pub(super) fn job(&self, handle: u64) -> Result<CompactionJob, Error> {
        let papers = self.papers.lock();
        papers.job(handle).map(|job| job.told.clone())
    }

    /// Tells whether a command is over.
    ///
    /// # Errors
    /// As [`Desk::job`].
    pub(super) fn is_over(&self, handle: u64) -> Result<bool, Error> {
        let papers = self.papers.lock();
        papers.job(handle).map(|job| job.open == 0)
    }

    /// Changes what is told of one partition of a command.
    pub(super) fn tell(&self, errand: &Errand, change: impl FnOnce(&mut PartitionJob)) {
        let mut papers = self.papers.lock();
        let partition = errand.served.id().partition;
        let Some(job) = papers.jobs.get_mut(&errand.handle) else {
            return;
        };
        let partitions = &mut job.told.partitions;
        let at = partitions.binary_search_by_key(&partition, |one| one.partition);
        let Some(one) = at.ok().and_then(|at| partitions.get_mut(at)) else {
            return;
        };
        let was_over = one.is_over();
        change(one);
        job.open -= usize::from(!was_over && one.is_over());
        let is_over = job.open == 0;
        drop(papers);
        if is_over {
            self.ended.notify_waiters();
        }
    }

    /// Completes when a command is over.
    pub(super) fn ended(&self) -> tokio::sync::futures::Notified<'_> {
        self.ended.notified()
    }
}

impl Papers {
    fn job(&self, handle: u64) -> Result<&Job, Error> {
        self.jobs.get(&handle).ok_or_else(|| Error::InvalidRequest {
            reason: format!(
                "compaction {handle} is not known: the server keeps the last {COMMANDS_MAX}, and none over a restart"
            ),
        })
    }

    /// Forgets the oldest commands that are over, until there is room for one of so many partitions.
    fn make_room(&mut self, partitions: usize) -> Result<(), Error> {
        let of = |job: &Job| job.told.partitions.len();
        let mut known: usize = self.jobs.values().map(of).sum();
        let mut over = Vec::new();
        let (mut jobs, mut ended) = (self.jobs.len(), self.jobs.iter().filter(|(_, job)| job.open == 0));
        while jobs > 0 && (jobs >= COMMANDS_MAX || known + partitions > PARTITIONS_MAX) {
            let (handle, job) = ended.next().ok_or(match jobs >= COMMANDS_MAX {
                true => Error::Overloaded {
                    what: "compactions by command",
                    limit: COMMANDS_MAX as u64,
                },
                false => Error::Overloaded {
                    what: "partitions of compactions by command",
                    limit: PARTITIONS_MAX as u64,
                },
            })?;
            jobs -= 1;
            known -= of(job);
            over.push(*handle);
        }
        for handle in over {
            self.jobs.remove(&handle);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PartitionId;

    fn name() -> TopicName {
        TopicName::new("t").expect("a name")
    }

    fn job(handle: u64, partitions: usize, open: usize) -> (u64, Job) {
        let one = PartitionJob {
            partition: PartitionId(0),
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
        let told = CompactionJob {
            handle,
            topic: name(),
            partitions: vec![one; partitions],
        };
        (handle, Job { told, open })
    }

    fn after(jobs: impl IntoIterator<Item = (u64, Job)>, partitions: usize) -> Result<Vec<u64>, String> {
        let mut papers = Papers {
            jobs: jobs.into_iter().collect(),
            ..Papers::default()
        };
        let made = papers.make_room(partitions);
        made.map_err(|error| error.to_string())?;
        Ok(papers.jobs.into_keys().collect())
    }

    #[test]
    fn a_new_command_takes_the_place_of_the_oldest_that_are_over_and_of_no_other() {
        let half = PARTITIONS_MAX / 2;
        assert_eq!(after([], 2 * PARTITIONS_MAX), Ok(vec![]), "one alone is taken in");
        assert_eq!(after([job(1, half, 0)], half), Ok(vec![1]), "there is room");
        assert_eq!(after([job(1, half, 0), job(2, half, 0)], 1), Ok(vec![2]));
        assert_eq!(after([job(1, half, 1), job(2, half, 0)], half), Ok(vec![1]));
        let full = after([job(1, half, 1), job(2, half, 1)], 1).expect_err("all are under way");
        assert!(full.contains("partitions of compactions"), "{full}");
        let many = |open| (1..=64).map(move |handle| job(handle, 1, open));
        let kept: Vec<u64> = (2..=64).collect();
        assert_eq!(after(many(0), 1), Ok(kept));
        let full = after(many(1), 1).expect_err("all are under way");
        assert!(full.contains("compactions by command"), "{full}");
    }
}
