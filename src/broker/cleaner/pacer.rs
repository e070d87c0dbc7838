//! The pacer of one pass: takes its time where `pace` says so, and sees to the promises of other logs meanwhile.
//!
//! A pass that no promise hurries may take an hour. If a promise of another log comes due and every thread is at work, the pass
//! lingers at a chunk: its thread cleans the other log, and then goes on. Such a pass within a pass has a map of its own, a
//! small one, and nothing comes between.
//!
//! What is not here: the rules (`pace`), which log's promise is due (`scan`).

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::broker::core::Core;
use crate::storage::{Pace, Step};
use crate::types::Timestamp;

use super::pace::{self, Courtesy, Outlook};
use super::work::{Claimed, Depth};

/// How long a pass rests before it looks whether somebody waits for its end.
const REST_SLICE: Duration = Duration::from_millis(50);
/// A pass looks for promises of other logs at most so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// So many logs a pass lets go first before its own next chunk.
const FIRST_MAX: usize = 16;

/// Tells a pass when to go on.
pub(super) struct Pacer<'a> {
    core: &'a Core,
    claimed: &'a Claimed<'a>,
    deadline: Option<Timestamp>,
    depth: Depth,
    began: Instant,
    courtesy: Courtesy,
    looked: Option<Instant>,
    /// How the pass goes on when it comes back from where it lingers.
    lingering: Option<Pace>,
}

impl<'a> Pacer<'a> {
    pub(super) fn new(claimed: &'a Claimed<'a>, deadline: Option<Timestamp>, depth: Depth) -> Self {
        let began = Instant::now();
        Self {
            core: claimed.core,
            claimed,
            deadline,
            depth,
            began,
            courtesy: Courtesy::new(claimed.core.traffic(), began),
            looked: None,
            lingering: None,
        }
    }

    pub(super) fn ask(&mut self, step: Step) -> Pace {
        if self.is_over() {
            return Pace::Stop;
        }
        if let Some(pace) = self.lingering.take() {
            self.see_to_promises();
            return if self.is_over() { Pace::Stop } else { pace };
        }
        let desk = &self.core.cleaner;
        let now = Instant::now();
        let bytes = match step {
            Step::Bytes(bytes) => bytes,
            Step::Freed => 0,
        };
        let over_budget = desk.bucket.lock().take(bytes, now);
        // The pass that it lingers in waits meanwhile, perhaps with a promise of its own.
        let rest = match self.depth {
            Depth::Outer => self.courtesy.rest(self.core.traffic(), step, now),
            Depth::Within => None,
        };
        let pause = over_budget.max(rest.unwrap_or_default());
        let hurries = !pause.is_zero() && self.is_late(over_budget, pause);
        if !pause.is_zero() && !hurries {
            self.rest(pause);
            if self.is_over() {
                return Pace::Stop;
            }
        }
        self.claimed
            .progress
            .done_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        self.courtesy.resume(Instant::now());
        let pace = match rest {
            Some(_) if !hurries => Pace::Gently,
            Some(_) | None => Pace::Go,
        };
        if self.another_promise_waits() {
            self.lingering = Some(pace);
            return Pace::Linger;
        }
        pace
    }

    fn is_over(&self) -> bool {
        self.core.cleaner.is_ending() || self.claimed.served.closed().is_some()
    }

    /// Rests, but not while somebody waits for the pass to end, or a promise for its thread. A command waits for a whole pass.
    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let log = &self.claimed.served.log;
            let wanted = log.wants_pass_to_end() || self.another_promise_waits();
            if left.is_zero() || self.is_over() || wanted {
                return;
            }
            self.core.cleaner.rest(left.min(REST_SLICE));
        }
    }

    fn another_promise_waits(&self) -> bool {
        let looked = self.looked.is_some_and(|at| at.elapsed() < LOOK_INTERVAL);
        self.depth == Depth::Outer && !looked && self.core.cleaner.needs_a_working_thread(self.core.now())
    }

    /// Cleans the logs whose promises are due, and before this one's.
    fn see_to_promises(&mut self) {
        let begun = Instant::now();
        for _ in 0..FIRST_MAX {
            if self.is_over() {
                break;
            }
            let Some(other) = self.core.claim_promise(self.deadline) else {
                break;
            };
            self.core.clean_by_schedule(&other, Depth::Within);
        }
        let now = Instant::now();
        self.looked = Some(now);
        self.courtesy.resume(now);
        // None of that time says how fast this pass is.
        self.began += now.duration_since(begun);
    }

    /// Tells whether waiting for `pause` would break the promise; if it is the budget that would, says so.
    fn is_late(&self, over_budget: Duration, pause: Duration) -> bool {
        let Some(deadline) = self.deadline else {
            return false;
        };
        let progress = &self.claimed.progress;
        let (done, total) = progress.bytes();
        let limit = self.core.cleaner.config.io_max_bytes_per_second;
        let outlook = Outlook {
            left_bytes: total - done,
            rate: pace::rate(done, self.began.elapsed(), limit),
            deadline,
        };
        let pause_ms = i64::try_from(pause.as_millis()).unwrap_or(i64::MAX);
        let late = outlook.is_late(self.core.now().saturating_add_ms(pause_ms));
        if late && !over_budget.is_zero() && !progress.alarm.swap(true, Ordering::Relaxed) {
            let served = &self.claimed.served;
            if served.cleaning.raise_alarm(deadline) {
                self.core.metrics.cleaner_promise_alarms.inc();
            }
            tracing::warn!(partition = %served.id(), limit, left_bytes = outlook.left_bytes,
                "cleaner.io_max_bytes_per_second would break the promise of max.compaction.lag.ms: the pass goes beyond it");
        }
        late
    }
}
