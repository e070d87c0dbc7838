//! What is noted while the load runs: how much, how late, second by second.
//!
//! Invariants
//! - A time counts from when the record should have been sent; nothing counts that belongs to the warm-up.
//! - Whoever notes, notes many at once: one lock for a wake-up or a chunk, not for a record.
//! - Memory is bounded by the duration: two small histograms for each second.
//!
//! What is not here: what becomes of it (`figures`).

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::bench::measure::Times;
use crate::types::Timestamp;

/// When the load began and how long of it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeline {
    pub(super) began: Instant,
    /// The same moment on the wall clock.
    pub(super) began_at: Timestamp,
    pub(super) warm_up: Duration,
    /// Since the beginning.
    pub(super) end: Duration,
}

impl Timeline {
    /// Returns the time since the beginning.
    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Returns the wall clock's time at `since`.
    pub(super) fn wall(&self, since: Duration) -> Timestamp {
        self.began_at
            .saturating_add_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Some records that were done with at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    /// When one of them should have been sent; absent where no time is taken of them.
    pub(super) intended: Option<Duration>,
    pub(super) at: Duration,
    pub(super) records: u64,
    /// Of keys and values.
    pub(super) bytes: u64,
}

/// What is noted apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Acknowledged to its producer.
    Acknowledged,
    /// Read by a reader that follows.
    Tailed,
    /// Read by a reader that catches up.
    CaughtUp,
    /// Read between two times; its time is that of the whole read.
    ReadByTime,
}

const KINDS: usize = 4;

/// One second of a kind.
#[derive(Debug)]
pub(super) struct Second {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) times: Times,
}

/// All of a kind.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Since the warm-up.
    pub(super) last: Duration,
    pub(super) times: Times,
    pub(super) seconds: Vec<Second>,
}

impl Track {
    fn new() -> Self {
        Self {
            records: 0,
            bytes: 0,
            last: Duration::ZERO,
            times: Times::new(),
            seconds: Vec::new(),
        }
    }

    fn add(&mut self, timeline: &Timeline, done: &Done) {
        let Some(since) = done.at.checked_sub(timeline.warm_up) else {
            return;
        };
        let second = usize::try_from(since.as_secs()).unwrap_or(usize::MAX);
        self.records += done.records;
        self.bytes += done.bytes;
        self.last = self.last.max(since);
        while self.seconds.len() <= second {
            self.seconds.push(Second {
                records: 0,
                bytes: 0,
                times: Times::coarse(),
            });
        }
        let second = &mut self.seconds[second];
        second.records += done.records;
        second.bytes += done.bytes;
        if let Some(intended) = done.intended.filter(|intended| *intended >= timeline.warm_up) {
            let took = done.at.saturating_sub(intended);
            self.times.add(took);
            second.times.add(took);
        }
    }
}

/// Where all tasks of a load note what they did.
#[derive(Debug)]
pub(super) struct Recorder {
    pub(super) timeline: Timeline,
    tracks: [Mutex<Track>; KINDS],
    /// How late the load itself was to send.
    late: Mutex<Times>,
}

impl Recorder {
    pub(super) fn new(timeline: Timeline) -> Self {
        Self {
            timeline,
            tracks: std::array::from_fn(|_| Mutex::new(Track::new())),
            late: Mutex::new(Times::new()),
        }
    }

    pub(super) fn add(&self, kind: Kind, done: &[Done]) {
        let mut track = self.track(kind);
        done.iter().for_each(|done| track.add(&self.timeline, done));
    }

    /// Notes how late sends were.
    pub(super) fn late(&self, times: &Times) {
        self.late.lock().add_all(times);
    }

    pub(super) fn track(&self, kind: Kind) -> parking_lot::MutexGuard<'_, Track> {
        self.tracks[kind as usize].lock()
    }

    pub(super) fn lateness(&self) -> parking_lot::MutexGuard<'_, Times> {
        self.late.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warm_up_does_not_count_and_a_time_counts_from_when_it_was_due() {
        let timeline = Timeline {
            began: Instant::now(),
            began_at: Timestamp(0),
            warm_up: Duration::from_secs(1),
            end: Duration::from_secs(3),
        };
        let recorder = Recorder::new(timeline);
        let ms = Duration::from_millis;
        let done = |intended, at| Done {
            intended: Some(ms(intended)),
            at: ms(at),
            records: 2,
            bytes: 100,
        };
        // Before, across, and after the end of the warm-up.
        recorder.add(Kind::Tailed, &[done(10, 20), done(900, 1100), done(1500, 2600)]);
        let track = recorder.track(Kind::Tailed);
        assert_eq!((track.records, track.bytes, track.last), (4, 200, ms(1600)));
        assert_eq!(track.times.count(), 1);
        assert!((track.times.quantile_ms(1.0) - 1100.0).abs() < 2.0);
        let seconds: Vec<_> = track.seconds.iter().map(|second| second.records).collect();
        assert_eq!(seconds, [2, 2]);
        assert_eq!(recorder.track(Kind::Acknowledged).records, 0);
    }
}
