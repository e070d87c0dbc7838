//! Choosing: which part of a log a pass may clean, whether it is worth a pass, and if not, why not. Pure.
//!
//! ```text
//!   log start      cleaner point            first uncleanable         log end
//!     | clean ........ | dirty, cleanable ....... | dirty, not yet ......|
//!     |    segments    |    segments              | active segment, min lag, open transaction, not on disk
//! ```
//!
//! Kafka's rules, with two of our own:
//! - A lag counts from the append, by the server's clock, not from a stamp that a client may set to anything.
//! - `max.compaction.lag.ms` is a promise: a shadowed record is gone so long after the append of the newer one. A pass is due
//!   some time before, see [`lead_ms`], in an idle log too.
//! - A segment is cleanable `min.compaction.lag.ms` after its *last* append. So that somebody who writes on and on does not put
//!   off the pass, the active segment is sealed that much earlier, see [`roll_begins`].
//!
//! ```text
//!   first append     sealed: no more appends    cleanable           the pass must be done
//!     |-- room / 2 ----------|------ min lag --------|------ room / 2 -----|        room = max lag - min lag
//! ```
//!
//! Invariants
//! - Only whole segments are cleanable, and only those whose every batch is on disk, visible, decided, and old enough.
//! - The ratio counts a segment that the cleaner point splits on both sides, as Kafka does.
//!
//! What is not here: I/O, the clock, the order of logs among each other.

use std::ops::Range;

use crate::storage::{AppendTimes, CleanupPolicy, Compaction, Hold, WatermarkView};
use crate::types::{Offset, Timestamp};

use super::super::cleaner_state::{Again, PassFailure, PassReport};

/// An hour: a pass is due at most so long before the promise would be broken.
const LEAD_MAX_MS: i64 = 60 * 60 * 1000;

/// No segment is sealed for a promise sooner than so long after its first append, but for a lag of less than twice that: else
/// there would be no end of small segments.
const ROLL_MIN_MS: i64 = 1_000;

/// What a log says of its compaction, from memory.
#[derive(Clone, PartialEq, Debug)]
pub struct CompactionView {
    /// The first offset of the log.
    pub log_start: Offset,
    /// Everything before it is clean: its first dirty offset.
    pub cleaner_point: Offset,
    /// A pass goes no further.
    pub first_uncleanable: Offset,
    /// Why not; `None` where there is nothing further.
    pub bound: Option<Bound>,
    /// Bytes of the segments that begin before the cleaner point, and that a pass may clean.
    pub clean_bytes: u64,
    /// Bytes of the dirty segments that a pass may clean.
    pub dirty_bytes: u64,
    /// Bytes of the segments that it may not clean yet.
    pub uncleanable_bytes: u64,
    /// Dirty bytes by clean and dirty bytes: 0.0 to 1.0.
    pub ratio: f64,
    /// Until then the promise of `max.compaction.lag.ms` holds without another pass; `None` without a promise or anything
    /// dirty.
    pub deadline: Option<Timestamp>,
    /// From then on a pass is due, so that the promise is kept; `None` where `deadline` is. At once for what a hold kept.
    pub promise_at: Option<Timestamp>,
    /// From then on the active segment is to be sealed, so that the promise can be kept for what it holds; `None` without a
    /// promise, or without anything in it.
    pub roll_at: Option<Timestamp>,
    /// From then on a pass may drop something that the last one kept: tombstones, ends of transactions.
    pub horizon_at: Option<Timestamp>,
    /// When the oldest dirty record was appended, or somewhat before; `None` where nothing is dirty or it is not known.
    pub dirty_since: Option<Timestamp>,
    /// Whether a pass is due.
    pub due: Due,
    /// When the last finished pass began, and what it did.
    pub last_pass: Option<(Timestamp, PassReport)>,
    /// What went wrong since.
    pub last_error: Option<PassFailure>,
}

/// What a pass does not go beyond.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    /// The segment that takes appends.
    ActiveSegment,
    /// A transaction that is open since this offset.
    OpenTransaction(Offset),
    /// `min.compaction.lag.ms`: cleanable from this time on.
    MinLag(Timestamp),
    /// Records from this offset on are not yet known to be on disk, or not yet visible.
    NotSafe(Offset),
}

/// Whether a pass is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// Enough of the log is dirty.
    Ratio,
    /// A record may soon be shadowed for longer than was promised.
    Promise,
    /// The time of tombstones, or of ends of transactions, is over.
    Horizon,
    /// It is not.
    No(NotDue),
}

/// Why no pass is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotDue {
    /// The topic's policy does not compact.
    Policy,
    /// Nothing is dirty.
    Clean,
    /// Something is, but a pass may not go there; see [`CompactionView::bound`].
    NotCleanable,
    /// All that is dirty and cleanable is held.
    Held,
    /// Too little of the log is dirty.
    BelowRatio,
}

/// What is known of a segment without opening it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span<'a> {
    pub(super) base: Offset,
    pub(super) next: Offset,
    pub(super) bytes: u64,
    pub(super) append_times: &'a AppendTimes,
}

/// A log as the choice sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape<'a> {
    /// All segments, the last of them the one that takes appends, or will take the next.
    pub(super) segments: &'a [Span<'a>],
    pub(super) marks: WatermarkView,
    pub(super) cleaner_point: Offset,
    /// What of the dirty part was clean once.
    pub(super) again: Option<Again>,
}

/// What the settings say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wishes<'a> {
    pub(super) cleanup: CleanupPolicy,
    pub(super) compaction: Compaction,
    pub(super) holds: &'a [Hold],
    pub(super) now: Timestamp,
}

/// Chooses. Everything but the last pass and the last error is filled in.
pub(super) fn choose(log: &Shape<'_>, wishes: &Wishes<'_>) -> CompactionView {
    let point = log.cleaner_point;
    let (cleanable, bound) = cleanable(log, wishes);
    let (cleanable, uncleanable) = log.segments.split_at(cleanable);
    let first_uncleanable = uncleanable.first().map_or(log.marks.log_end, |span| span.base);
    // The point lies in a segment that no pass may touch, where the log begins inside one, or a hold did.
    let first_uncleanable = first_uncleanable.max(point);
    let bytes = |spans: &[Span<'_>], wanted: &dyn Fn(&Span<'_>) -> bool| -> u64 {
        let wanted = spans.iter().filter(|span| wanted(span));
        wanted.map(|span| span.bytes).sum()
    };
    let clean_bytes = bytes(cleanable, &|span| span.base < point);
    let dirty_bytes = bytes(cleanable, &|span| span.next > point);
    let uncleanable_bytes = bytes(uncleanable, &|_| true);
    let dirty_since = first_append_from(log, point);
    let mut view = CompactionView {
        log_start: log.marks.log_start,
        cleaner_point: point,
        first_uncleanable,
        bound,
        clean_bytes,
        dirty_bytes,
        uncleanable_bytes,
        ratio: ratio(clean_bytes, dirty_bytes),
        deadline: promised_since(log).and_then(|at| deadline(at, &wishes.compaction)),
        promise_at: dirty_since.and_then(|at| promise_begins(at, &wishes.compaction)),
        roll_at: log
            .segments
            .last()
            .filter(|last| last.bytes > 0 && wishes.cleanup.compacts())
            .and_then(|last| roll_begins(last.append_times.first()?.time, &wishes.compaction)),
        horizon_at: None,
        dirty_since,
        due: Due::No(NotDue::Policy),
        last_pass: None,
        last_error: None,
    };
    view.due = due(&view, log, wishes);
    view
}

/// From this time on what was appended at `first_append` must be on its way to be cleaned.
fn promise_begins(first_append: Timestamp, compaction: &Compaction) -> Option<Timestamp> {
    let deadline = deadline(first_append, compaction)?;
    Some(deadline.saturating_add_ms(-lead_ms(compaction)))
}

/// From this time on a segment that has taken appends since `first_append` is to be sealed: its last append has to become as old
/// as `min.compaction.lag.ms` before the promise for its first one wants a pass.
pub(super) fn roll_begins(first_append: Timestamp, compaction: &Compaction) -> Option<Timestamp> {
    let begins = promise_begins(first_append, compaction)?.saturating_add_ms(-compaction.min_lag_ms);
    let soonest = ROLL_MIN_MS.min(compaction.max_lag_ms / 2);
    Some(begins.max(first_append.saturating_add_ms(soonest)))
}

/// How long before its deadline a promise wants a pass: half of what is between the least and the greatest lag.
fn lead_ms(compaction: &Compaction) -> i64 {
    let room = compaction.max_lag_ms.saturating_sub(compaction.min_lag_ms).max(0);
    (room / 2).min(LEAD_MAX_MS)
}

/// Tells whether the lags leave no room for the promise to be kept while somebody writes on and on.
pub fn breaks_its_promise(compaction: &Compaction) -> bool {
    let room = compaction.max_lag_ms.saturating_sub(compaction.min_lag_ms);
    compaction.max_lag_ms < i64::MAX && compaction.min_lag_ms > 0 && room < 2 * ROLL_MIN_MS
}

fn deadline(first_append: Timestamp, compaction: &Compaction) -> Option<Timestamp> {
    (compaction.max_lag_ms < i64::MAX).then(|| first_append.saturating_add_ms(compaction.max_lag_ms))
}

fn ratio(clean_bytes: u64, dirty_bytes: u64) -> f64 {
    let total = clean_bytes + dirty_bytes;
    if total == 0 {
        return 0.0;
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "2^53 bytes are told apart, which no log exceeds"
    )]
    let of = |bytes: u64| bytes as f64;
    of(dirty_bytes) / of(total)
}

/// How many segments, from the first on, a pass may clean, and why no more.
fn cleanable(log: &Shape<'_>, wishes: &Wishes<'_>) -> (usize, Option<Bound>) {
    let marks = &log.marks;
    let safe = marks.recovery_point.min(marks.high_watermark);
    let min_lag_ms = wishes.compaction.min_lag_ms;
    for (index, span) in log.segments.iter().enumerate() {
        let cleanable_at = span
            .append_times
            .last()
            .map(|last| last.time.saturating_add_ms(min_lag_ms))
            .filter(|at| min_lag_ms > 0 && span.next > log.cleaner_point && *at > wishes.now);
        let bound = if index + 1 == log.segments.len() {
            Some(Bound::ActiveSegment)
        } else if span.next > marks.last_stable && marks.last_stable < marks.high_watermark {
            Some(Bound::OpenTransaction(marks.last_stable))
        } else if span.next > safe {
            Some(Bound::NotSafe(safe))
        } else {
            cleanable_at.map(Bound::MinLag)
        };
        if let Some(bound) = bound {
            return (index, Some(bound).filter(|_| span.bytes > 0));
        }
    }
    (log.segments.len(), None)
}

/// When the first record at or after an offset was appended, or somewhat before.
fn first_append_from(log: &Shape<'_>, offset: Offset) -> Option<Timestamp> {
    let dirty = log.segments.iter().find(|span| span.next > offset)?;
    let times = dirty.append_times;
    times
        .append_time_at_or_before(offset)
        .or(times.first().map(|first| first.time))
}

/// Since when, at the earliest, a record may be shadowed that should be gone: since the append of the newer one, but where a hold
/// kept it, since that has ended. A pass is due at once then, and has all the time of a new promise.
fn promised_since(log: &Shape<'_>) -> Option<Timestamp> {
    match log.again.filter(|again| again.to > log.cleaner_point) {
        None => first_append_from(log, log.cleaner_point),
        Some(again) => {
            let new = first_append_from(log, again.to).unwrap_or(again.since);
            Some(new.min(again.since))
        }
    }
}

/// Tells whether holds by offset, together, hold all of a range.
fn is_held(holds: &[Hold], range: Range<Offset>) -> bool {
    let mut held: Vec<&Range<Offset>> = holds
        .iter()
        .filter_map(|hold| match hold {
            Hold::Offsets(held) => Some(held),
            Hold::Times(_) => None,
        })
        .collect();
    held.sort_unstable_by_key(|held| held.start);
    let mut next = range.start;
    for held in held {
        if held.start <= next {
            next = held.end.max(next);
        }
    }
    // Of nothing no hold keeps anything.
    !range.is_empty() && next >= range.end
}

fn due(view: &CompactionView, log: &Shape<'_>, wishes: &Wishes<'_>) -> Due {
    if !wishes.cleanup.compacts() {
        return Due::No(NotDue::Policy);
    }
    if view.dirty_bytes == 0 {
        let clean = view.cleaner_point >= log.marks.log_end;
        return Due::No(if clean {
            NotDue::Clean
        } else {
            NotDue::NotCleanable
        });
    }
    if is_held(wishes.holds, view.cleaner_point..view.first_uncleanable) {
        return Due::No(NotDue::Held);
    }
    if view.promise_at.is_some_and(|at| at <= wishes.now) {
        Due::Promise
    } else if view.ratio > wishes.compaction.min_dirty_ratio {
        Due::Ratio
    } else {
        Due::No(NotDue::BelowRatio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_nothing_nothing_is_held() {
        assert!(!is_held(&[], Offset(3)..Offset(3)));
        assert!(!is_held(&[], Offset(3)..Offset(4)));
        assert!(is_held(
            &[Hold::Offsets(Offset(3)..Offset(4))],
            Offset(3)..Offset(4)
        ));
    }
}
