//! Pace: how fast a pass may go. Asked before each chunk of about 1 MiB, and after each file that was freed.
//!
//! 1. **Budget** `cleaner.io_max_bytes_per_second`: a bucket that fills at that rate and holds [`WINDOW`] of it. A chunk takes
//!    its bytes at once and waits until the bucket is no longer below empty.
//! 2. **Traffic** ([`Courtesy`]): while clients append or read, the pass rests [`REST_PARTS`] times as long as it worked. It has
//!    each chunk that it writes synced by itself, and that is part of its work: the longer the disk takes, the longer it rests.
//!    So it has a quarter of a thread and of the disk at most, in small parts. Freeing a file is no small part: where clients
//!    wait for syncs, it rests [`FREED_PARTS`] times as long as that took. No rest is longer than [`REST_MAX`].
//! 3. **Promise**: if at the rate so far what is left would not be done before the deadline of `max.compaction.lag.ms`, the pass
//!    waits for neither. The budget's rate counts until there is one to go by; one above what the disk gives never does. An alarm
//!    says so where it is the budget that the pass goes beyond.
//!
//! What is not here: the waiting itself (`desk`), which ends early when the broker stops.

use std::time::{Duration, Instant};

use crate::storage::Step;
use crate::types::Timestamp;

/// What the bucket holds.
pub(super) const WINDOW: Duration = Duration::from_millis(300);
/// Beside traffic, a pass rests so many times as long as it worked.
const REST_PARTS: u32 = 3;
/// Beside clients that wait for syncs, a pass rests so many times as long as it took to free a file. A disk that is told of
/// free space (`mount -o discard`) may keep a sync waiting for all of that: fewer than a hundredth of them then notice.
const FREED_PARTS: u32 = 128;
/// Beside traffic, a pass rests at most so long after a chunk, or a file.
const REST_MAX: Duration = Duration::from_secs(2);
/// Clients are there until nothing was heard of them for so long.
const CLIENTS_GONE: Duration = Duration::from_secs(1);
/// A promise is taken for one that ends so much earlier, in milliseconds: for syncing, swapping and the next look.
const PROMISE_MARGIN_MS: i64 = 1_000;

/// The budget of all cleaner threads together.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Bytes a second; 0: no limit.
    rate: u64,
    /// Negative while more was taken than came in.
    level_bytes: i128,
    filled: Instant,
}

impl Bucket {
    /// Returns a full bucket.
    pub(super) fn new(rate: u64, now: Instant) -> Self {
        Self {
            rate,
            level_bytes: Self::bytes_in(rate, WINDOW),
            filled: now,
        }
    }

    /// Takes `bytes`; returns how long to wait before they may be used.
    pub(super) fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let gained = Self::bytes_in(self.rate, now.saturating_duration_since(self.filled));
        let most = Self::bytes_in(self.rate, WINDOW);
        self.level_bytes = (self.level_bytes + gained).min(most) - i128::from(bytes);
        self.filled = now;
        if self.level_bytes >= 0 {
            return Duration::ZERO;
        }
        let ns = -self.level_bytes * 1_000_000_000 / i128::from(self.rate);
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    fn bytes_in(rate: u64, time: Duration) -> i128 {
        let ns = i128::try_from(time.as_nanos()).unwrap_or(i128::MAX / (1 << 64));
        i128::from(rate) * ns / 1_000_000_000
    }
}

/// What clients have done since some begin; counts that only rise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traffic {
    /// Appends and reads.
    pub operations: u64,
    /// Rounds of syncs.
    pub syncs: u64,
}

/// How a pass makes room for clients: what it knows of them, and how long it rests for them.
#[derive(Debug)]
pub struct Courtesy {
    traffic: Traffic,
    operated: Option<Instant>,
    synced: Option<Instant>,
    /// When its work went on.
    resumed: Instant,
}

impl Courtesy {
    /// Returns that of a pass that begins `now`, and knows of nobody yet.
    pub fn new(traffic: Traffic, now: Instant) -> Self {
        Self {
            traffic,
            operated: None,
            synced: None,
            resumed: now,
        }
    }

    /// Returns how long to rest after the work until `now`, before `step`; `None` while there are no clients.
    pub fn rest(&mut self, traffic: Traffic, step: Step, now: Instant) -> Option<Duration> {
        if traffic.operations != self.traffic.operations {
            self.operated = Some(now);
        }
        if traffic.syncs != self.traffic.syncs {
            self.synced = Some(now);
        }
        self.traffic = traffic;
        let is_near = |at: &Instant| now.saturating_duration_since(*at) < CLIENTS_GONE;
        self.operated.filter(is_near)?;
        let parts = match step {
            Step::Freed if self.synced.is_some_and(|at| is_near(&at)) => FREED_PARTS,
            Step::Freed | Step::Bytes(_) => REST_PARTS,
        };
        let worked = now.saturating_duration_since(self.resumed);
        Some(worked.saturating_mul(parts).min(REST_MAX))
    }

    /// The work goes on.
    pub fn resume(&mut self, now: Instant) {
        self.resumed = now;
    }
}

/// A pass has to go on for so long before its own rate counts.
const MEASURED_AFTER: Duration = Duration::from_millis(500);

/// Returns the bytes a second that a pass gets which has done so much in that time, under a budget of `limit` (0: none).
pub(super) fn rate(done_bytes: u64, took: Duration, limit: u64) -> u64 {
    let so_far = u128::from(done_bytes) * 1_000 / took.as_millis().max(1);
    let so_far = u64::try_from(so_far).unwrap_or(u64::MAX);
    let is_measured = took >= MEASURED_AFTER && done_bytes > 0;
    match (limit, is_measured) {
        (0, _) => so_far,
        (limit, true) => so_far.min(limit),
        (limit, false) => limit,
    }
}

/// What is left of a pass that serves a promise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outlook {
    /// Bytes still to be read and written.
    pub(super) left_bytes: u64,
    /// Bytes a second that the pass gets.
    pub(super) rate: u64,
    /// When the promise breaks.
    pub(super) deadline: Timestamp,
}

impl Outlook {
    /// Tells whether the promise breaks if the pass goes on at its rate.
    pub(super) fn is_late(&self, now: Timestamp) -> bool {
        let needed_ms = u128::from(self.left_bytes) * 1_000 / u128::from(self.rate.max(1));
        let needed_ms = i64::try_from(needed_ms).unwrap_or(i64::MAX);
        now.saturating_add_ms(needed_ms)
            .saturating_add_ms(PROMISE_MARGIN_MS)
            > self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_bucket_gives_its_window_at_once_and_then_its_rate() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(10 * MIB, begin);
        assert_eq!(bucket.take(3 * MIB, begin), Duration::ZERO);
        assert_eq!(bucket.take(MIB, begin), Duration::from_millis(100));
        let later = begin + Duration::from_millis(100);
        assert_eq!(bucket.take(MIB, later), Duration::from_millis(100));
        // An hour without work saves up no more than the window.
        let much_later = begin + Duration::from_secs(3_600);
        assert_eq!(bucket.take(3 * MIB, much_later), Duration::ZERO);
        assert_eq!(bucket.take(10 * MIB, much_later), Duration::from_secs(1));
    }

    #[test]
    fn over_any_long_time_no_more_goes_through_than_the_rate_and_one_window() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(10 * MIB, begin);
        let (mut now, mut taken) = (begin, 0);
        while now < begin + Duration::from_secs(20) {
            now += bucket.take(MIB, now);
            taken += MIB;
        }
        let most = 10 * MIB * 20 + 3 * MIB + MIB;
        assert!((200 * MIB..=most).contains(&taken), "{taken} bytes in 20 s");
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let begin = Instant::now();
        let mut bucket = Bucket::new(0, begin);
        assert_eq!(bucket.take(u64::MAX, begin), Duration::ZERO);
    }

    const CHUNK: Step = Step::Bytes(MIB);
    const NOBODY: Traffic = Traffic {
        operations: 7,
        syncs: 3,
    };

    /// A pass that worked for so many milliseconds, until now.
    fn after_work(ms: u64) -> (Courtesy, Instant) {
        let begin = Instant::now();
        (Courtesy::new(NOBODY, begin), begin + Duration::from_millis(ms))
    }

    fn operated(syncs: u64) -> Traffic {
        Traffic {
            operations: 8,
            syncs: 3 + syncs,
        }
    }

    #[test]
    fn without_clients_a_pass_does_not_rest_whoever_syncs() {
        let (mut courtesy, now) = after_work(2);
        assert_eq!(courtesy.rest(NOBODY, CHUNK, now), None);
        let synced = Traffic { syncs: 4, ..NOBODY };
        assert_eq!(courtesy.rest(synced, Step::Freed, now), None);
    }

    #[test]
    fn beside_clients_a_pass_rests_three_times_as_long_as_it_worked_and_never_for_ever() {
        let ms = Duration::from_millis;
        for (worked, rest) in [(2, 6), (100, 300), (9_000, 2_000)] {
            let (mut courtesy, now) = after_work(worked);
            assert_eq!(
                courtesy.rest(operated(0), CHUNK, now),
                Some(ms(rest)),
                "{worked} ms"
            );
        }
        let (mut courtesy, now) = after_work(2);
        courtesy.resume(now);
        let later = now + ms(1);
        assert_eq!(
            courtesy.rest(operated(0), CHUNK, later),
            Some(ms(3)),
            "since it went on"
        );
    }

    #[test]
    fn clients_are_there_for_a_second_after_they_were_last_heard_of() {
        let (mut courtesy, now) = after_work(0);
        assert!(courtesy.rest(operated(0), CHUNK, now).is_some());
        let almost = now + Duration::from_millis(999);
        assert!(courtesy.rest(operated(0), CHUNK, almost).is_some());
        assert_eq!(
            courtesy.rest(operated(0), CHUNK, now + Duration::from_secs(1)),
            None
        );
    }

    #[test]
    fn a_file_that_was_freed_is_a_long_rest_where_clients_wait_for_syncs_and_only_there() {
        let ms = Duration::from_millis;
        let rest = |traffic, step| {
            let (mut courtesy, now) = after_work(10);
            courtesy.rest(traffic, step, now)
        };
        assert_eq!(rest(operated(1), Step::Freed), Some(ms(128 * 10)));
        assert_eq!(rest(operated(0), Step::Freed), Some(ms(3 * 10)));
        assert_eq!(rest(operated(1), CHUNK), Some(ms(3 * 10)));
    }

    #[test]
    fn a_pass_is_judged_by_its_own_rate_also_under_a_budget_above_what_the_disk_gives() {
        let second = Duration::from_secs(1);
        assert_eq!(rate(MIB, second, 0), MIB);
        assert_eq!(rate(MIB, second, 100 * MIB), MIB);
        assert_eq!(
            rate(100 * MIB, second, MIB),
            MIB,
            "what the budget let through at once"
        );
        for (done, took) in [(0, second), (MIB, Duration::from_millis(499))] {
            assert_eq!(rate(done, took, 100 * MIB), 100 * MIB, "not known yet");
        }
        assert_eq!(rate(MIB, Duration::from_millis(500), 100 * MIB), 2 * MIB);
        assert_eq!(rate(u64::MAX, Duration::ZERO, 0), u64::MAX);
    }

    #[test]
    fn a_promise_is_late_when_what_is_left_takes_longer_than_there_is_time() {
        let outlook = |left_bytes| Outlook {
            left_bytes,
            rate: MIB,
            deadline: Timestamp(11_000),
        };
        assert!(!outlook(10 * MIB).is_late(Timestamp(0)));
        assert!(outlook(10 * MIB).is_late(Timestamp(1)));
        assert!(outlook(u64::MAX).is_late(Timestamp(0)));
    }
}
