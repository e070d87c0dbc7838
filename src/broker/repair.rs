//! Bringing partitions back after a failed write or sync (DESIGN invariant 6): tried at once, then with growing pauses,
//! until it works. Meanwhile the partition refuses writes, and says so.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::served::Served;

/// The pause after the first failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The partitions that wait for repair.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    jobs: Mutex<Vec<Job>>,
    wake: Notify,
}

/// One partition to repair.
#[derive(Debug)]
pub(super) struct Job {
    /// Which.
    pub(super) served: Arc<Served>,
    /// How often it failed.
    pub(super) failures: u32,
    due: Instant,
}

impl Repairs {
    /// Queues a partition, unless it is queued.
    pub(super) fn add(&self, served: &Arc<Served>) {
        if Served::first_to_set(&served.repairing) {
            let job = Job {
                served: Arc::clone(served),
                failures: 0,
                due: Instant::now(),
            };
            self.jobs.lock().push(job);
            self.wake.notify_one();
        }
    }

    /// Waits for a job that is due. Cancel safe.
    pub(super) async fn next(&self) -> Job {
        loop {
            let soonest = {
                let mut jobs = self.jobs.lock();
                let now = Instant::now();
                match jobs.iter().position(|job| job.due <= now) {
                    Some(due) => return jobs.swap_remove(due),
                    None => jobs.iter().map(|job| job.due).min(),
                }
            };
            match soonest {
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.wake.notified() => {}
                },
                None => self.wake.notified().await,
            }
        }
    }

    /// A repair failed: it is tried again after a pause.
    pub(super) fn failed(&self, job: Job) {
        let pause = pause_after(job.failures);
        let job = Job {
            failures: job.failures.saturating_add(1),
            due: Instant::now() + pause,
            ..job
        };
        self.jobs.lock().push(job);
        self.wake.notify_one();
    }

    /// A repair worked, or is no longer wanted.
    pub(super) fn finished(&self, job: &Job) {
        job.served.repairing.store(false, Ordering::SeqCst);
    }

    /// Returns how many partitions wait.
    pub(super) fn waiting(&self) -> usize {
        self.jobs.lock().len()
    }
}

fn pause_after(failures: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(1 << failures.min(10))
        .min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let seconds: Vec<_> = (0..9).map(|failures| pause_after(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pause_after(u32::MAX), LONGEST_PAUSE);
    }
}
