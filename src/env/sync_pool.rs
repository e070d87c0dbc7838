//! Syncs of many files, or directories, at once: a disk takes many flushes side by side far better than one after the other.
//!
//! A call is one batch. The caller and up to [`HELPERS`] threads each take the next job of the oldest batch that has any
//! left; the caller returns when every job has its result. Threads start when a call first has use for them and end
//! with the pool.
//!
//! Invariants
//! - The queue holds at most one batch per caller, and a caller waits: it is bounded by the number of calling threads.
//! - A batch gets done even if no thread can be started: the caller does every job itself then.
//!
//! `queue` guards the waiting batches, `results` of a batch its results; neither is held during a sync.

use std::collections::VecDeque;
use std::fs::File as OsFile;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};

use super::fs::{File, SyncSite};

/// Threads besides the caller. Sixteen syncs at once are where one disk stops to gain much.
const HELPERS: usize = 15;

/// One sync.
#[derive(Debug)]
pub(super) enum Job {
    /// Of a file's bytes and length.
    File(Arc<dyn File>, SyncSite),
    /// Of the names in a directory, which is opened no sooner than its turn comes.
    Dir(Arc<Path>),
}

impl Job {
    fn run(&self) -> io::Result<()> {
        match self {
            Self::File(file, site) => file.sync_data(*site),
            Self::Dir(dir) => sync_names_in(dir),
        }
    }
}

/// Makes the names in a directory survive a crash.
#[expect(clippy::disallowed_methods, reason = "this is what env::Fs stands on")]
pub(super) fn sync_names_in(dir: &Path) -> io::Result<()> {
    OsFile::open(dir)?.sync_all()
}

/// The threads, none at first.
#[derive(Debug, Default)]
pub(super) struct SyncPool {
    shared: Arc<Shared>,
    helpers: Mutex<Vec<JoinHandle<()>>>,
}

impl SyncPool {
    /// Does all the syncs, and returns as many results in their order.
    pub(super) fn sync(&self, jobs: impl Iterator<Item = Job>) -> Vec<io::Result<()>> {
        let jobs: Vec<Job> = jobs.collect();
        if let [job] = jobs.as_slice() {
            return vec![job.run()];
        }
        if jobs.is_empty() {
            return Vec::new();
        }
        let helpers = HELPERS.min(jobs.len() - 1);
        let batch = Arc::new(Batch {
            next: AtomicUsize::new(0),
            results: Mutex::new(Results {
                by_job: jobs.iter().map(|_| None).collect(),
                missing: jobs.len(),
            }),
            done: Condvar::new(),
            jobs,
        });
        self.start(helpers);
        self.shared.queue.lock().batches.push_back(batch.clone());
        for _ in 0..helpers {
            self.shared.work.notify_one();
        }
        while batch.sync_next() {}
        batch.wait()
    }

    /// Starts threads until there are `wanted`; fewer when the system refuses, which costs time and nothing else.
    fn start(&self, wanted: usize) {
        let mut helpers = self.helpers.lock();
        while helpers.len() < wanted {
            let shared = self.shared.clone();
            let name = format!("sync-{}", helpers.len());
            match thread::Builder::new().name(name).spawn(move || shared.help()) {
                Ok(helper) => helpers.push(helper),
                Err(refused) => {
                    tracing::warn!(error = %refused, running = helpers.len(), "no thread for syncs; going on with fewer");
                    return;
                }
            }
        }
    }
}

impl Drop for SyncPool {
    fn drop(&mut self) {
        self.shared.queue.lock().state = PoolState::Closed;
        self.shared.work.notify_all();
        for helper in self.helpers.get_mut().drain(..) {
            // A panic of a helper has been printed where it happened; there is nobody left to tell here.
            let _ = helper.join();
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Arc<Batch>>,
    state: PoolState,
}

#[derive(PartialEq, Eq, Debug, Default)]
enum PoolState {
    #[default]
    Open,
    Closed,
}

impl Shared {
    fn help(&self) {
        while let Some(batch) = self.oldest() {
            batch.sync_next();
        }
    }

    /// Waits for a batch with jobs left; none when the pool closes.
    fn oldest(&self) -> Option<Arc<Batch>> {
        let mut queue = self.queue.lock();
        loop {
            while queue.batches.front().is_some_and(|batch| batch.is_taken()) {
                queue.batches.pop_front();
            }
            if let Some(batch) = queue.batches.front() {
                return Some(batch.clone());
            }
            if queue.state == PoolState::Closed {
                return None;
            }
            self.work.wait(&mut queue);
        }
    }
}

#[derive(Debug)]
struct Batch {
    jobs: Vec<Job>,
    /// The first job nobody has taken yet; may run past the end.
    next: AtomicUsize,
    results: Mutex<Results>,
    done: Condvar,
}

#[derive(Debug)]
struct Results {
    by_job: Vec<Option<io::Result<()>>>,
    missing: usize,
}

impl Batch {
    fn is_taken(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.jobs.len()
    }

    /// Takes one job and does it; whether there was one left.
    fn sync_next(&self) -> bool {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(job) = self.jobs.get(index) else {
            return false;
        };
        let result = job.run();
        let mut results = self.results.lock();
        results.by_job[index] = Some(result);
        results.missing -= 1;
        if results.missing == 0 {
            self.done.notify_one();
        }
        true
    }

    fn wait(&self) -> Vec<io::Result<()>> {
        let mut results = self.results.lock();
        while results.missing > 0 {
            self.done.wait(&mut results);
        }
        let by_job = std::mem::take(&mut results.by_job);
        by_job
            .into_iter()
            .map(|result| result.expect("none is missing"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;

    /// Fails with its number, once as many as `together` are being synced at once.
    #[derive(Debug)]
    struct Numbered {
        number: usize,
        together: usize,
        meeting: Arc<(Mutex<usize>, Condvar)>,
    }

    impl File for Numbered {
        fn read_exact_at(&self, _buffer: &mut [u8], _position: u64) -> io::Result<()> {
            unreachable!("only synced")
        }
        fn write_all_at(&self, _parts: &[IoSlice<'_>], _position: u64) -> io::Result<()> {
            unreachable!("only synced")
        }
        fn len_bytes(&self) -> io::Result<u64> {
            unreachable!("only synced")
        }
        fn set_len(&self, _len_bytes: u64) -> io::Result<()> {
            unreachable!("only synced")
        }
        fn sync_data(&self, _site: SyncSite) -> io::Result<()> {
            let (arrived, changed) = &*self.meeting;
            let mut arrived = arrived.lock();
            *arrived += 1;
            changed.notify_all();
            while *arrived < self.together {
                if changed
                    .wait_for(&mut arrived, Duration::from_secs(30))
                    .timed_out()
                {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            match self.number % 3 {
                0 => Err(io::Error::other(self.number.to_string())),
                _ => Ok(()),
            }
        }
        fn map(&self, _position: u64, _len: usize) -> io::Result<Bytes> {
            unreachable!("only synced")
        }
        fn populate(&self, _bytes: &Bytes, _position: u64) -> io::Result<()> {
            unreachable!("only synced")
        }
        fn drop_cache(&self, _position: u64) -> io::Result<()> {
            unreachable!("only synced")
        }
    }

    fn files(count: usize, together: usize) -> Vec<Arc<dyn File>> {
        let meeting = Arc::new((Mutex::new(0), Condvar::new()));
        let file = |number| -> Arc<dyn File> {
            Arc::new(Numbered {
                number,
                together,
                meeting: meeting.clone(),
            })
        };
        (0..count).map(file).collect()
    }

    fn check(pool: &SyncPool, count: usize, together: usize) {
        let files = files(count, together).into_iter();
        let results = pool.sync(files.map(|file| Job::File(file, SyncSite("test"))));
        let found: Vec<Option<String>> = results
            .into_iter()
            .map(|result| result.err().map(|error| error.to_string()))
            .collect();
        let expected: Vec<Option<String>> = (0..count)
            .map(|number| (number % 3 == 0).then(|| number.to_string()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn each_file_has_its_own_result_at_its_own_place() {
        let pool = SyncPool::default();
        for count in [0, 1, 2, 3, 100] {
            check(&pool, count, 0);
        }
    }

    #[test]
    fn sixteen_files_are_synced_at_the_same_time() {
        check(&SyncPool::default(), 16, 16);
    }

    #[test]
    fn callers_share_the_threads_and_none_waits_for_ever() {
        let pool = SyncPool::default();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..20).for_each(|count| check(&pool, count, 0)));
            }
        });
        assert!(pool.helpers.lock().len() <= HELPERS);
    }

    #[test]
    fn a_single_file_needs_no_thread_and_the_threads_end_with_the_pool() {
        let pool = SyncPool::default();
        check(&pool, 1, 1);
        assert_eq!(pool.helpers.lock().len(), 0);
        check(&pool, 4, 4);
        assert_eq!(pool.helpers.lock().len(), 3);
        let shared = Arc::downgrade(&pool.shared);
        drop(pool);
        assert!(shared.upgrade().is_none());
    }
}
