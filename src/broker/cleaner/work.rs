//! The work of a cleaner thread: take a command or choose a log, seal what has to be sealed, sync it, and clean it pass by pass.
//!
//! ```text
//!   1. roll        for a command always, for a promise when it is time       dies here: a sealed segment more
//!   2. sync        what was rolled, so that it may be cleaned
//!   3. pass        until the map took in all keys                            dies here: see storage::cleaner
//!   4. checkpoint  of cleaner points                                         dies here: a pass over what is clean
//! ```
//!
//! Invariants
//! - Whatever happens to a pass, the partition is given back and looked at again.
//! - A failure is counted and logged here, once; who asked by command gets its text.
//!
//! What is not here: the choice (`candidates`), the waiting (`desk`), what a pass does (`storage`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::broker::core::Core;
use crate::broker::served::Served;
use crate::storage::{
    AppendError, Bound, CompactError, CompactionView, OffsetMap, Pace, Pass, PassReport, RollFor, Rolled,
    Rounds,
};
use crate::types::{Offset, Timestamp};

use super::JobState;
use super::candidates::{Urgency, urgency, wakes_at};
use super::desk::Errand;
use super::explain::bound_text;
use super::jobs::running;
use super::pace::{self, Outlook};
use super::state::Progress;

/// How often a sync that another thread does is looked at.
const SYNC_LOOK: Duration = Duration::from_millis(5);
/// How long a pass rests before it looks whether somebody waits for its end.
const REST_SLICE: Duration = Duration::from_millis(50);
/// Pause after something else had its hands on the segments.
const LATER_PAUSE: Duration = Duration::from_millis(100);
/// So often a command tries while something else has.
const LATER_TRIES: u32 = 50;

/// What a thread does after a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::broker) enum Turn {
    /// There may be more to do.
    Worked,
    /// There is nothing to do for so long, unless somebody rings.
    Idle(Duration),
}

/// Why the cleaning of a log did not come to its end.
#[derive(Debug)]
enum Trouble {
    /// The disk, or the log.
    Failed(String),
    /// Something else works on the segments.
    Later(String),
    /// The broker stops, or the partition is gone, or is not compacted any more.
    Over(String),
}

impl From<CompactError> for Trouble {
    fn from(error: CompactError) -> Self {
        let text = error.to_string();
        match error {
            CompactError::Storage(_) => Self::Failed(text),
            CompactError::Interrupted => Self::Later(text),
            CompactError::Stopped | CompactError::Policy | CompactError::Closed => Self::Over(text),
        }
    }
}

/// Why a log is cleaned, for the log of the day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cause {
    Command,
    Promise,
    Ratio,
}

impl Cause {
    fn text(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Promise => "promise",
            Self::Ratio => "ratio",
        }
    }
}

/// A log that a thread has claimed; given back when dropped.
struct Claimed<'a> {
    core: &'a Core,
    served: Arc<Served>,
    progress: Arc<Progress>,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.core.metrics.cleaner_running.dec();
        self.served.cleaning.release();
    }
}

impl Core {
    /// Cleans until the end: the body of a thread.
    pub(in crate::broker) fn serve_cleaner(&self) {
        while !self.cleaner.is_ending() {
            match self.clean_next() {
                Turn::Worked => {}
                Turn::Idle(pause) => self.cleaner.sleep(pause),
            }
        }
    }

    /// One turn: one command or one log.
    pub(in crate::broker) fn clean_next(&self) -> Turn {
        let errand = self.cleaner.take(|errand| {
            self.claim(&errand.served)
                .map(|claimed| (errand.clone(), claimed))
        });
        if let Some((errand, claimed)) = errand {
            self.carry_out(&errand, &claimed);
            return Turn::Worked;
        }
        match self.choose() {
            Ok(claimed) => {
                self.clean_by_schedule(&claimed);
                Turn::Worked
            }
            Err(pause) => Turn::Idle(pause),
        }
    }

    fn claim(&self, served: &Arc<Served>) -> Option<Claimed<'_>> {
        let progress = served.cleaning.claim(self.now())?;
        self.metrics.cleaner_running.inc();
        Some(Claimed {
            core: self,
            served: Arc::clone(served),
            progress,
        })
    }

    /// Returns the log that is next, or how long nothing is due.
    fn choose(&self) -> Result<Claimed<'_>, Duration> {
        let now = self.now();
        let mut best: Option<(Urgency, Arc<Served>)> = None;
        let mut wake: Option<Timestamp> = None;
        let mut sooner = |at: Timestamp| wake = Some(wake.map_or(at, |wake| wake.min(at)));
        let mut failing = 0;
        for topic in self.topics.all() {
            if !topic.config.cleanup.compacts() {
                continue;
            }
            for served in &topic.partitions {
                let marks = served.log.watermarks();
                if !served.cleaning.needs_look(&marks) {
                    continue;
                }
                let retry_at = served.cleaning.failing().map(|failing| failing.retry_at);
                failing += i64::from(retry_at.is_some());
                if let Some(at) = retry_at.filter(|at| *at > now) {
                    sooner(at);
                    continue;
                }
                let view = served.log.compaction(now);
                match (urgency(&view, now), wakes_at(&view, now)) {
                    (Some(found), _) => {
                        if best.as_ref().is_none_or(|(best, _)| found.order(best).is_lt()) {
                            best = Some((found, Arc::clone(served)));
                        }
                    }
                    (None, Some(at)) => sooner(at),
                    (None, None) => served.cleaning.idle(marks),
                }
            }
        }
        self.metrics.cleaner_failing.set(failing);
        let pause = wake.map_or(self.cleaner.config.backoff, |at| {
            let ms = u64::try_from(at.0.saturating_sub(now.0)).unwrap_or(0);
            Duration::from_millis(ms).min(self.cleaner.config.backoff)
        });
        // Claimed by another thread meanwhile: what else there is shows at the next look.
        best.and_then(|(_, served)| self.claim(&served)).ok_or(pause)
    }

    fn clean_by_schedule(&self, claimed: &Claimed<'_>) {
        match self.clean_log(claimed, RollFor::Promise, &mut |_| {}) {
            Ok(_) | Err(Trouble::Over(_)) => {}
            Err(Trouble::Later(_)) => self.cleaner.rest(LATER_PAUSE),
            Err(Trouble::Failed(reason)) => self.failed(claimed, reason),
        }
    }

    fn carry_out(&self, errand: &Errand, claimed: &Claimed<'_>) {
        let log = &errand.served.log;
        let before_bytes = log.describe().size_bytes;
        self.cleaner.tell(errand, |one| {
            one.before_bytes = before_bytes;
            one.state = running(&claimed.progress);
        });
        let mut tries = 0;
        let outcome = loop {
            let cleaned = self.clean_log(claimed, RollFor::Command, &mut |report| {
                self.cleaner.tell(errand, |one| {
                    one.passes += 1;
                    one.read_bytes += report.read_bytes;
                    one.written_bytes += report.written_bytes;
                    one.values_kept = report.records.values_kept;
                    one.tombstones_kept = report.records.tombstones_kept;
                    one.records_dropped += report.records.dropped();
                });
            });
            match cleaned {
                Err(Trouble::Later(_)) if tries < LATER_TRIES && !self.cleaner.is_ending() => {
                    tries += 1;
                    self.cleaner.rest(LATER_PAUSE);
                }
                cleaned => break cleaned,
            }
        };
        let state = match outcome {
            Ok(view) => JobState::Done {
                left: view.bound.map(bound_text),
            },
            Err(Trouble::Later(reason) | Trouble::Over(reason)) => JobState::Failed { reason },
            Err(Trouble::Failed(reason)) => {
                self.failed(claimed, reason.clone());
                JobState::Failed { reason }
            }
        };
        let after_bytes = log.describe().size_bytes;
        self.cleaner.tell(errand, |one| {
            one.after_bytes = after_bytes;
            one.state = state;
        });
    }

    fn failed(&self, claimed: &Claimed<'_>, reason: String) {
        let now = self.now();
        let failures = claimed.served.cleaning.failed(now, reason.clone());
        self.metrics.cleaner_failures.inc();
        tracing::error!(partition = %claimed.served.id(), error = reason, failures,
            "compaction failed; nothing is lost, what was replaced before stays replaced, and it is tried again");
    }

    /// Cleans a log until the map took in all of its keys; tells every pass. Returns how the log then stands.
    fn clean_log(
        &self,
        claimed: &Claimed<'_>,
        wish: RollFor,
        told: &mut dyn FnMut(&PassReport),
    ) -> Result<CompactionView, Trouble> {
        let served = &claimed.served;
        self.seal(served, wish)?;
        let mut view = served.log.compaction(self.now());
        // By command also what is clean is looked at again: its tombstones may have come of age.
        let cause = match (wish, urgency(&view, self.now())) {
            (RollFor::Command, _) => Some(Cause::Command).filter(|_| view.first_uncleanable > view.log_start),
            (RollFor::Promise, Some(Urgency::Promise(_))) => Some(Cause::Promise),
            (RollFor::Promise, Some(Urgency::Ratio(_))) => Some(Cause::Ratio),
            (RollFor::Promise, None) => None,
        };
        let Some(cause) = cause.filter(|cause| *cause == Cause::Command || view.dirty_bytes > 0) else {
            return Ok(view);
        };
        let mut map = OffsetMap::with_bytes(
            self.cleaner.config.dedupe_buffer_bytes / self.cleaner.config.threads.max(1),
        );
        loop {
            let report = self.clean_round(claimed, &view, &mut map)?;
            tracing::info!(partition = %served.id(), cause = cause.text(), from = %report.from, to = %report.to,
                read_bytes = report.read_bytes, written_bytes = report.written_bytes, saved_bytes = report.saved_bytes,
                dropped = report.records.dropped(), took = ?served.cleaning.last_took(), "log compacted");
            told(&report);
            view = served.log.compaction(self.now());
            if report.rounds == Rounds::Done || report.to <= report.from {
                return Ok(view);
            }
        }
    }

    /// Seals the active segment, if it should be, and then has everything before its end synced. A pass by ratio goes over what
    /// is on disk already and waits for no sync.
    fn seal(&self, served: &Arc<Served>, wish: RollFor) -> Result<(), Trouble> {
        let end = served.log.watermarks().log_end;
        match served.log.roll_for_compaction(self.now(), wish) {
            Ok(Rolled::No) if wish == RollFor::Promise && !self.waits_for_sync(served) => Ok(()),
            // Also what was sealed before may not be synced yet.
            Ok(_) => self.settle(served, end),
            Err(AppendError::Refused { reason }) => Err(Trouble::Later(reason)),
            Err(error) => {
                if served.log.refusal().is_some() {
                    self.repairs.add(served);
                }
                Err(Trouble::Failed(error.to_string()))
            }
        }
    }

    /// Tells whether a promise wants something that is sealed, and not yet on disk.
    fn waits_for_sync(&self, served: &Served) -> bool {
        let now = self.now();
        let view = served.log.compaction(now);
        let promised = matches!(urgency(&view, now), Some(Urgency::Promise(_)));
        promised && matches!(view.bound, Some(Bound::NotSafe(_)))
    }

    /// Waits until everything before `end` is on disk.
    fn settle(&self, served: &Arc<Served>, end: Offset) -> Result<(), Trouble> {
        while served.log.watermarks().recovery_point < end {
            if self.cleaner.is_ending() || served.closed().is_some() {
                return Err(Trouble::Over("the partition is closed".to_owned()));
            }
            if let Some(reason) = served.log.refusal() {
                return Err(Trouble::Later(reason));
            }
            for again in self.syncer.round(vec![Arc::clone(served)]) {
                self.commit.mark(&again);
            }
            if served.log.watermarks().recovery_point < end {
                self.cleaner.rest(SYNC_LOOK);
            }
        }
        Ok(())
    }

    fn clean_round(
        &self,
        claimed: &Claimed<'_>,
        view: &CompactionView,
        map: &mut OffsetMap,
    ) -> Result<PassReport, Trouble> {
        let served = &claimed.served;
        let (began, now) = (Instant::now(), self.now());
        let progress = &claimed.progress;
        progress.done_bytes.store(0, Ordering::Relaxed);
        // Dirty bytes are read twice; what is written is at most all.
        let all = view.clean_bytes + view.dirty_bytes;
        progress
            .total_bytes
            .store(2 * all + view.dirty_bytes, Ordering::Relaxed);
        let mut pacer = Pacer {
            core: self,
            claimed,
            deadline: view.deadline,
            began,
            resumed: began,
            traffic: self.traffic(),
        };
        let mut budget = |bytes| pacer.ask(bytes);
        let report = served.log.compact(&mut Pass {
            map,
            seed: seed()?,
            now,
            budget: &mut budget,
        })?;
        served.cleaning.passed(began.elapsed());
        self.count(&report, began.elapsed());
        if let Err(error) = self.store.checkpoint_cleaner_points() {
            tracing::warn!(%error, "cleaner points could not be written; after a crash a log is cleaned again");
        }
        Ok(report)
    }

    fn count(&self, report: &PassReport, took: Duration) {
        let metrics = &self.metrics;
        metrics.cleaner_passes.inc();
        metrics.cleaner_latency.record(took);
        metrics.cleaner_read_bytes.inc_by(report.read_bytes);
        metrics.cleaner_written_bytes.inc_by(report.written_bytes);
        metrics.cleaner_saved_bytes.inc_by(report.saved_bytes);
        metrics.cleaner_dropped_records.inc_by(report.records.dropped());
        let damaged = report.damaged.len() as u64 + report.damaged_unnamed;
        metrics.cleaner_damaged_places.inc_by(damaged);
    }

    /// Counts what clients do; a pass compares.
    fn traffic(&self) -> u64 {
        self.metrics
            .produce_batches
            .get()
            .wrapping_add(self.metrics.fetch_latency.count())
    }
}

/// Tells a pass when to go on. See `pace` for the rules.
struct Pacer<'a> {
    core: &'a Core,
    claimed: &'a Claimed<'a>,
    deadline: Option<Timestamp>,
    began: Instant,
    resumed: Instant,
    traffic: u64,
}

impl Pacer<'_> {
    fn ask(&mut self, bytes: u64) -> Pace {
        let desk = &self.core.cleaner;
        if desk.is_ending() || self.claimed.served.closed().is_some() {
            return Pace::Stop;
        }
        let now = Instant::now();
        let over_budget = desk.bucket.lock().take(bytes, now);
        let traffic = self.core.traffic();
        let rest = match traffic == self.traffic {
            true => Duration::ZERO,
            false => pace::rest(now.duration_since(self.resumed)),
        };
        let pause = over_budget.max(rest);
        if !pause.is_zero() && !self.is_late(over_budget) {
            self.rest(pause);
            if desk.is_ending() || self.claimed.served.closed().is_some() {
                return Pace::Stop;
            }
        }
        self.claimed
            .progress
            .done_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        self.traffic = traffic;
        self.resumed = Instant::now();
        Pace::Go
    }

    /// Rests, but not while somebody waits for the pass to end.
    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let log = &self.claimed.served.log;
            if left.is_zero() || self.core.cleaner.is_ending() || log.wants_pass_to_end() {
                return;
            }
            self.core.cleaner.rest(left.min(REST_SLICE));
        }
    }

    /// Tells whether waiting would break the promise; if it is the budget that would, says so.
    fn is_late(&self, over_budget: Duration) -> bool {
        let Some(deadline) = self.deadline else {
            return false;
        };
        let progress = &self.claimed.progress;
        let (done, total) = progress.bytes();
        let elapsed_ms = self.began.elapsed().as_millis().max(1);
        let so_far = u64::try_from(u128::from(done) * 1_000 / elapsed_ms).unwrap_or(u64::MAX);
        let limit = self.core.cleaner.config.io_max_bytes_per_second;
        let outlook = Outlook {
            left_bytes: total - done,
            rate: match limit {
                0 => so_far,
                limit => limit,
            },
            deadline,
        };
        let late = outlook.is_late(self.core.now());
        if late && !over_budget.is_zero() && !progress.alarm.swap(true, Ordering::Relaxed) {
            self.core.metrics.cleaner_promise_alarms.inc();
            tracing::warn!(partition = %self.claimed.served.id(), limit, left_bytes = outlook.left_bytes,
                "cleaner.io_max_bytes_per_second would break the promise of max.compaction.lag.ms: the pass goes beyond it");
        }
        late
    }
}

fn seed() -> Result<[u64; 2], Trouble> {
    let mut bytes = [[0; 8]; 2];
    getrandom::fill(bytes.as_flattened_mut())
        .map_err(|error| Trouble::Failed(format!("the system's random source: {error}")))?;
    Ok(bytes.map(u64::from_be_bytes))
}
