//! What the cleaner does, and why not, in words and numbers. From memory.
//!
//! What is not here: drawing it (`cli`).

use std::sync::atomic::Ordering;

use crate::broker::core::Core;
use crate::broker::served::Served;
use crate::broker::topics::Topic;
use crate::broker::{AskedPartitions, Error};
use crate::storage::{
    Bound, CompactionView, Due, NotDue, PassReport, Rounds, SegmentRole, breaks_its_promise,
};
use crate::types::{Timestamp, TopicName};

use super::candidates::{urgency, wakes_at};
use super::state::is_overdue;
use super::{
    CompactionExplanation, Exactness, KeyCounts, LastPass, LogDescription, LogSegment, PassError, RoundsLeft,
    Running, SegmentState,
};

impl Core {
    /// See [`crate::broker::Broker::explain_compaction`].
    pub(in crate::broker) fn explain_compaction(
        &self,
        topic: &TopicName,
        asked: &AskedPartitions,
    ) -> Result<Vec<CompactionExplanation>, Error> {
        let topic = self.topics.find(topic)?;
        let now = self.now();
        let explained = topic
            .asked(asked)?
            .iter()
            .map(|served| self.explain(&topic, served, now))
            .collect();
        Ok(explained)
    }

    /// See [`crate::broker::Broker::describe_log`].
    pub(in crate::broker) fn describe_log(
        &self,
        topic: &TopicName,
        asked: &AskedPartitions,
    ) -> Result<Vec<LogDescription>, Error> {
        let topic = self.topics.find(topic)?;
        Ok(topic
            .asked(asked)?
            .iter()
            .map(|served| describe(self, &topic, served))
            .collect())
    }
}

impl Core {
    fn explain(&self, topic: &Topic, served: &Served, now: Timestamp) -> CompactionExplanation {
        let view = served.log.compaction(now);
        let failing = served.cleaning.failing(now);
        let retry_at = failing.map(|failing| failing.retry_at);
        let due = urgency(&view, now).is_some() || retry_at.is_some();
        let pause = retry_at.filter(|at| *at > now);
        let running = served.cleaning.running().is_some();
        let next_run = match (due, pause) {
            (true, pause) => Some(pause.unwrap_or(now)),
            (false, _) => wakes_at(&view, now),
        };
        let why_not_now = match pause {
            _ if running => None,
            Some(_) => Some("the last pass failed, and the pause after it is not over".to_owned()),
            None if due && self.cleaner.is_busy() => {
                Some("all threads of the cleaner are at other logs".to_owned())
            }
            None if due => None,
            None => Some(why_not(&view)),
        };
        let explained = explain(topic, served, &view, now);
        CompactionExplanation {
            next_run,
            budget_alarm: alarm(topic, served, &view, why_not_now.as_deref(), now),
            why_not_now,
            ..explained
        }
    }
}

/// Says what breaks a promise, or will.
fn alarm(
    topic: &Topic,
    served: &Served,
    view: &CompactionView,
    why_not_now: Option<&str>,
    now: Timestamp,
) -> Option<String> {
    let running = served.cleaning.running();
    if running.is_some_and(|one| one.alarm.load(Ordering::Relaxed)) {
        return Some(
            "cleaner.io_max_bytes_per_second would break the promise of max.compaction.lag.ms; the pass goes beyond it"
                .to_owned(),
        );
    }
    if let Some(deadline) = view.deadline.filter(|_| is_overdue(view, now)) {
        return Some(format!(
            "the promise of max.compaction.lag.ms is broken since {} ms: {}",
            now.0.saturating_sub(deadline.0),
            why_not_now.unwrap_or("a pass is under way, or about to begin")
        ));
    }
    let compaction = topic.config.compaction();
    breaks_its_promise(&compaction).then(|| {
        "max.compaction.lag.ms cannot be promised while records are written: min.compaction.lag.ms leaves less than 2 seconds"
            .to_owned()
    })
}

/// Everything but what depends on the schedule.
fn explain(topic: &Topic, served: &Served, view: &CompactionView, now: Timestamp) -> CompactionExplanation {
    let marks = served.log.watermarks();
    let running = served.cleaning.running();
    let failing = served.cleaning.failing(now);
    CompactionExplanation {
        partition: served.id().partition,
        log_start: view.log_start,
        cleaner_point: view.cleaner_point,
        first_uncleanable: view.first_uncleanable,
        active_start: served
            .log
            .segment_views()
            .last()
            .map_or(marks.log_end, |last| last.base),
        log_end: marks.log_end,
        clean_bytes: view.clean_bytes,
        dirty_bytes: view.dirty_bytes,
        uncleanable_bytes: view.uncleanable_bytes,
        dirty_ratio: view.ratio,
        min_dirty_ratio: topic.config.min_cleanable_dirty_ratio,
        oldest_dirty_age_ms: view.dirty_since.map(|since| now.0.saturating_sub(since.0).max(0)),
        keys: view.last_pass.as_ref().map(|(_, report)| keys(view, report)),
        last_pass: view.last_pass.as_ref().map(|(at, report)| {
            let took_ms = u64::try_from(served.cleaning.last_took().as_millis()).unwrap_or(u64::MAX);
            LastPass {
                took_ms,
                ..last_pass(*at, report)
            }
        }),
        last_error: failing.map(|failing| PassError {
            at: failing.at,
            reason: failing.reason,
            failures: failing.failures,
            retry_at: failing.retry_at,
        }),
        running: running.map(|progress| {
            let (done_bytes, total_bytes) = progress.bytes();
            Running {
                since: progress.since,
                done_bytes,
                total_bytes,
            }
        }),
        next_run: None,
        why_not_now: None,
        promise_deadline: view.deadline,
        budget_alarm: None,
    }
}

fn keys(view: &CompactionView, report: &PassReport) -> KeyCounts {
    let all_read = report.damaged.is_empty() && report.damaged_unnamed == 0;
    let clean =
        view.dirty_bytes == 0 && view.uncleanable_bytes == 0 && report.rounds == Rounds::Done && all_read;
    // What was counted may have been deleted since, and what is in the archive alone was not.
    let counted_all = report.counted_from == view.log_start;
    KeyCounts {
        live: report.records.values_kept,
        tombstones: report.records.tombstones_kept,
        exactness: match clean && counted_all && report.records.held == 0 {
            true => Exactness::Exact,
            false => Exactness::Estimated,
        },
    }
}

fn last_pass(at: Timestamp, report: &PassReport) -> LastPass {
    LastPass {
        at,
        took_ms: 0,
        read_bytes: report.read_bytes,
        written_bytes: report.written_bytes,
        saved_bytes: report.saved_bytes,
        records_kept: report.records.kept(),
        records_dropped: report.records.dropped(),
        damaged_places: report.damaged.len() as u64 + report.damaged_unnamed,
        damaged: report.damaged.clone(),
        rounds_left: match report.rounds {
            Rounds::Done => None,
            Rounds::More { estimate, map_keys } => Some(RoundsLeft { estimate, map_keys }),
        },
    }
}

fn why_not(view: &CompactionView) -> String {
    match view.due {
        Due::No(NotDue::Policy) => "the topic's cleanup.policy does not compact".to_owned(),
        Due::No(NotDue::Clean) => "nothing is dirty".to_owned(),
        Due::No(NotDue::Held) => "all that is dirty is held".to_owned(),
        Due::No(NotDue::BelowRatio) => {
            "the dirty ratio is not above min.cleanable.dirty.ratio, and no promise is due".to_owned()
        }
        Due::No(NotDue::NotCleanable) | Due::Ratio | Due::Promise | Due::Horizon => match view.bound {
            Some(bound) => bound_text(bound),
            None => "nothing is dirty".to_owned(),
        },
    }
}

/// Says what a pass does not go beyond.
pub(super) fn bound_text(bound: Bound) -> String {
    match bound {
        Bound::ActiveSegment => "what is dirty lies in the active segment".to_owned(),
        Bound::OpenTransaction(offset) => format!("a transaction is open since offset {offset}"),
        Bound::MinLag(_) => "min.compaction.lag.ms keeps what is dirty from being cleaned yet".to_owned(),
        Bound::NotSafe(offset) => {
            format!("records from offset {offset} on are not yet synced or not yet visible")
        }
    }
}

fn describe(core: &Core, topic: &Topic, served: &Served) -> LogDescription {
    let number = served.id().partition;
    let holds = topic
        .config
        .holds
        .iter()
        .filter(|hold| hold.is_of(number))
        .cloned()
        .collect();
    let log = &served.log;
    let marks = log.watermarks();
    let below = log.compacted_below();
    let cleaner_point = log.cleaner_point();
    let segment = |view: &crate::storage::SegmentView| LogSegment {
        base: view.base,
        next: view.next,
        size_bytes: view.size_bytes,
        first_append: view.first_append,
        last_append: view.last_append,
        state: match view.role {
            SegmentRole::Active => SegmentState::Active,
            SegmentRole::Sealed if view.next <= cleaner_point => SegmentState::Clean,
            SegmentRole::Sealed => SegmentState::Dirty,
        },
    };
    LogDescription {
        partition: served.id().partition,
        segments: log.segment_views().iter().map(segment).collect(),
        log_start: marks.log_start,
        cleaner_point,
        last_stable: marks.last_stable,
        high_watermark: marks.high_watermark,
        recovery_point: marks.recovery_point,
        log_end: marks.log_end,
        compacted_below: below.records,
        tombstones_gone_below: below.tombstones,
        holds,
        local_start: marks.local_start,
        archive: core.archive_status(served),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::DamagedPlace;
    use crate::types::Offset;

    #[test]
    fn keys_of_a_log_with_damage_are_not_told_as_exact() {
        let view = CompactionView {
            log_start: Offset(0),
            cleaner_point: Offset(3),
            first_uncleanable: Offset(3),
            bound: None,
            clean_bytes: 100,
            dirty_bytes: 0,
            uncleanable_bytes: 0,
            ratio: 0.0,
            deadline: None,
            promise_at: None,
            horizon_at: None,
            roll_at: None,
            dirty_since: None,
            due: Due::No(NotDue::Clean),
            last_pass: None,
            last_error: None,
        };
        let sound = PassReport::default();
        let named = PassReport {
            damaged: vec![DamagedPlace {
                path: "0.log".into(),
                position: 0,
                len_bytes: 70,
                offset: Offset(0),
                reason: "a check failed".to_owned(),
            }],
            ..PassReport::default()
        };
        let unnamed = PassReport {
            damaged_unnamed: 1,
            ..PassReport::default()
        };
        assert_eq!(keys(&view, &sound).exactness, Exactness::Exact);
        let deleted = CompactionView {
            log_start: Offset(1),
            ..view.clone()
        };
        assert_eq!(keys(&deleted, &sound).exactness, Exactness::Estimated);
        assert_eq!(keys(&view, &named).exactness, Exactness::Estimated);
        assert_eq!(keys(&view, &unnamed).exactness, Exactness::Estimated);
    }
}
