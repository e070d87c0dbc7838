//! What retention would delete: a plan, a pure function of segments, settings, watermarks and the time.
//!
//! ```text
//!   | start | size | time | time |  held  |  ...  | active |       whole segments, oldest first
//!   '--------- go, each with its reason --'  the first that stays ends the plan, whatever lies behind it
//!                                    log start from now on: where the next segment begins
//! ```
//!
//! | reason | a segment goes when | under the policies |
//! |---|---|---|
//! | start | all of it lies before the log start | all |
//! | size | the log without it still has `retention.bytes` | those with `delete` |
//! | time | it is older than `retention.ms` | those with `delete` |
//!
//! The age of a segment is `now - clamp(greatest timestamp, first append, last append)`: neither an old nor a future stamp of
//! a client deletes or pins it. Without timestamps it is the age of its last append. Of a segment whose append times nobody
//! wrote down (adopted, or verified after a crash) the last change of its file stands for both, so it counts as younger
//! rather than older. If not even that is known its greatest timestamp counts as it is.
//!
//! Of a log that is archived, the segments that only the archive has stand first, as any other: the rules are about the whole. Which
//! segments leave the local disk while the archive keeps them is a plan of its own ([`plan_local`]): sealed ones that the archive
//! has, oldest first, by size and time of the local part. A hold does not keep them here: nothing is lost.
//!
//! Invariants
//! - Nothing that is held, above the high watermark or (of a synced log) above the recovery point is in a plan.
//! - The active segment is treated like any other when it has records; an empty one stays.
//!
//! What is not here: doing it (`retain`).

use crate::types::{Offset, Timestamp};

use super::SegmentSummary;
use super::config::{Durability, LogConfig, Retention};
use super::hold::Hold;
use super::watermarks::WatermarkView;

/// What a plan knows of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentFacts {
    /// Its first offset.
    pub base: Offset,
    /// Where the next segment begins; the log end for the last.
    pub end: Offset,
    /// Bytes of its batches.
    pub size_bytes: u64,
    /// Least timestamp of its records.
    pub least: Option<Timestamp>,
    /// Greatest timestamp of its records.
    pub greatest: Option<Timestamp>,
    /// When the first of its batches was appended, and when the last.
    pub appended: Option<(Timestamp, Timestamp)>,
}

impl SegmentFacts {
    /// Returns what a plan knows of the segment that `summary` tells of.
    pub fn of(summary: &SegmentSummary) -> Self {
        let times = &summary.append_times;
        Self {
            base: summary.base_offset,
            end: summary.next_offset,
            size_bytes: summary.log_bytes,
            least: summary.least_timestamp,
            greatest: summary.greatest_timestamp,
            // A first append that may have been later counts as late as it can have been: nothing goes too soon.
            appended: times
                .first_at_latest()
                .zip(times.last())
                .map(|(first, last)| (first, last.time)),
        }
    }

    /// Returns how old it is at `now`, in milliseconds; `None` when nothing tells.
    pub fn age_ms(&self, now: Timestamp) -> Option<i64> {
        let stamp = match (self.greatest, self.appended) {
            (Some(greatest), Some((first, last))) => greatest.clamp(first, last.max(first)),
            (None, Some((_, last))) => last,
            (greatest, None) => greatest?,
        };
        Some(now.ms_since(stamp))
    }

    /// Tells whether a record of it may be in `hold`, as far as its bounds tell.
    pub(super) fn may_be_in(&self, hold: &Hold) -> bool {
        match hold {
            Hold::Offsets(range) => range.start < self.end && range.end > self.base,
            Hold::Times(range) => {
                let begins_before_end = self.least.is_none_or(|least| least < range.end);
                begins_before_end && self.greatest.is_some_and(|greatest| greatest >= range.start)
            }
        }
    }
}

/// A log as a plan sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogFacts {
    /// Ascending, the active segment last.
    pub segments: Vec<SegmentFacts>,
    /// Its offsets.
    pub marks: WatermarkView,
}

/// Why a segment goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DeletionReason {
    /// It lies before the log start.
    Start,
    /// The log is larger than `retention.bytes` without it.
    Size,
    /// It is older than `retention.ms`.
    Time,
}

/// A segment that goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deletion {
    /// Its first offset.
    pub base: Offset,
    /// Where the log starts without it.
    pub end: Offset,
    /// Bytes of its batches.
    pub size_bytes: u64,
    /// How old it is, in milliseconds, if that is known.
    pub age_ms: Option<i64>,
    /// Why it goes.
    pub reason: DeletionReason,
}

/// Why the segment behind the last deletion stays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stay {
    /// There is none with records.
    NothingLeft,
    /// No rule asks for it.
    NotDue {
        /// How old it is, in milliseconds, if that is known and a rule asks for the age.
        age_ms: Option<i64>,
    },
    /// A record in it is, or may be, in this hold.
    Held(Hold),
    /// It reaches beyond what is safe to miss: readers may not have seen it yet, or it is not synced.
    NotSafe {
        /// The first offset that is not safe.
        from: Offset,
    },
}

/// What the next pass would do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RetentionPlan {
    /// The segments that go, oldest first.
    pub deletions: Vec<Deletion>,
    /// The log start after it.
    pub log_start: Offset,
    /// Why the next one stays.
    pub stay: Stay,
    /// Bytes of the segments that stay.
    pub kept_bytes: u64,
}

/// Plans retention of one log.
pub fn plan(log: &LogFacts, config: &LogConfig, now: Timestamp) -> RetentionPlan {
    let mut plan = RetentionPlan {
        deletions: Vec::new(),
        log_start: log.marks.log_start,
        stay: Stay::NothingLeft,
        kept_bytes: log.segments.iter().map(|segment| segment.size_bytes).sum(),
    };
    let safe = match config.durability {
        Durability::Written => log.marks.high_watermark,
        Durability::Synced => log.marks.high_watermark.min(log.marks.recovery_point),
    };
    for segment in &log.segments {
        if segment.size_bytes == 0 && segment.end >= log.marks.log_end {
            return plan;
        }
        let age_ms = segment.age_ms(now);
        let Some(reason) = reason(segment, &plan, config, now) else {
            let age_ms = age_ms.filter(|_| config.cleanup.deletes() && config.retention.ms.is_some());
            plan.stay = Stay::NotDue { age_ms };
            return plan;
        };
        if let Some(hold) = config.holds.iter().find(|hold| segment.may_be_in(hold)) {
            plan.stay = Stay::Held(hold.clone());
            return plan;
        }
        if segment.end > safe {
            plan.stay = Stay::NotSafe { from: safe };
            return plan;
        }
        plan.kept_bytes -= segment.size_bytes;
        plan.log_start = plan.log_start.max(segment.end);
        plan.deletions.push(Deletion {
            base: segment.base,
            end: segment.end,
            size_bytes: segment.size_bytes,
            age_ms,
            reason,
        });
    }
    plan
}

/// Plans what leaves the local disk: of `local`, the segments on it from the first on, those that stand in `archived` as well.
/// Both by offset.
pub fn plan_local(
    local: &[SegmentFacts],
    archived: &[SegmentFacts],
    limits: &Retention,
    now: Timestamp,
) -> Vec<Deletion> {
    let is_there = |segment: &SegmentFacts| {
        let found = archived.binary_search_by_key(&segment.base, |known| known.base);
        found.is_ok_and(|at| archived[at].size_bytes == segment.size_bytes && archived[at].end <= segment.end)
    };
    let mut left: u64 = local.iter().map(|segment| segment.size_bytes).sum();
    let mut going = Vec::new();
    for segment in local {
        left -= segment.size_bytes;
        let age_ms = segment.age_ms(now);
        let reason = if limits.bytes.is_some_and(|bytes| left >= bytes) {
            DeletionReason::Size
        } else if limits
            .ms
            .is_some_and(|ms| age_ms.is_some_and(|age_ms| age_ms > ms))
        {
            DeletionReason::Time
        } else {
            break;
        };
        if !is_there(segment) {
            break;
        }
        going.push(Deletion {
            base: segment.base,
            end: segment.end,
            size_bytes: segment.size_bytes,
            age_ms,
            reason,
        });
    }
    going
}

/// Kafka's three passes in one: a segment that time takes leaves less for size to take, so their order does not matter.
fn reason(
    segment: &SegmentFacts,
    before: &RetentionPlan,
    config: &LogConfig,
    now: Timestamp,
) -> Option<DeletionReason> {
    if segment.end <= before.log_start {
        return Some(DeletionReason::Start);
    }
    if !config.cleanup.deletes() {
        return None;
    }
    let left = before.kept_bytes - segment.size_bytes;
    if config.retention.bytes.is_some_and(|bytes| left >= bytes) {
        return Some(DeletionReason::Size);
    }
    let limit_ms = config.retention.ms?;
    segment
        .age_ms(now)
        .is_some_and(|age_ms| age_ms > limit_ms)
        .then_some(DeletionReason::Time)
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
