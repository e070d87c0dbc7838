//! The work of a cleaner thread: take a promise, a command or another log, seal what has to be sealed, sync it, and clean it pass by pass.
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
//! What is not here: the choice (`scan`, `candidates`), the waiting (`desk`, `pacer`), what a pass does (`storage`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::broker::core::Core;
use crate::broker::served::Served;
use crate::storage::{
    AppendError, Bound, CompactError, CompactionView, OffsetMap, Pass, PassReport, RollFor, Rolled, Rounds,
};
use crate::types::Offset;

use super::JobState;
use super::candidates::{Urgency, urgency};
use super::desk::Errand;
use super::explain::bound_text;
use super::jobs::running;
use super::pace::Traffic;
use super::pacer::Pacer;
use super::state::Progress;

/// How often a sync that another thread does is looked at.
const SYNC_LOOK: Duration = Duration::from_millis(5);
/// Pause after something else had its hands on the segments.
const LATER_PAUSE: Duration = Duration::from_millis(100);
/// How often a thread's work is looked at by who waits for it.
const BESIDE_PAUSE: Duration = Duration::from_millis(1);
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
    Horizon,
    Again,
}

/// What is to be done to a log.
#[derive(Clone, Copy, Debug)]
struct Task {
    wish: RollFor,
    depth: Depth,
}

impl Cause {
    fn text(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Promise => "promise",
            Self::Ratio => "ratio",
            Self::Horizon => "horizon",
            Self::Again => "again",
        }
    }
}

/// A log that a thread has claimed; given back when dropped.
pub(in crate::broker) struct Claimed<'a> {
    pub(super) core: &'a Core,
    pub(super) served: Arc<Served>,
    pub(super) progress: Arc<Progress>,
}

/// Whether a pass is the work of its thread, or comes between two chunks of one that is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Depth {
    Outer,
    Within,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.core.metrics.cleaner_running.dec();
        self.core.cleaner.busy.fetch_sub(1, Ordering::Relaxed);
        self.served.cleaning.release();
        self.core.cleaner.ring_for_waiting();
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

    /// One turn: the log of a promise, one command, or another log.
    pub(in crate::broker) fn clean_next(&self) -> Turn {
        let scan = self.scan();
        if let Some(claimed) = self.promised(&scan, None) {
            // The bell that woke this thread may have been a command's.
            self.cleaner.ring_for_waiting();
            self.clean_by_schedule(&claimed, Depth::Outer);
            return Turn::Worked;
        }
        let errand = self.cleaner.take(|errand| {
            self.claim(&errand.served)
                .map(|claimed| (errand.clone(), claimed))
        });
        if let Some((errand, claimed)) = errand {
            self.carry_out(&errand, &claimed);
            return Turn::Worked;
        }
        match self.next_of(&scan) {
            Ok(claimed) => {
                self.clean_by_schedule(&claimed, Depth::Outer);
                Turn::Worked
            }
            Err(pause) => Turn::Idle(pause),
        }
    }

    /// Cleans everything that is due by now, beside the threads, and waits for what they are at.
    pub(in crate::broker) fn clean_what_is_due(&self) {
        while !self.cleaner.is_ending() {
            match self.clean_next() {
                Turn::Worked => {}
                Turn::Idle(_) if self.cleaner.busy.load(Ordering::Relaxed) > 0 => {
                    self.cleaner.rest(BESIDE_PAUSE);
                }
                Turn::Idle(_) => return,
            }
        }
    }

    pub(in crate::broker) fn claim(&self, served: &Arc<Served>) -> Option<Claimed<'_>> {
        let progress = served.cleaning.claim(self.now())?;
        self.metrics.cleaner_running.inc();
        self.cleaner.busy.fetch_add(1, Ordering::Relaxed);
        Some(Claimed {
            core: self,
            served: Arc::clone(served),
            progress,
        })
    }

    /// Cleans a log that a look found. What failed by command is tried again as by command.
    pub(super) fn clean_by_schedule(&self, claimed: &Claimed<'_>, depth: Depth) {
        let failing = claimed.served.cleaning.failing(self.now());
        let task = Task {
            wish: failing.map_or(RollFor::Promise, |failing| failing.wish),
            depth,
        };
        match self.clean_log(claimed, task, &mut |_| {}) {
            Ok(_) => claimed.served.cleaning.settled(),
            Err(Trouble::Over(_)) => {}
            // What waits for a repair is told and waits by itself: the next look finds another log.
            Err(Trouble::Later(reason)) if claimed.served.log.refusal().is_some() => {
                self.failed(claimed, reason, task.wish);
            }
            Err(Trouble::Later(_)) => self.cleaner.rest(LATER_PAUSE),
            Err(Trouble::Failed(reason)) => self.failed(claimed, reason, task.wish),
        }
    }

    fn carry_out(&self, errand: &Errand, claimed: &Claimed<'_>) {
        let log = &errand.served.log;
        let before_bytes = log.describe().size_bytes;
        self.cleaner.tell(errand, |one| {
            one.before_bytes = before_bytes;
            one.state = running(&claimed.progress);
        });
        let (mut tries, mut held) = (0, 0);
        let task = Task {
            wish: RollFor::Command,
            depth: Depth::Outer,
        };
        let outcome = loop {
            let cleaned = self.clean_log(claimed, task, &mut |report| {
                held = report.records.held;
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
                left: left_text(view.bound, held),
            },
            Err(Trouble::Later(reason) | Trouble::Over(reason)) => JobState::Failed { reason },
            Err(Trouble::Failed(reason)) => {
                self.failed(claimed, reason.clone(), task.wish);
                JobState::Failed { reason }
            }
        };
        let after_bytes = log.describe().size_bytes;
        self.cleaner.tell(errand, |one| {
            one.after_bytes = after_bytes;
            one.state = state;
        });
    }

    fn failed(&self, claimed: &Claimed<'_>, reason: String, wish: RollFor) {
        let now = self.now();
        let failures = claimed.served.cleaning.failed(now, reason.clone(), wish);
        self.metrics.cleaner_failures.inc();
        tracing::error!(partition = %claimed.served.id(), error = reason, failures,
            "compaction failed; nothing is lost, what was replaced before stays replaced, and it is tried again");
    }

    /// Cleans a log until the map took in all of its keys; tells every pass. Returns how the log then stands.
    fn clean_log(
        &self,
        claimed: &Claimed<'_>,
        task: Task,
        told: &mut dyn FnMut(&PassReport),
    ) -> Result<CompactionView, Trouble> {
        let served = &claimed.served;
        self.seal(served, task.wish)?;
        let mut view = served.log.compaction(self.now());
        // By command also what is clean is looked at again: its tombstones may have come of age.
        let cause = match (task.wish, urgency(&view, self.now())) {
            (RollFor::Command, _) => Some(Cause::Command),
            (RollFor::Promise, Some(Urgency::Promise(_))) => Some(Cause::Promise),
            (RollFor::Promise, Some(Urgency::Ratio(_))) => Some(Cause::Ratio),
            (RollFor::Promise, Some(Urgency::Horizon(_))) => Some(Cause::Horizon),
            (RollFor::Promise, Some(Urgency::Again) | None) => {
                let failing = served.cleaning.failing(self.now());
                failing.map(|_| Cause::Again)
            }
        };
        let is_work = |cause: &Cause| match cause {
            Cause::Promise | Cause::Ratio => view.dirty_bytes > 0,
            Cause::Command | Cause::Horizon | Cause::Again => view.first_uncleanable > view.log_start,
        };
        let Some(cause) = cause.filter(is_work) else {
            return Ok(view);
        };
        let mut map = OffsetMap::with_bytes(self.map_bytes(task.depth));
        loop {
            let report = self.clean_round(claimed, &view, task.depth, &mut map)?;
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
            Ok(_) => {
                if served.log.take_rolled() {
                    self.retention.want(served);
                }
                self.settle(served, end)
            }
            Err(AppendError::Refused { reason }) => Err(Trouble::Later(reason)),
            Err(error) => {
                if let AppendError::Storage(error) = &error {
                    self.disk.heed(error);
                }
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
        depth: Depth,
        map: &mut OffsetMap,
    ) -> Result<PassReport, Trouble> {
        let served = &claimed.served;
        let (began, now) = (Instant::now(), self.now());
        let progress = &claimed.progress;
        progress.done_bytes.store(0, Ordering::Relaxed);
        // At most: dirty bytes are read twice, what lies before the first change of a group, too, and all of it is written.
        let all = view.clean_bytes + view.dirty_bytes;
        progress
            .total_bytes
            .store(3 * all + view.dirty_bytes, Ordering::Relaxed);
        let mut pacer = Pacer::new(claimed, view.deadline, depth);
        let mut budget = |step| pacer.ask(step);
        let mut pass = Pass {
            map,
            seed: seed()?,
            now,
            budget: &mut budget,
        };
        let passed = self.store.compact(&served.log, &mut pass);
        if let Err(CompactError::Storage(error)) = &passed {
            self.disk.heed(error);
        }
        let report = passed?;
        served.cleaning.passed(began.elapsed());
        self.count(&report, began.elapsed());
        if let Err(error) = self.store.checkpoint_cleaner_points() {
            tracing::warn!(%error, "cleaner points could not be written; after a crash a log is cleaned again");
        }
        Ok(report)
    }

    /// A pass within a pass has an eighth of what a thread has, and leaves the other the rest.
    fn map_bytes(&self, depth: Depth) -> usize {
        let config = &self.cleaner.config;
        let share = config.dedupe_buffer_bytes / config.threads.max(1);
        match depth {
            Depth::Outer => share - share / 8,
            Depth::Within => share / 8,
        }
    }

    fn count(&self, report: &PassReport, took: Duration) {
        let metrics = &self.metrics;
        metrics.cleaner_passes.inc();
        metrics.cleaner_found.last_pass_seconds.set(self.now().0 / 1_000);
        metrics.cleaner_latency.record(took);
        metrics.cleaner_read_bytes.inc_by(report.read_bytes);
        metrics.cleaner_written_bytes.inc_by(report.written_bytes);
        metrics.cleaner_saved_bytes.inc_by(report.saved_bytes);
        metrics.cleaner_dropped_records.inc_by(report.records.dropped());
        let damaged = report.damaged.len() as u64 + report.damaged_unnamed;
        metrics.cleaner_damaged_places.inc_by(damaged);
    }

    /// Counts what clients do; a pass compares.
    pub(super) fn traffic(&self) -> Traffic {
        let appends = self.metrics.produce_batches.get();
        Traffic {
            operations: appends.wrapping_add(self.metrics.fetch_latency.count()),
            syncs: self.metrics.sync_rounds.get(),
        }
    }
}

/// Says why a command left something; `None` if it left nothing.
fn left_text(bound: Option<Bound>, held: u64) -> Option<String> {
    let held = (held > 0).then(|| format!("records that a hold keeps, shadowed or not: {held}"));
    let texts: Vec<String> = bound.map(bound_text).into_iter().chain(held).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

fn seed() -> Result<[u64; 2], Trouble> {
    let mut bytes = [[0; 8]; 2];
    getrandom::fill(bytes.as_flattened_mut())
        .map_err(|error| Trouble::Failed(format!("the system's random source: {error}")))?;
    Ok(bytes.map(u64::from_be_bytes))
}
