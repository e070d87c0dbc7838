//! A look at all compacted logs: which is next, when to look again, which promises are broken, and what the metrics say.
//!
//! What is not here: the order of logs (`candidates`), the work (`work`).

use std::sync::Arc;
use std::time::Duration;

use crate::broker::core::Core;
use crate::broker::served::Served;
use crate::storage::{CompactionView, breaks_its_promise};
use crate::types::Timestamp;

use super::candidates::{Urgency, urgency, wakes_at};
use super::state::{Standing, is_overdue};
use super::work::Claimed;

/// What a look found.
#[derive(Default)]
pub(super) struct Scan {
    promise: Option<(Timestamp, Arc<Served>)>,
    other: Option<(Urgency, Arc<Served>)>,
    wake: Option<Timestamp>,
    /// When the next pass is due, as far as time alone decides.
    next_run: Option<Timestamp>,
    totals: Totals,
}

/// Whether the lags leave room for a promise to be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Room {
    Enough,
    None,
}

/// Of all logs together.
#[derive(Default)]
struct Totals {
    dirty_bytes: u64,
    dirty_offsets: i64,
    ratio: f64,
    dirty_since: Option<Timestamp>,
    overdue: i64,
    rounds_left: u32,
    failing: i64,
    live_keys: u64,
    tombstones: u64,
}

impl Scan {
    fn found(&mut self, urgency: Urgency, served: &Arc<Served>) {
        match urgency {
            Urgency::Promise(deadline) => {
                if self.promise.as_ref().is_none_or(|(best, _)| deadline < *best) {
                    self.promise = Some((deadline, Arc::clone(served)));
                }
            }
            other => {
                let is_next = |(best, _): &(Urgency, _)| other.order(best).is_lt();
                if self.other.as_ref().is_none_or(is_next) {
                    self.other = Some((other, Arc::clone(served)));
                }
            }
        }
    }

    fn wakes(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    fn runs(&mut self, at: Timestamp) {
        self.next_run = Some(self.next_run.map_or(at, |next| next.min(at)));
    }
}

impl Totals {
    fn add(&mut self, standing: &Standing) {
        self.dirty_bytes += standing.dirty_bytes;
        self.dirty_offsets = self.dirty_offsets.saturating_add(standing.dirty_offsets);
        self.ratio = self.ratio.max(standing.ratio);
        self.dirty_since = [self.dirty_since, standing.dirty_since]
            .into_iter()
            .flatten()
            .min();
        self.overdue += i64::from(standing.is_overdue);
        self.rounds_left = self.rounds_left.max(standing.rounds_left);
        self.live_keys += standing.live_keys;
        self.tombstones += standing.tombstones;
    }
}

impl Core {
    /// Looks at all compacted logs.
    pub(super) fn scan(&self) -> Scan {
        let now = self.now();
        self.cleaner.begin_look();
        let mut scan = Scan::default();
        for topic in self.topics.all() {
            if topic.config.cleanup.compacts() {
                let room = match breaks_its_promise(&topic.config.compaction()) {
                    true => Room::None,
                    false => Room::Enough,
                };
                for served in &topic.partitions {
                    self.look_at(served, room, now, &mut scan);
                }
            }
        }
        self.show(&scan, now);
        scan
    }

    /// Returns when a log that is not due wants a look, though nothing is written to it; `None` when time alone brings none about.
    pub(in crate::broker) fn next_cleaning(&self) -> Option<Timestamp> {
        self.scan().wake
    }

    fn look_at(&self, served: &Arc<Served>, room: Room, now: Timestamp, scan: &mut Scan) {
        let (cleaning, marks) = (&served.cleaning, served.log.watermarks());
        let retry_at = cleaning.failing(now).map(|failing| failing.retry_at);
        scan.totals.failing += i64::from(retry_at.is_some());
        if let Some(standing) = cleaning.unchanged(&marks) {
            scan.totals.add(&standing);
            return;
        }
        cleaning.begin_look();
        let view = served.log.compaction(now);
        let standing = Standing::of(&view, &marks, now);
        scan.totals.add(&standing);
        self.watch_promise(served, room, &view, now);
        if view.deadline.is_some() {
            cleaning.set_promised();
        }
        if cleaning.running().is_some() {
            return;
        }
        // A promise that breaks is told at that time, whatever is in its way.
        let breaks_at = view.deadline.map(|at| at.saturating_add_ms(1));
        let due_at = wakes_at(&view, now);
        let wakes = [due_at, breaks_at].into_iter().flatten();
        let wakes = wakes.filter(|at| *at > now).min();
        let found = urgency(&view, now).or(retry_at.map(|_| Urgency::Again));
        match (found, retry_at.filter(|at| *at > now)) {
            (_, Some(retry_at)) => {
                scan.runs(retry_at);
                scan.wakes(retry_at);
                if view.deadline.is_some() {
                    self.cleaner.note_promise(retry_at);
                }
            }
            (Some(found), None) => {
                scan.runs(now);
                if matches!(found, Urgency::Promise(_)) {
                    self.cleaner.note_promise(now);
                }
                scan.found(found, served);
            }
            (None, None) => match wakes {
                Some(at) => {
                    if let Some(at) = due_at {
                        scan.runs(at);
                    }
                    scan.wakes(at);
                    if view.deadline.is_some() {
                        self.cleaner.note_promise(at);
                    }
                }
                None => cleaning.idle(marks, standing),
            },
        }
    }

    fn watch_promise(&self, served: &Served, room: Room, view: &CompactionView, now: Timestamp) {
        let Some(deadline) = view.deadline.filter(|_| is_overdue(view, now)) else {
            return;
        };
        // Where the settings leave no room every deadline is missed: that is one alarm, and explain says whose fault it is.
        let told_of = match room {
            Room::Enough => deadline,
            Room::None => Timestamp::MIN,
        };
        if served.cleaning.raise_alarm(told_of) {
            self.metrics.cleaner_promise_alarms.inc();
            tracing::warn!(partition = %served.id(), deadline_ms = deadline.0, bound = ?view.bound, due = ?view.due,
                "the promise of max.compaction.lag.ms is broken; siltstone topic explain says what is in the way");
        }
    }

    fn show(&self, scan: &Scan, now: Timestamp) {
        let (metrics, totals) = (&self.metrics, &scan.totals);
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let age_ms = totals
            .dirty_since
            .map_or(0, |since| now.0.saturating_sub(since.0));
        metrics.cleaner_failing.set(totals.failing);
        metrics.cleaner_dirty_bytes.set(signed(totals.dirty_bytes));
        metrics.cleaner_dirty_offsets.set(totals.dirty_offsets);
        metrics.cleaner_dirty_ratio.set(totals.ratio);
        metrics.cleaner_oldest_dirty_seconds.set(age_ms.max(0) / 1_000);
        metrics.cleaner_overdue.set(totals.overdue);
        metrics
            .cleaner_found
            .rounds_left
            .set(i64::from(totals.rounds_left));
        metrics.cleaner_found.live_keys.set(signed(totals.live_keys));
        metrics.cleaner_found.tombstones.set(signed(totals.tombstones));
        let next_run = scan.next_run.map_or(0, |at| at.0 / 1_000);
        metrics.cleaner_found.next_run_seconds.set(next_run);
    }

    /// Claims the log whose promise is due and has the earliest deadline, if that is before `deadline`.
    pub(super) fn claim_promise(&self, deadline: Option<Timestamp>) -> Option<Claimed<'_>> {
        self.promised(&self.scan(), deadline)
    }

    /// Claims the log of a look whose promise is due, if its deadline is before `deadline`.
    pub(super) fn promised(&self, scan: &Scan, deadline: Option<Timestamp>) -> Option<Claimed<'_>> {
        let (promised, served) = scan.promise.as_ref()?;
        let first = deadline.is_none_or(|deadline| *promised < deadline);
        first.then(|| self.claim(served)).flatten()
    }

    /// Claims the log of a look that is next without a promise, or returns how long nothing is due.
    pub(super) fn next_of(&self, scan: &Scan) -> Result<Claimed<'_>, Duration> {
        let backoff = self.cleaner.config.backoff;
        let pause = scan.wake.map_or(backoff, |at| {
            let ms = u64::try_from(at.0.saturating_sub(self.now().0)).unwrap_or(0);
            Duration::from_millis(ms).min(backoff)
        });
        // Claimed by another thread meanwhile: what else there is shows at the next look.
        let next = scan.other.as_ref().and_then(|(_, served)| self.claim(served));
        next.ok_or(pause)
    }
}
